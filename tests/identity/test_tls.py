import ssl
import time
from pathlib import Path

import pytest

from skerry.identity import key_file, tls
from skerry.identity.authority import Authority, make_key
from skerry.identity.certificate import Subject, der_of, pem_of, subject_of
from skerry.identity.errors import IdentityError
from skerry.identity.key_file import IdentityFolder
from tests.identity.parties import FEDERATION, Federation, shake_hands

# OpenSSL looks at the machine's clock.
NOW_S = time.time()
DAY_S = 86400.0
FED = Federation(NOW_S)


@pytest.fixture
def server(tmp_path: Path) -> ssl.SSLContext:
    return tls.server_context(FED.party(tmp_path / "eu-1", "coordinator", "eu-1"))


@pytest.fixture
def agent(tmp_path: Path) -> IdentityFolder:
    return FED.party(tmp_path / "greenhouse-7", "agent", "greenhouse-7")


def test_an_agent_is_known_by_what_the_coordinators_issuer_signed(
    server: ssl.SSLContext, agent: IdentityFolder
) -> None:
    shown = shake_hands(server, tls.client_context(agent))
    assert shown is not None
    assert subject_of(shown) == Subject(FEDERATION, "agent", "greenhouse-7")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_peers_know_each_other(server: ssl.SSLContext, tmp_path: Path, host: str) -> None:
    peer = FED.party(tmp_path / "us-1", "coordinator", "us-1")
    shown = shake_hands(server, tls.client_context(peer), host)
    assert shown is not None
    assert subject_of(shown).role == "coordinator"


def test_who_has_no_certificate_may_connect_and_is_nobody(server: ssl.SSLContext) -> None:
    assert shake_hands(server, tls.joining_context(pem_of(FED.root.certificate).decode())) is None


def test_a_server_is_not_believed_under_an_address_that_it_does_not_have(
    server: ssl.SSLContext, agent: IdentityFolder
) -> None:
    for client in (tls.client_context(agent), tls.joining_context(pem_of(FED.root.certificate).decode())):
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            shake_hands(server, client, "elsewhere.example.org")


def test_a_foreign_client_is_refused(server: ssl.SSLContext, tmp_path: Path) -> None:
    """Method: it trusts our server, but its own certificate is of another federation."""
    foreign = Federation(NOW_S).party(tmp_path / "foreign", "admin", "root")
    foreign.write(key_file.ROOT, pem_of(FED.root.certificate))
    with pytest.raises(ssl.SSLError, match=r"(?i)verify failed|unknown.ca|signature failure"):
        shake_hands(server, tls.client_context(foreign))


def test_a_foreign_server_is_refused(agent: IdentityFolder, tmp_path: Path) -> None:
    foreign = tls.server_context(Federation(NOW_S).party(tmp_path / "foreign", "coordinator", "eu-1"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(foreign, tls.client_context(agent))


def test_an_issuer_cannot_make_a_server(agent: IdentityFolder, tmp_path: Path) -> None:
    """What a malicious peer could try: sign a server of any address with the authority that it holds for devices."""
    forged = tls.server_context(FED.party(tmp_path / "forged", "coordinator", "us-1", authority=FED.issuer))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)purpose"):
        shake_hands(forged, tls.client_context(agent))


def test_an_agents_certificate_makes_no_server(agent: IdentityFolder, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)purpose"):
        shake_hands(tls.server_context(agent), tls.client_context(agent))


def test_an_issuer_cannot_make_another_issuer(server: ssl.SSLContext, tmp_path: Path) -> None:
    key = make_key()
    below = Authority(FED.issuer.issue_issuer("us-1", key.public_key(), NOW_S, key.public_key()), key)
    identity = FED.party(tmp_path / "far", "agent", "far", authority=below)
    identity.write(
        key_file.CERTIFICATE,
        identity.read(key_file.CERTIFICATE) + pem_of(FED.issuer.certificate),
    )
    with pytest.raises(ssl.SSLCertVerificationError, match="path length"):
        shake_hands(server, tls.client_context(identity))


@pytest.mark.parametrize(("since_days", "days"), [(-91, 90), (2, 90)])
def test_a_certificate_counts_only_in_its_time(
    server: ssl.SSLContext, tmp_path: Path, since_days: float, days: float
) -> None:
    """One that has expired, and one of the days to come."""
    fed_of_then = Federation(NOW_S - 100 * DAY_S)
    late = tls.server_context(fed_of_then.party(tmp_path / "s", "coordinator", "eu-1", now_s=NOW_S))
    identity = fed_of_then.party(
        tmp_path / "a", "agent", "a", now_s=NOW_S + since_days * DAY_S, lifetime_s=days * DAY_S
    )
    with pytest.raises(ssl.SSLCertVerificationError, match=r"expired|not yet valid"):
        shake_hands(late, tls.client_context(identity))


def test_a_clock_that_is_half_an_hour_slow_does_no_harm(server: ssl.SSLContext, tmp_path: Path) -> None:
    early = FED.party(tmp_path / "early", "agent", "early", now_s=NOW_S + 1800)
    assert shake_hands(server, tls.client_context(early)) is not None


def test_older_tls_is_refused(server: ssl.SSLContext, agent: IdentityFolder) -> None:
    client = tls.client_context(agent)
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        shake_hands(server, client)
    for context in (server, tls.joining_context(pem_of(FED.root.certificate).decode()), tls.unverified_context()):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_renewed_certificate_is_shown_without_another_context(server: ssl.SSLContext, agent: IdentityFolder) -> None:
    client = tls.client_context(agent)
    before = shake_hands(server, client)
    key = agent.key(key_file.KEY)
    renewed = FED.issuer.issue(Subject(FEDERATION, "agent", "greenhouse-7"), key.public_key(), NOW_S)
    agent.write(key_file.CERTIFICATE, pem_of(renewed, FED.issuer.certificate))
    tls.reload(client, agent)
    after = shake_hands(server, client)
    assert before != after == der_of(renewed)


def test_a_damaged_renewal_leaves_the_context_as_it_was(server: ssl.SSLContext, agent: IdentityFolder) -> None:
    client = tls.client_context(agent)
    before = shake_hands(server, client)
    whole = agent.read(key_file.CERTIFICATE)
    other = FED.issuer.issue(Subject(FEDERATION, "agent", "greenhouse-7"), make_key().public_key(), NOW_S)
    for damaged in (pem_of(other), whole[:300], b""):
        agent.write(key_file.CERTIFICATE, damaged)
        with pytest.raises(IdentityError, match="join again"):
            tls.reload(client, agent)
        assert shake_hands(server, client) == before


def test_a_key_that_others_may_read_opens_no_connection(agent: IdentityFolder) -> None:
    (agent.path / key_file.KEY).chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        tls.client_context(agent)


@pytest.mark.parametrize("name", [key_file.KEY, key_file.CERTIFICATE, key_file.ROOT])
def test_a_missing_file_is_named(agent: IdentityFolder, name: str) -> None:
    (agent.path / name).unlink()
    with pytest.raises(IdentityError, match=f"{name}: is missing"):
        tls.client_context(agent)
