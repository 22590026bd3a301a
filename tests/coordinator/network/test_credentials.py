"""Where a coordinator is found, by its own certificate."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coordinator.config import CoordinatorConfig, Listen
from coordinator.credentials import Credentials, check_peers, credentials_of
from coordinator.service import Service
from skerry.errors import ConfigError
from skerry.identity import key_file
from skerry.identity.authority import make_key
from skerry.identity.certificate import Subject, pem_of
from skerry.identity.errors import IdentityError
from skerry.identity.key_file import IdentityFolder
from tests.identity.parties import Federation


def known_by(tmp_path: Path, *addresses: str) -> Credentials:
    federation = Federation(time.time())
    folder = federation.party(tmp_path, "coordinator", "eu")
    key = make_key()
    subject = Subject(federation.root.federation, "coordinator", "eu")
    certificate = federation.root.issue(subject, key.public_key(), time.time(), addresses=addresses)
    IdentityFolder(tmp_path).write_key(key_file.KEY, key)
    folder.write(key_file.CERTIFICATE, pem_of(certificate))
    return Credentials(folder, "eu", time.time())


@pytest.mark.parametrize(
    ("addresses", "url"),
    [
        (("eu.example.org", "192.0.2.7", "localhost"), "https://eu.example.org:8470"),
        (("192.0.2.7", "eu.example.org"), "https://192.0.2.7:8470"),
        (("2001:db8::7", "localhost"), "https://[2001:db8::7]:8470"),
    ],
)
def test_it_is_found_at_the_first_address_of_its_certificate(
    tmp_path: Path, addresses: tuple[str, ...], url: str
) -> None:
    assert known_by(tmp_path, *addresses).url(8470) == url


def test_a_certificate_without_an_address_says_so(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="names no address: join again"):
        known_by(tmp_path).url(8470)


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({}, "https://eu.example.org:8470"),
        ({"url": "https://balancer.example.org"}, "https://balancer.example.org"),
        ({"listen": Listen(port=0)}, None),  # known only when it listens: of tests and labs
        ({"insecure": True}, None),
    ],
)
def test_agents_are_told_where_unless_nobody_knows(tmp_path: Path, changes: dict[str, Any], url: str | None) -> None:
    credentials = known_by(tmp_path / "identity", "eu.example.org")
    config = CoordinatorConfig(name="eu", region="eu", bundle="builtin:activity", state_dir=tmp_path)
    service = Service(msgspec.structs.replace(config, **changes))
    service.credentials = None if changes.get("insecure") else credentials
    assert service.url() == url


def test_before_there_is_an_identity_both_ways_to_one_are_named(tmp_path: Path) -> None:
    config = CoordinatorConfig(name="eu", region="europe", bundle="builtin:activity", identity_dir=tmp_path)
    with pytest.raises(IdentityError, match=r"coordinator init --address HOST.*coordinator join URL"):
        credentials_of(config, time.time)
    assert credentials_of(msgspec.structs.replace(config, insecure=True), time.time) is None


@pytest.mark.parametrize(
    ("own", "peer", "same"),
    [
        ({"url": "https://eu.example.org"}, "https://eu.example.org:443/", True),
        ({"url": "https://eu.example.org"}, "http://eu.example.org", False),  # port 80
        ({"url": "https://eu.example.org"}, "https://us.example.org", False),
        ({"url": "https://eu.example.org"}, "https://eu.example.org:none", False),
        ({"listen": Listen("127.0.0.1", 8470)}, "http://127.0.0.1:8470", True),
        ({"listen": Listen("::1", 8470)}, "http://[::1]:8470", True),
        ({"listen": Listen("127.0.0.1", 8470)}, "http://127.0.0.1:8471", False),
        ({"listen": Listen("127.0.0.1", 0)}, "http://127.0.0.1:80", False),
    ],
)
def test_a_peer_where_the_coordinator_itself_is_reached_or_listens_is_refused(
    own: dict[str, Any], peer: str, same: bool
) -> None:
    expected = pytest.raises(ValueError, match=r"peers\.us: .*this coordinator itself") if same else nullcontext()
    with expected:
        CoordinatorConfig(name="eu", region="eu", bundle="builtin:activity", peers={"us": peer}, **own)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, True),
        ({"url": "https://balancer.example.org"}, False),
        ({"listen": Listen(port=0)}, False),
        ({"listen": Listen(port=8471)}, False),
    ],
)
def test_a_peer_at_the_address_in_the_own_certificate_is_refused(
    tmp_path: Path, changes: dict[str, Any], refused: bool
) -> None:
    credentials = known_by(tmp_path, "eu.example.org", "localhost")
    peers = {"us": "https://us.example.org:8470", "own": "https://EU.example.org:8470/"}
    config = CoordinatorConfig(name="eu", region="eu", bundle="builtin:activity", peers=peers)
    check_peers(config, None)
    expected = pytest.raises(ConfigError, match=r"peers\.own: .*this coordinator itself") if refused else nullcontext()
    with expected:
        check_peers(msgspec.structs.replace(config, **changes), credentials)
