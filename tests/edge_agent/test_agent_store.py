import sqlite3
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent.outbox import Update
from edge_agent.store import Store, StoredModel
from skerry.algorithms.error_feedback import lasting_share
from skerry.errors import SchemaTooNewError, StorageError
from skerry.protocol.messages import BundleReference, ModelVersion, Plan, Welcome

VECTOR = np.array([1.0, -2.0, 3.5], np.float32)
WELCOME = Welcome(
    protocol_major=1,
    protocol_minor=0,
    coordinator="c",
    region="r",
    bundle=BundleReference("0" * 64, 10),
    recipe={"merge": {"rule": "next_cycle"}},
    plan=Plan(1.0, 0.05),
    last_sequence=0,
    partial=None,
    part_bytes_max=1000,
)


def update(sequence: int, event: int, settled_event: int | None = None, weight: float | None = None) -> Update:
    base = ModelVersion("r/1", 2)
    return Update(sequence, base, 5, 7, 0.5, 0.01, 0.02, b"payload", event, settled_event, weight)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_what_was_written_is_read_again(path: Path) -> None:
    store = Store(path)
    store.save_task(WELCOME)
    store.put_update(update(1, 1), VECTOR)
    store.put_update(replace(update(2, 2), whole=True), None)
    store.settle(update(1, 1, 3, 0.25), accepted=True)
    store.save_model(StoredModel(ModelVersion("r/1", 9), VECTOR * 2))
    store.close()
    stored = Store(path).load()
    assert (stored.last_sequence, stored.uploads, stored.events, stored.steps) == (2, 1, 3, 10)
    assert stored.welcome == WELCOME
    assert stored.updates == [update(1, 1, 3, 0.25), replace(update(2, 2), whole=True)]
    assert stored.residual is not None
    np.testing.assert_array_equal(stored.residual, VECTOR)
    assert (stored.residual_event, stored.residual_learning_rate) == (1, 0.02)
    assert stored.model is not None
    assert stored.model.version.number == 9
    np.testing.assert_array_equal(stored.model.parameters, VECTOR * 2)


def test_a_settled_update_goes_away_with_the_next_residual(path: Path) -> None:
    store = Store(path)
    store.put_update(update(1, 1), VECTOR)
    store.settle(update(1, 1, 2, 0.25), accepted=True)
    store.put_update(update(2, 3), VECTOR)
    assert [kept.sequence for kept in store.load().updates] == [2]


def test_another_task_forgets_everything_but_the_sequence_numbers(path: Path) -> None:
    store = Store(path)
    store.put_update(update(5, 1), VECTOR)
    store.save_model(StoredModel(ModelVersion("r/1", 9), VECTOR))
    store.adopt_task(WELCOME)
    stored = store.load()
    assert stored.last_sequence == 5
    assert (stored.uploads, stored.steps) == (0, 0)
    assert stored.updates == []
    assert stored.residual is None
    assert stored.model is None
    assert stored.welcome == WELCOME


def test_numbers_never_fall_back(path: Path) -> None:
    store = Store(path)
    store.continue_after(10)
    store.continue_after(4)
    assert store.load().last_sequence == 10


def test_a_write_that_fails_changes_nothing(path: Path) -> None:
    store = Store(path)
    store.put_update(update(1, 1), VECTOR)
    with pytest.raises(StorageError, match=r"state\.db: UNIQUE"):
        store.put_update(update(1, 2), VECTOR * 9)
    stored = store.load()
    assert (stored.events, stored.steps) == (1, 5)
    assert stored.residual is not None
    np.testing.assert_array_equal(stored.residual, VECTOR)


def test_a_commit_that_fails_leaves_no_transaction_open(path: Path) -> None:
    store = Store(path)
    database = store._database
    database.connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    database.connection.execute("CREATE TABLE child (parent REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(StorageError, match=r"state\.db: FOREIGN KEY"), database.transaction():
        database.connection.execute("INSERT INTO child VALUES (1)")
    store.put_update(update(1, 1), VECTOR)
    assert database.connection.execute("SELECT count(*) FROM child").fetchone() == (0,)


def test_a_database_of_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(SchemaTooNewError, match="newer Skerry"):
        Store(path)
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_old_schema(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(path).close()
    scripts = [path.read_text() for path in sorted(Path("edge_agent/schema").glob("*.sql"))]
    monkeypatch.setattr(
        "skerry.database._schema", lambda package: [*scripts, "CREATE TABLE more (id); CREATE TABLE agent (id);"]
    )
    with pytest.raises(StorageError):
        Store(path)
    monkeypatch.undo()
    store = Store(path)
    assert store.load().last_sequence == 0
    monkeypatch.setattr("skerry.database._schema", lambda package: [*scripts, "CREATE TABLE more (id);"])
    store.close()
    Store(path).close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(scripts) + 1,)
        assert db.execute("SELECT count(*) FROM more").fetchone() == (0,)
    db.close()


def test_a_database_from_before_the_schedules_begins_them(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(Path("edge_agent/schema/001_outbox.sql").read_text() + "PRAGMA user_version = 1;")
        db.execute("UPDATE agent SET last_sequence = 7, uploads = 6, events = 13")
        db.execute("INSERT INTO residual VALUES (1, 13, ?)", [VECTOR.tobytes()])
    db.close()
    store = Store(path)
    store.put_update(update(8, 14), None)
    stored = store.load()
    assert (stored.last_sequence, stored.uploads, stored.steps) == (8, 6, 5)
    assert stored.residual is not None
    np.testing.assert_array_equal(stored.residual, VECTOR)


def test_what_was_learned_before_rates_were_kept_counts_in_full(path: Path) -> None:
    with sqlite3.connect(path) as db:
        scripts = sorted(Path("edge_agent/schema").glob("*.sql"))[:3]
        db.executescript("".join(script.read_text() for script in scripts) + "PRAGMA user_version = 3;")
        db.execute("INSERT INTO residual VALUES (1, 13, ?)", [VECTOR.tobytes()])
        db.execute("INSERT INTO outbox VALUES (7, 'r/1', 2, 5, 7, 0.5, 0.01, x'00', 13, NULL, NULL)")
    db.close()
    stored = Store(path).load()
    (waiting,) = stored.updates
    assert (waiting.payload, waiting.event, waiting.learning_rate, waiting.whole) == (b"\0", 13, 0.0, False)
    assert stored.residual is not None
    assert stored.residual_learning_rate == 0.0
    assert lasting_share(stored.residual_learning_rate, 0.02) == 1.0


def test_no_database_is_an_error_that_names_the_file(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match=r"state\.db: file is not a database"):
        Store(path)


def test_writes_wait_for_the_disk(path: Path) -> None:
    store = Store(path)
    assert store._database.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._database.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
