"""Bits that rot in an agent's database: it goes on right, if poorer, and says so; or it stops."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent.outbox import Outbox, Update
from edge_agent.store import FILE_NAME, Store, Stored, StoredHead, StoredModel
from skerry.algorithms.uplink import TopK
from skerry.errors import SchemaTooNewError, StateDamagedError
from skerry.protocol.messages import BundleReference, ModelVersion, Plan, Welcome
from skerry.vector import Float32, Layout, Tensor

SIZE = 3000
LAYOUT = Layout((Tensor("w", (SIZE,), 0),))
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
FLIPS_PER_PAGE = 5


def vector(seed: int) -> Float32:
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)


@pytest.fixture(params=["in the log", "in the database"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a database that has something in every table, as a kill leaves it."""
    folder, live = tmp_path / "written", tmp_path / "live"
    live.mkdir()
    store = Store(live / FILE_NAME)
    store.save_task(WELCOME)
    outbox = Outbox(SIZE)
    for sequence in range(1, 6):
        update = Update(sequence, ModelVersion("r/1", 2), 5, 7, 0.5, 0.01, 0.02, b"", 0)
        taken = outbox.take(update, vector(sequence), TopK(density=0.1), LAYOUT)
        store.put_update(taken, outbox.residual if sequence != 5 else None)
        if sequence in {2, 4}:
            store.settle(outbox.settle(sequence, 0.5), accepted=True)
    store.save_model(StoredModel(ModelVersion("r/1", 9), vector(9)))
    store.save_head(StoredHead(ModelVersion("r/1", 9), ("w",), vector(10)[:10]))
    if request.param == "in the database":
        store._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(live, folder, ignore=shutil.ignore_patterns("*-shm"))
    store.close()
    return folder


def started(folder: Path) -> tuple[Stored, list[str]] | None:
    """Open the database as the agent does when it starts; None: it stops."""
    try:
        store = Store(folder / FILE_NAME)
    except StateDamagedError:
        return None
    try:
        said = store.repair()
        return store.load(), said
    except StateDamagedError:
        return None
    finally:
        store.close()


def copy_of(folder: Path) -> Path:
    target = folder.with_name("copy")
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(folder, target))


def comparable(stored: Stored) -> dict[str, Any]:
    model, head, residual = stored.model, stored.head, stored.residual
    return {
        "agent": (stored.last_sequence, stored.uploads, stored.steps, stored.events, stored.welcome),
        "residual": residual is not None and (residual.tobytes(), stored.residual_event, stored.residual_learning_rate),
        "outbox": stored.updates,
        "model": model and (model.version, model.parameters.tobytes()),
        "head": head and (head.version, head.tensors, head.values.tobytes()),
    }


def test_a_flipped_bit_on_any_page_costs_at_most_what_is_said(written: Path) -> None:
    expected = comparable(started_whole(written))
    rng, stopped, repaired = random.Random(3), 0, 0
    for kind, page_bytes in (("", 4096), ("-wal", 24 + 4096)):
        path = written / f"{FILE_NAME}{kind}"
        if not path.exists() or not path.stat().st_size:
            continue
        data = path.read_bytes()
        last = _last_transactions(data) if kind else len(data)
        for page in range(-(-last // page_bytes)):
            for _ in range(FLIPS_PER_PAGE):
                bit = rng.randrange(8 * page * page_bytes, 8 * min(last, (page + 1) * page_bytes))
                copy = copy_of(written)
                (copy / path.name).write_bytes(
                    data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
                )
                try:
                    outcome = started(copy)
                except SchemaTooNewError:
                    assert (kind, page) == ("", 0)
                    continue
                stopped += outcome is None
                if outcome is not None:
                    repaired += bool(outcome[1])
                    check(*outcome, expected)
    assert stopped > 0
    assert repaired > 0 or (written / f"{FILE_NAME}-wal").stat().st_size


def started_whole(folder: Path) -> Stored:
    outcome = started(copy_of(folder))
    assert outcome is not None
    assert outcome[1] == []
    return outcome[0]


def _last_transactions(log: bytes) -> int:
    """Where damage cannot be told from a torn write any more."""
    return [at for at in range(32, len(log), 24 + 4096) if any(log[at + 4 : at + 8])][-3]


def check(stored: Stored, said: list[str], expected: dict[str, Any]) -> None:
    """What is there is as it was, or was said to be given up."""
    given_up = {line.split(": ")[1].split()[0] for line in said}
    found = comparable(stored)
    assert found["agent"] == expected["agent"]
    for part in ("model", "head"):
        assert found[part] == (None if part in given_up else expected[part])
    if "outbox" in given_up:
        assert all(update in expected["outbox"] for update in stored.updates)
    else:
        assert stored.updates == expected["outbox"]
    if given_up & {"outbox", "residual"}:
        assert stored.residual is not None
        assert not stored.residual.any()
        outbox = Outbox(SIZE, stored.events, stored.residual, stored.residual_learning_rate)
        outbox.replay(stored.updates, stored.residual_event)
        assert not outbox.residual.any()  # nothing of what was sent is in it a second time
        assert list(outbox.waiting) == [one.sequence for one in stored.updates if one.settled_event is None]
    else:
        assert found["residual"] == expected["residual"]


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("residual", "learning_rate = 7"),
        ("outbox", "payload = x'00' WHERE sequence = 5"),
        ("model", "number = 10"),
        ("head", "data = zeroblob(40)"),
    ],
)
def test_what_can_be_given_up_is_given_up_and_said(written: Path, table: str, change: str) -> None:
    expected, copy = comparable(started_whole(written)), copy_of(written)
    change_behind_our_back(copy, f"UPDATE {table} SET {change}")
    with closing_store(copy) as store, pytest.raises(StateDamagedError, match=f"a checksum differs in {table}"):
        store.load()  # whoever only looks says so, too
    outcome = started(copy)
    assert outcome is not None
    stored, said = outcome
    assert len(said) == 1
    assert f"state.db: {table} was damaged: " in said[0]
    check(stored, said, expected)
    lost = {5} if table == "outbox" else set()
    assert [one.sequence for one in stored.updates] == [
        one.sequence for one in expected["outbox"] if one.sequence not in lost
    ]
    with closing_store(copy) as store:
        assert store.damage() == ""
        store.put_update(replace(started_whole(written).updates[-1], sequence=6, event=90), vector(1))


def test_what_the_agent_knows_of_itself_is_not_given_up(written: Path) -> None:
    copy = copy_of(written)
    change_behind_our_back(copy, "UPDATE agent SET last_sequence = 1")
    assert started(copy) is None
    with closing_store(copy) as store:
        assert store.damage() == "a checksum in agent"
        with pytest.raises(StateDamagedError, match=r"agent: move state.db\* away to start afresh") as refused:
            store.load()
        assert refused.value.exit_code == 6


@pytest.mark.parametrize("table", ["residual", "outbox", "model", "head"])
def test_damage_is_found_before_a_migration_gives_it_a_checksum(
    written: Path, table: str, later_schema: Callable[[str], None]
) -> None:
    expected, copy = comparable(started_whole(written)), copy_of(written)
    change = "payload = x'00' WHERE sequence = 5" if table == "outbox" else "data = zeroblob(length(data))"
    change_behind_our_back(copy, f"UPDATE {table} SET {change}")
    later_schema(f"UPDATE {table} SET rowid = rowid;")
    outcome = started(copy)
    assert outcome is not None
    stored, said = outcome
    assert [line.split(": ")[1] for line in said] == [f"{table} was damaged"]
    check(stored, said, expected)


def test_what_the_agent_knows_of_itself_is_not_migrated_damaged(
    written: Path, later_schema: Callable[[str], None]
) -> None:
    copy = copy_of(written)
    change_behind_our_back(copy, "UPDATE agent SET last_sequence = 1")
    later_schema("UPDATE agent SET id = id;")
    with pytest.raises(StateDamagedError, match=r"a checksum differs in agent: move state.db\* away"):
        Store(copy / FILE_NAME)
    with pytest.raises(StateDamagedError):  # it is as it was
        Store(copy / FILE_NAME)


def closing_store(folder: Path) -> closing[Store]:
    return closing(Store(folder / FILE_NAME))


def change_behind_our_back(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as db:
        db.create_function("row_crc", -1, lambda *_: 7, deterministic=True)
        assert db.execute(statement).rowcount == 1


def test_every_value_of_every_table_is_covered(tmp_path: Path) -> None:
    Store(tmp_path / FILE_NAME).close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        tables = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall()
        assert len(tables) >= 5
        for table, definition in tables:
            columns = [name for (name,) in db.execute(f"SELECT name FROM pragma_table_xinfo('{table}')")]
            covered = definition.partition("row_crc(")[2].partition(")")[0]
            assert [name.strip() for name in covered.split(",")] == columns[:-1], table
