import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from skerry.identity import certificate, request
from skerry.identity.authority import DAY_S, Authority, make_key
from skerry.identity.certificate import Issuer, Role, Subject, der_of, identify, subject_of
from skerry.identity.errors import InvalidCertificateError
from tests.identity.parties import FEDERATION, NOW_S, OTHER_FEDERATION, Federation, certificate_of

FED = Federation(NOW_S)
AGENT = Subject(FEDERATION, "agent", "greenhouse-7")


def issued(role: Role, by: Authority, name: str = "greenhouse-7") -> bytes:
    return der_of(by.issue(Subject(by.federation, role, name), make_key().public_key(), NOW_S))


def self_made(*names: x509.GeneralName) -> bytes:
    key = make_key()
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(NOW_S, UTC))
        .not_valid_after(datetime.fromtimestamp(NOW_S, UTC) + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return der_of(builder.sign(key, hashes.SHA256()))


@given(
    st.sampled_from(certificate.ROLES),
    st.from_regex(certificate.NAME, fullmatch=True),
    st.from_regex(certificate.FEDERATION, fullmatch=True),
)
def test_a_certificate_says_whose_it_is(role: Role, name: str, federation: str) -> None:
    subject = Subject(federation, role, name)
    assert subject_of(self_made(x509.UniformResourceIdentifier(subject.uri))) == subject


def test_the_uri_is_the_same_in_every_version() -> None:
    assert AGENT.uri == "skerry://0123456789abcdef/agent/greenhouse-7"


def test_an_issuer_makes_agents_and_the_root_every_role() -> None:
    for role, authority in (("agent", FED.issuer), ("coordinator", FED.root), ("admin", FED.root)):
        found = identify(issued(role, authority), FED.root.certificate)  # type: ignore[arg-type]
        assert found.subject == Subject(FEDERATION, role, "greenhouse-7")  # type: ignore[arg-type]
        by_issuer = Issuer("eu-1", certificate.key_sha256(FED.issuer_owner))
        assert found.issuer == (by_issuer if authority is FED.issuer else None)


@pytest.mark.parametrize("role", ["coordinator", "admin"])
def test_an_issuer_cannot_make_a_coordinator_or_an_operator(role: Role) -> None:
    with pytest.raises(InvalidCertificateError, match=f"root, which alone may make one for the role {role}"):
        identify(issued(role, FED.issuer), FED.root.certificate)


def test_an_issuer_that_takes_the_roots_name_still_cannot() -> None:
    """Method: the certificate names the root as its issuer, but the issuer's key has signed it."""
    forger = Authority(FED.root.certificate, FED.issuer.key)
    with pytest.raises(InvalidCertificateError, match="root"):
        identify(issued("admin", forger), FED.root.certificate)


def test_another_federations_certificate_counts_for_nothing() -> None:
    with pytest.raises(InvalidCertificateError, match="another federation"):
        identify(issued("agent", Federation(NOW_S, OTHER_FEDERATION).issuer), FED.root.certificate)


def test_an_identified_party_is_known_by_its_key_over_renewals() -> None:
    key = make_key()
    first, second = (
        identify(der_of(FED.issuer.issue(AGENT, key.public_key(), at_s)), FED.root.certificate)
        for at_s in (NOW_S, NOW_S + 40 * DAY_S)
    )
    assert first.key_sha256 == second.key_sha256 == certificate.key_sha256(key.public_key())
    assert first.serial != second.serial
    assert (first.not_before_s, first.not_after_s) == (NOW_S - 3600, NOW_S + 90 * DAY_S)


@pytest.mark.parametrize(
    "uri",
    [
        "skerry://0123456789abcdef/agent",
        "skerry://0123456789abcdef/agent/a/b",
        "skerry://0123456789ABCDEF/agent/a",
        "skerry://0123456789abcde/agent/a",
        "skerry://0123456789abcdef/root/a",
        "skerry://0123456789abcdef/issuer/a",
        "skerry://0123456789abcdef/agent/",
        "skerry://0123456789abcdef/agent/..",
        "skerry://0123456789abcdef/agent/" + "a" * 65,
        "skerry://0123456789abcdef/agent/a\n",
        "https://0123456789abcdef/agent/a",
        "skerry:///0123456789abcdef/agent/a",
    ],
)
def test_a_uri_of_another_form_names_nobody(uri: str) -> None:
    with pytest.raises(InvalidCertificateError):
        subject_of(self_made(x509.UniformResourceIdentifier(uri)))


def test_a_certificate_with_no_name_or_two_names_nobody() -> None:
    uri = x509.UniformResourceIdentifier(AGENT.uri)
    for names in ([], [x509.DNSName("localhost")], [uri, uri]):
        with pytest.raises(InvalidCertificateError, match="names no party"):
            subject_of(self_made(*names))


def test_an_authoritys_own_certificate_names_nobody() -> None:
    for authority in (FED.root, FED.issuer):
        with pytest.raises(InvalidCertificateError, match="names no party"):
            subject_of(der_of(authority.certificate))


@given(st.binary(max_size=300), st.integers(0, 3))
def test_only_the_documented_error_comes_of_any_bytes(garbage: bytes, kind: int) -> None:
    whole = GENUINE if kind < 2 else REQUEST
    place = int.from_bytes(garbage[:2]) % len(whole)
    changed = garbage if kind % 2 else whole[:place] + garbage[2:5] + whole[place + 3 :]
    for read in (subject_of, request.public_key):
        with contextlib.suppress(InvalidCertificateError):
            read(changed)


def test_what_is_too_large_is_not_read() -> None:
    with pytest.raises(InvalidCertificateError, match="at most 8192"):
        subject_of(bytes(8193))
    with pytest.raises(InvalidCertificateError, match="at most 4096"):
        request.public_key(bytes(4097))


def test_keys_of_other_kinds_are_refused() -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        with pytest.raises(InvalidCertificateError, match="P-256"):
            request.public_key(asked.public_bytes(Encoding.DER))


def test_a_request_proves_that_the_sender_holds_the_key() -> None:
    key = make_key()
    asked = request.make(key)
    assert certificate.key_sha256(request.public_key(asked)) == certificate.key_sha256(key.public_key())
    with pytest.raises(InvalidCertificateError, match="not signed by its own key"):
        request.public_key(asked[:-1] + bytes([asked[-1] ^ 1]))


def test_a_certificate_lives_as_long_as_its_role_and_no_longer_than_its_authority() -> None:
    ends = {
        role: (FED.root.issue(Subject(FEDERATION, role, "x"), make_key().public_key(), NOW_S)).not_valid_after_utc
        for role in certificate.ROLES
    }
    days = {role: round((end.timestamp() - NOW_S) / DAY_S) for role, end in ends.items()}
    assert days == {"agent": 90, "coordinator": 365, "admin": 365}
    late = FED.issuer.issue(AGENT, make_key().public_key(), NOW_S + 300 * DAY_S)
    assert late.not_valid_after_utc == FED.issuer.certificate.not_valid_after_utc


def test_a_party_shows_what_it_was_given(tmp_path: Path) -> None:
    identity = FED.party(tmp_path, "agent", "greenhouse-7")
    assert subject_of(der_of(certificate_of(identity))) == AGENT


GENUINE = issued("agent", FED.issuer)
REQUEST = request.make(make_key())


def test_a_serial_number_that_is_not_positive_is_no_certificates() -> None:
    """`cryptography` reads it today and complains; a log full of that would be in any stranger's power."""
    der = bytearray(issued("agent", FED.issuer))
    serial = certificate.parse(bytes(der)).serial_number
    at = der.index(serial.to_bytes((serial.bit_length() + 7) // 8, "big"))
    der[at] |= 0x80
    with pytest.raises(InvalidCertificateError, match="cannot be read"):
        certificate.parse(bytes(der))
