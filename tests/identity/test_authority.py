import pytest
from cryptography import x509

from skerry.errors import ConfigError
from skerry.identity.authority import make_key
from skerry.identity.certificate import Subject, fingerprint
from tests.identity.parties import FEDERATION, NOW_S, Federation

FED = Federation(NOW_S)
EU = Subject(FEDERATION, "coordinator", "eu-1")


def test_a_server_names_every_address_once() -> None:
    addresses = ["eu.example.org", "10.0.0.7", "::1", "eu.example.org", "edge_1"]
    made = FED.root.issue(EU, make_key().public_key(), NOW_S, addresses=addresses)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["eu.example.org", "edge_1"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.0.0.7", "::1"]


@pytest.mark.parametrize(
    "text", ["", "https://eu.example.org", "eu.example.org:8470", "a b", "-a", "a..b", "a" * 64, "\u00e4.org"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no host name and no IP address"):
        FED.root.issue(EU, make_key().public_key(), NOW_S, addresses=[text])


def test_an_authority_says_which_federation_it_is_of() -> None:
    assert FED.root.federation == FED.issuer.federation == FEDERATION


def test_its_representation_holds_no_key() -> None:
    assert "key" not in repr(FED.issuer)


def test_two_federations_have_two_fingerprints() -> None:
    assert fingerprint(FED.root.certificate) != fingerprint(Federation(NOW_S).root.certificate)
    assert len(fingerprint(FED.root.certificate)) == 32
