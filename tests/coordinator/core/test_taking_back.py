"""An update that two regions took is taken back in one of them: on disk as in memory, to the last bit, once."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.config import Checkpoints
from coordinator.engine import Engine
from coordinator.events import FindUpdate, LedgerAsked, PeerLedgerArrived, UpdateFound
from coordinator.history import read_history
from coordinator.recovery import rebuild
from coordinator.store import Batch, JournalRow, Store
from coordinator.taking_back import found
from skerry.algorithms.arrival import FedBuff
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation
from skerry.errors import StorageError
from skerry.protocol import ledger_lines
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.messages import PeerLedger
from skerry.recipe import Recipe

SPARSE_CHECKPOINTS = Checkpoints(every_updates=1 << 30, every_s=1e9)
HOLDS = Recipe(arrival=FedBuff(size=3), downlink=Newest(), federation=NoFederation())


async def until(engine: Engine, condition: Callable[[], bool]) -> None:
    """Have groups worked on until `condition`."""
    async with asyncio.timeout(20):
        while not condition():
            await engine.ask(LedgerAsked(""))


def told_elsewhere(*sequences: int) -> PeerLedgerArrived:
    return PeerLedgerArrived("there-1", [LedgerLine("kite", sequence, 0.25, 1) for sequence in sequences])


async def test_the_model_is_as_if_it_had_not_been_taken_and_replay_gives_the_same(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, tmp_path: Path
) -> None:
    config, outlet = config_of(checkpoints=SPARSE_CHECKPOINTS), new_listener()
    async with open_engine(config, outlet) as engine:
        for sequence in (1, 2, 3):
            engine.submit(words.update("kite", sequence, engine.version))
        await outlet.until_accepted(3)
        engine.submit(told_elsewhere(2))
        engine.submit(told_elsewhere(2))
        await until(engine, lambda: engine.version.number == 4)
        engine.submit(words.update("kite", 2, engine.version))
        await outlet.until_accepted(4)
        taken_back, age = engine.model().values, engine.age
        replayed = rebuild(config.state_dir, 4)
    assert outlet.accepted()[-1].weight == 0.25  # what the region says that has it
    rows = {row.sequence: row for row in read_history(config.state_dir).updates}
    (back,) = read_history(config.state_dir).taken_back
    assert (back.version, back.device, back.sequence, back.weight) == (4, "kite", 2, -(rows[2].weight or 0.0))
    assert age == back.age == 2.0
    without = words.initial()
    for sequence in (1, 3):
        sent = words.update("kite", sequence, engine.version).vector
        without[sent.indices] += np.float32(rows[sequence].weight) * sent.values
    np.testing.assert_allclose(taken_back, without, atol=1e-6)
    assert replayed.tobytes() == taken_back.tobytes()
    async with open_engine(config, new_listener()) as again:
        assert again.model().values.tobytes() == taken_back.tobytes()
        again.submit(told_elsewhere(2))
        lines = await again.ask(LedgerAsked(""))
        assert isinstance(lines, PeerLedger)
        assert ledger_lines.decode(lines.lines) == []
        assert again.version.number == 4


async def test_what_peers_are_told_is_on_the_disk(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    config, outlet = config_of(), new_listener()
    async with open_engine(config, outlet) as engine:
        engine.submit(words.update("kite", 1, engine.version, moves=1))
        answer = await engine.ask(LedgerAsked(""))  # behind the update, in the same group
        assert isinstance(answer, PeerLedger)
        (line,) = ledger_lines.decode(answer.lines)
        with closing(sqlite3.connect(config.state_dir / "coordinator.db")) as db:
            rows = db.execute("SELECT sender, sequence, weight FROM journal").fetchall()
        assert rows == [(line.device, line.sequence, line.weight)]
        assert answer.up_to == engine.peer_status("0" * 64).ledger


async def test_one_that_is_held_leaves_no_trace(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    config, outlet = config_of(HOLDS), new_listener()
    async with open_engine(config, outlet) as engine:
        for sequence in (1, 2):
            engine.submit(words.update("kite", sequence, engine.version))
        await outlet.until_accepted(2)
        engine.submit(told_elsewhere(1))
        await until(engine, lambda: engine.status().held_updates == 1)
    async with open_engine(config, outlet) as engine:
        assert engine.status().held_updates == 1
        for sequence in (3, 4):
            engine.submit(words.update("kite", sequence, engine.version))
        await outlet.until_accepted(4)
        assert engine.version.number == 3
    assert [row.sequence for row in read_history(config.state_dir).updates] == [2, 3, 4]


async def test_one_that_was_held_and_let_go_is_taken_back_by_whoever_was_stopped_before_it_answered(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    config, outlet = config_of(HOLDS), new_listener()
    async with open_engine(config, outlet) as engine:
        for sequence in (1, 2, 3):
            engine.submit(words.update("kite", sequence, engine.version))
        await outlet.until_accepted(3)
        assert engine.version.number == 3
    async with open_engine(config, outlet) as engine:
        engine.submit(told_elsewhere(1, 3))  # held before, and what completed the buffer
        await until(engine, lambda: engine.version.number == 5)
        assert engine.age == 1.0
        taken_back = engine.model().values
    history = read_history(config.state_dir)
    assert [row.sequence for row in history.taken_back] == [1, 3]
    weights = {row.sequence: row.weight for row in history.updates}
    assert [-row.weight for row in history.taken_back] == [weights[1], weights[3]]
    without, sent = words.initial(), words.update("kite", 2, engine.version).vector
    without[sent.indices] += np.float32(weights[2]) * sent.values
    np.testing.assert_allclose(taken_back, without, atol=1e-6)
    assert rebuild(config.state_dir, 5).tobytes() == taken_back.tobytes()


async def test_what_is_published_in_the_same_group_holds_the_update_no_more(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    """The vector that is taken back is there for a publication that is made before it is in the model."""
    config, outlet = config_of(checkpoints=SPARSE_CHECKPOINTS), new_listener()
    async with open_engine(config, outlet) as engine:
        for sequence in range(1, 9):
            engine.submit(words.update("kite", sequence, engine.version, moves=sequence % 2))
        engine.submit(PeerLedgerArrived("there-1", [LedgerLine("kite", n, 0.25, 2) for n in range(1, 9)]))
        await until(engine, lambda: engine.version.number == 16)
        np.testing.assert_allclose(engine.model().values, words.initial(), atol=1e-6)
        assert engine.age == 0.0
    assert rebuild(config.state_dir, 16).tobytes() == engine.model().values.tobytes()


def journal_row(kind: str, payload: bytes) -> JournalRow:
    return JournalRow(1, 1, kind, "kite", 1, 0, 0.5, 1.0, 1, 1, 0.5, 0.1, 0.0, 9, 0.0, payload)


@pytest.mark.parametrize("kind", ["model", "merge"])
def test_what_is_no_difference_is_not_found(tmp_path: Path, kind: str) -> None:
    store = Store(tmp_path)
    store.write(Batch(journal=[journal_row(kind, b"")]))
    assert found(store, FindUpdate("kite", 1), 64).vector is None
    assert found(store, FindUpdate("kite", 2), 64) == UpdateFound("kite", 2)
    store.close()


def test_what_counted_in_a_robust_mean_is_not_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(Batch(journal=[journal_row("update", b"")._replace(buffer_version=1, trim=0.1)]))
    assert found(store, FindUpdate("kite", 1), 64).vector is None
    store.close()


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(Batch(journal=[journal_row("update", b"x")]))
    with pytest.raises(StorageError, match="update 1 of kite is damaged"):
        found(store, FindUpdate("kite", 1), 64)
    store.close()


def test_an_update_is_taken_back_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(
        Batch(journal=[journal_row("update", b""), journal_row("taken_back", b"")._replace(position=2, version=2)])
    )
    assert found(store, FindUpdate("kite", 1), 64) == UpdateFound("kite", 1)
    with pytest.raises(StorageError, match="UNIQUE"):
        store.write(Batch(journal=[journal_row("taken_back", b"")._replace(position=3, version=3)]))
    store.close()


def test_a_journal_of_an_older_schema_is_kept(tmp_path: Path) -> None:
    row = (1, 1, "update", "kite", 1, 0, 0.5, 1.0, 1, 1, 0.5, 0.1, 0.0, 9, 0.0, b"x", "published")
    with closing(sqlite3.connect(tmp_path / "coordinator.db")) as db:
        scripts = sorted(Path("coordinator/schema").glob("*.sql"))[:5]
        db.executescript("".join(script.read_text() for script in scripts) + "PRAGMA user_version = 5;")
        db.execute(f"INSERT INTO journal VALUES ({', '.join('?' * len(row))})", row)
        db.commit()
    store = Store(tmp_path)
    (kept,) = store.replay(0, 9)
    assert kept == (1, 1, "update", "kite", 1, 0.5, 1.0, b"x", "published", None, None)
    assert store.find_update("kite", 1) == (1, "update", 0.5, None, b"x")
    store.close()
