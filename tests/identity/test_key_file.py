import os
import stat
from pathlib import Path

import pytest

from skerry.errors import StorageError
from skerry.identity import key_file
from skerry.identity.authority import make_key
from skerry.identity.certificate import key_sha256, pem_of
from skerry.identity.errors import IdentityError
from skerry.identity.key_file import IdentityFolder
from tests.identity.parties import NOW_S, Federation

FED = Federation(NOW_S)


@pytest.fixture
def identity(tmp_path: Path) -> IdentityFolder:
    return FED.party(tmp_path / "identity", "agent", "greenhouse-7")


def test_a_key_is_for_its_owner_alone(identity: IdentityFolder) -> None:
    assert stat.S_IMODE((identity.path / key_file.KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE(identity.path.stat().st_mode) == 0o700


def test_a_key_that_was_open_to_others_is_closed_when_it_is_written_again(identity: IdentityFolder) -> None:
    (identity.path / key_file.KEY).chmod(0o644)
    identity.write_key(key_file.KEY, make_key())
    assert stat.S_IMODE((identity.path / key_file.KEY).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_may_read_is_refused_with_the_remedy(identity: IdentityFolder, mode: int) -> None:
    path = identity.path / key_file.KEY
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {path}"):
        identity.key(key_file.KEY)


def test_a_key_that_was_written_is_read(tmp_path: Path) -> None:
    key = make_key()
    folder = IdentityFolder(tmp_path)
    folder.write_key(key_file.KEY, key)
    assert key_sha256(folder.key(key_file.KEY).public_key()) == key_sha256(key.public_key())


def test_a_credential_goes_before_a_file_and_has_the_mode_that_systemd_gives(
    identity: IdentityFolder, tmp_path: Path
) -> None:
    key = make_key()
    credentials = IdentityFolder(tmp_path / "credentials")
    credentials.write_key(key_file.KEY, key)
    (credentials.path / key_file.KEY).chmod(0o440)
    both = IdentityFolder(identity.path, credentials.path)
    assert key_sha256(both.key(key_file.KEY).public_key()) == key_sha256(key.public_key())
    assert both.certificates(key_file.CERTIFICATE) == identity.certificates(key_file.CERTIFICATE)


def test_what_is_missing_is_named_with_the_remedy(tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path)
    for read in (folder.read, folder.key, folder.certificates):
        with pytest.raises(IdentityError, match=r"key\.pem: is missing: .* join it") as caught:
            read(key_file.KEY)
        assert caught.value.exit_code == 7


def test_what_is_damaged_is_named_and_not_repeated(identity: IdentityFolder) -> None:
    text = (identity.path / key_file.KEY).read_text()
    secret = text.splitlines()[1]
    identity.write(key_file.KEY, text.replace(secret[:8], "AAAAAAAA").encode(), secret=True)
    with pytest.raises(IdentityError, match="no private key on P-256") as caught:
        identity.key(key_file.KEY)
    assert caught.value.__cause__ is None
    identity.write(key_file.CERTIFICATE, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(IdentityError, match="holds no certificate"):
        identity.certificates(key_file.CERTIFICATE)
    identity.write(key_file.CERTIFICATE, bytes(key_file.FILE_BYTES_MAX + 1))
    with pytest.raises(IdentityError, match="larger than 65536 bytes"):
        identity.certificates(key_file.CERTIFICATE)


def test_an_authority_is_a_key_and_its_own_certificate(tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path)
    folder.write_key(key_file.ISSUER_KEY, FED.issuer.key)
    folder.write(key_file.ISSUER, pem_of(FED.issuer.certificate))
    assert folder.authority(key_file.ISSUER_KEY, key_file.ISSUER).certificate == FED.issuer.certificate
    folder.write(key_file.ISSUER, pem_of(FED.root.certificate))
    with pytest.raises(IdentityError, match="is not the key of"):
        folder.authority(key_file.ISSUER_KEY, key_file.ISSUER)


def test_a_disk_that_refuses_is_told_and_leaves_what_was_there(identity: IdentityFolder) -> None:
    before = identity.read(key_file.ROOT)
    (identity.path / "root.pem.tmp").mkdir()
    (identity.path / "root.pem.tmp" / "in the way").touch()
    with pytest.raises(StorageError, match=r"root\.pem: cannot be written"):
        identity.write(key_file.ROOT, b"new")
    assert identity.read(key_file.ROOT) == before


def test_what_a_killed_writer_left_is_no_hindrance(identity: IdentityFolder) -> None:
    (identity.path / "root.pem.tmp").write_bytes(b"half")
    identity.write(key_file.ROOT, b"new")
    assert identity.read(key_file.ROOT) == b"new"
    assert not (identity.path / "root.pem.tmp").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_into_a_services_state_belongs_to_the_service(tmp_path: Path) -> None:
    os.chown(tmp_path, 61_234, 61_235)  # as systemd does for a dynamic user
    identity = FED.party(tmp_path / "identity", "agent", "greenhouse-7")
    written = [identity.path, *identity.path.iterdir()]
    assert len(written) > 1
    assert {(path.stat().st_uid, path.stat().st_gid) for path in written} == {(61_234, 61_235)}
    os.chown(identity.path, 61_236, 61_236)
    identity.write(key_file.ROOT, b"new")
    assert (identity.path / key_file.ROOT).stat().st_uid == 61_236
