"""What was answered is on disk: a registry that is opened again decides as the one before."""

from pathlib import Path

from coordinator.enrolment.records import PartyRow, Revocation, TokenRow
from coordinator.enrolment.store import EnrolmentStore

TOKEN = TokenRow("00" * 8, bytes(32), "agent", "eu", None, 3, 0, 1.0, 2.0, 0)
PARTY = PartyRow("agent", "pi", "a" * 64, "eu", "pi", "00" * 8, 1.0, 2.0, "1f")


def test_rows_are_there_after_a_restart(tmp_path: Path) -> None:
    store = EnrolmentStore(tmp_path)
    with store.transaction():
        store.put_token(TOKEN)
        store.put_token(TOKEN._replace(used=2, revoked=1))
        store.put_token(TOKEN._replace(identifier="11" * 8, name="pi", role="coordinator"))
        store.put_party(PARTY, b"first")
        store.put_party(PARTY._replace(serial="2f"), b"second")
        store.put_title(PARTY._replace(title="Kitchen"))
        store.put_revocation(Revocation("agent", "pi", "b" * 64), 5.0)
        store.put_revocation(Revocation("agent", "pi", "b" * 64), 6.0)
    store.close()
    store = EnrolmentStore(tmp_path)
    assert store.tokens() == [
        TOKEN._replace(used=2, revoked=1),
        TOKEN._replace(identifier="11" * 8, name="pi", role="coordinator"),
    ]
    assert store.parties() == [PARTY._replace(serial="2f", title="Kitchen")]
    assert store.answer(PARTY) == b"second"
    assert store.answer(PARTY._replace(key="b" * 64)) is None
    assert store.revocations() == [Revocation("agent", "pi", "b" * 64)]
    with store.transaction():
        store.forget_token("00" * 8)
    assert [one.identifier for one in store.tokens()] == ["11" * 8]
    store.close()


def test_the_secret_is_nowhere_on_disk(tmp_path: Path) -> None:
    """Its hash alone is: who reads the database cannot join."""
    from skerry.identity.join_token import secret_sha256

    secret = b"sixteen bytes ok"
    store = EnrolmentStore(tmp_path)
    with store.transaction():
        store.put_token(TOKEN._replace(secret_sha256=secret_sha256(secret)))
    store.close()
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret not in files
    assert secret_sha256(secret) in files
