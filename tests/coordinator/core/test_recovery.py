"""What is on disk is enough: replay gives back the vectors bit for bit, whenever and however the process went."""

import logging
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator import recovery
from coordinator.config import Checkpoints
from coordinator.engine import Engine
from coordinator.events import PeerModelArrived, TokenArrived
from coordinator.model_state import ModelState, Publication
from coordinator.recovery import rebuild
from coordinator.store import Batch, CheckpointRow, EvaluationRow, JournalRow, RegionRow, Store
from skerry.algorithms.arrival import ArrivalRule, FedBuff, Median, Spyker, TrimmedMean
from skerry.algorithms.federation import NoFederation, SpykerToken
from skerry.algorithms.uplink import Dense, TopK
from skerry.errors import ConfigError, SchemaTooNewError, StorageError
from skerry.protocol import sparse
from skerry.protocol.messages import (
    BroadcastId,
    BundleReference,
    ModelVersion,
    PeerModel,
    PeerModelTaken,
    TokenPassed,
    TokenTaken,
)
from skerry.recipe import Recipe
from skerry.values import ValueEncoding

LONE = Recipe(arrival=Spyker(), federation=NoFederation())


def fingerprint(state: ModelState) -> dict[str, Any]:
    """Everything of the vectors, to the bit."""
    sums = {peer: (r.lineage, r.number, r.broadcast, r.age, r.values.tobytes()) for peer, r in state.replicas.items()}
    own = state.published
    return {
        "version": (state.version, state.age),
        "model": state.model.tobytes(),
        "changed_at": state.changed_at.tobytes(),
        "published": own and (own.lineage, own.number, own.broadcast, own.age, own.values.tobytes()),
        "replicas": sums,
    }


def recovered(state_dir: Path) -> recovery.Recovered:
    store = Store(state_dir, read_only=True)
    try:
        return recovery.recover(store, state_dir, "here-1")
    finally:
        store.close()


@pytest.mark.parametrize("seed", range(9))
async def test_a_crash_at_any_moment_loses_nothing_that_was_answered(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, inline: Any, tmp_path: Path, seed: int
) -> None:
    """Updates, held updates, merges, publications and checkpoints; after each group the files are copied as they are.

    Every copy must come back as the state whose effects had been performed when it was made.
    """
    rng = random.Random(seed)
    federation = SpykerToken(
        h_inter=1.0,
        exchange_interval_min_s=0.0,
        hold_min_s=0.0,
        density=rng.choice([0.1, 1.0]),
        values=rng.choice(list(ValueEncoding)),
    )
    rules: list[ArrivalRule] = [Spyker(), FedBuff(size=3), TrimmedMean(size=3, trim=0.34)]
    arrival = rng.choice(rules)
    uplink = Dense() if isinstance(arrival, TrimmedMean) else TopK()
    config = config_of(
        Recipe(arrival=arrival, uplink=uplink, federation=federation),
        peers={"there-1": "http://there"},
        checkpoints=Checkpoints(every_updates=rng.choice([3, 1000]), keep=2, history_versions=rng.choice([0, 5, 1000])),
    )
    outlet, peer = new_listener(), ModelState.start(words.initial())
    copies: list[tuple[Path, dict[str, Any]]] = []
    async with open_engine(config, outlet, inline) as engine:
        for step in range(25):
            for _ in range(rng.randint(1, 3)):
                match rng.choice(["update", "update", "repeat", "peer", "token"]):
                    case "update":
                        device = f"d{rng.randint(0, 2)}"
                        full = {"whole": True, "vector": words.vector(step, words.size)} if rng.random() < 0.3 else {}
                        engine.submit(words.update(device, step * 10 + rng.randint(0, 9), engine.version, **full))
                    case "repeat":
                        engine.submit(words.update("d0", 1, engine.version))
                    case "peer":
                        await _publish(engine, peer, words, step)
                    case _:
                        token = TokenPassed("there-1", BroadcastId(50, 10 * step + 9), {"there-1": float(step)})
                        assert isinstance(await engine.ask(TokenArrived(token)), TokenTaken)
            if isinstance(arrival, TrimmedMean):  # which takes a few updates of the clock alone, and no more
                for device in ("bell", "drum"):
                    engine.submit(words.update(device, step + 1, engine.version))
            engine.submit(words.update("clock", step + 1, engine.version))
            await outlet.until(lambda at=step + 1: len(outlet.accepted("clock")) == at)
            copy = tmp_path / f"copy-{step}"
            shutil.copytree(config.state_dir, copy)
            held = {one.position: one.whole for one in engine._region.held}
            copies.append((copy, fingerprint(engine._state) | {"held": held}))
    assert engine.status().publication > 0
    assert engine.status().merges > 0
    for copy, expected in copies:
        found = recovered(copy)
        assert fingerprint(found.vectors) | {"held": {one.position: one.whole for one in found.region.held}} == expected
        assert found.region.ages.last == expected["version"][0]
        assert found.region.ages.age == expected["version"][1]
        assert {one.position for one in found.region.held} == set(found.held)
        files = sorted((copy / "checkpoints").glob("*.safetensors"))
        if len(files) > 1:  # any that is kept must do
            files[-1].write_bytes(b"torn")
            assert fingerprint(recovered(copy).vectors).items() <= expected.items()
    assert fingerprint(recovered(config.state_dir).vectors) == fingerprint(engine._state)


async def _publish(engine: Engine, peer: ModelState, words: Any, seed: int) -> None:
    """Have the peer train a little and publish."""
    peer.apply(words.vector(1000 + seed, 12), 1.0, peer.version + 1, peer.age + 2.0)
    whole = peer.published is None
    payload = peer.difference_to_publish(1.0, ValueEncoding.FLOAT16)
    number = 1 if peer.published is None else peer.published.number + 1
    broadcast = BroadcastId(40, number)
    values = sparse.decode(payload, size=words.size)
    peer.publish(Publication("there/1", number, broadcast, peer.age, whole), values)
    message = PeerModel("there-1", "there/1", broadcast, peer.age, number, None if whole else number - 1, payload)
    assert isinstance(await engine.ask(PeerModelArrived(message, values)), PeerModelTaken)
    assert peer.published is not None
    held = engine._state.replicas["there-1"]
    assert held.values.tobytes() == peer.published.values.tobytes()


async def test_every_past_version_can_be_rebuilt(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    config, outlet = config_of(LONE), new_listener()
    models = [words.initial()]
    async with open_engine(config, outlet) as engine:
        for sequence in range(1, 21):
            engine.submit(words.update("kite", sequence, engine.version))
            await outlet.until_accepted(sequence)
            models.append(engine.model().values)
            assert np.array_equal(rebuild(config.state_dir, sequence), models[-1]), "also while it runs"
    for version, model in enumerate(models):
        assert rebuild(config.state_dir, version).tobytes() == model.tobytes()
    with pytest.raises(StorageError, match="newest version is 20"):
        rebuild(config.state_dir, 21)


async def test_the_versions_within_a_buffer_are_the_model_before_it(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    recipe = Recipe(arrival=Median(size=3), uplink=Dense(), federation=NoFederation())
    config, outlet = config_of(recipe), new_listener()
    async with open_engine(config, outlet) as engine:
        for device in ("kite", "tern", "kite", "gull"):
            sequence = len(outlet.accepted(device)) + 1
            engine.submit(words.update(device, sequence, engine.version))
            await outlet.until(lambda device=device, count=sequence: len(outlet.accepted(device)) == count)
        after = engine.model()
        for number in range(4):
            assert np.array_equal(rebuild(config.state_dir, number), words.initial())
        assert after.version.number == 4
        assert np.array_equal(rebuild(config.state_dir, 4), after.values)
        assert not np.array_equal(after.values, words.initial())


async def test_a_version_behind_the_oldest_checkpoint_is_gone(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    config = config_of(LONE, checkpoints=Checkpoints(keep=1, history_versions=0))
    outlet = new_listener()
    async with open_engine(config, outlet) as engine:
        engine.submit(words.update("kite", 1, engine.version))
        await outlet.until_accepted(1)
    with pytest.raises(StorageError, match="does not reach back to version 0"):
        rebuild(config.state_dir, 0)
    assert rebuild(config.state_dir, 1).shape == (words.size,)


@pytest.mark.parametrize("damage", ["torn", "rotten", "missing", "empty", "another region's"])
async def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    config_of: Any,
    open_engine: Any,
    new_listener: Any,
    words: Any,
    caplog: pytest.LogCaptureFixture,
    damage: str,
    tmp_path: Path,
) -> None:
    config, outlet = config_of(LONE, checkpoints=Checkpoints(history_versions=0)), new_listener()
    async with open_engine(config, outlet) as engine:
        for sequence in range(1, 8):
            engine.submit(words.update("kite", sequence, engine.version))
        await outlet.until_accepted(7)
    before = fingerprint(engine._state)
    path = config.state_dir / "checkpoints" / "000000000007.safetensors"
    data = path.read_bytes()
    match damage:
        case "torn":
            path.write_bytes(data[: len(data) // 2])
        case "rotten":
            path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case _:
            shutil.copyfile(config.state_dir / "checkpoints" / "000000000000.safetensors", path)
    with caplog.at_level(logging.WARNING):
        again = new_listener()
        async with open_engine(config, again) as engine:
            assert fingerprint(engine._state) == before
            engine.submit(words.update("kite", 8, engine.version))
            await again.until_accepted(1)
    assert str(path) in caplog.text
    assert "falling back" in caplog.text
    names = sorted(one.name for one in (config.state_dir / "checkpoints").iterdir())
    assert names == ["000000000000.safetensors", "000000000008.safetensors"]
    caplog.clear()
    async with open_engine(config, new_listener()) as engine:
        assert engine.version.number == 8
    assert caplog.text == ""


async def test_without_a_whole_checkpoint_the_start_is_refused(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    config = config_of(LONE)
    async with open_engine(config, new_listener()):
        pass
    for path in (config.state_dir / "checkpoints").iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(StorageError, match="no checkpoint is whole"):
        async with open_engine(config, new_listener()):
            pass


async def test_a_half_written_checkpoint_is_swept_away(config_of: Any, open_engine: Any, new_listener: Any) -> None:
    config = config_of(LONE)
    async with open_engine(config, new_listener()):
        pass
    folder = config.state_dir / "checkpoints"
    (folder / "000000000099.tmp").write_bytes(b"half")
    (folder / "000000000099.safetensors").write_bytes(b"renamed, but never recorded")
    async with open_engine(config, new_listener()):
        assert [path.name for path in folder.iterdir()] == ["000000000000.safetensors"]


async def test_a_crash_while_the_state_is_made_is_made_good(
    config_of: Any, open_engine: Any, new_listener: Any
) -> None:
    """The checkpoint of version 0 is there, of another lineage, and the row that speaks of it is not."""
    config = config_of(LONE)
    async with open_engine(config, new_listener()):
        pass
    for file in config.state_dir.glob("coordinator.db*"):
        file.unlink()
    async with open_engine(config, new_listener()) as engine:
        assert engine.version.number == 0


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"bundle": BundleReference("1" * 64, 10)}, "bundle_sha256"),
        ({"name": "here-2"}, "coordinator"),
        ({"initial": np.zeros(7, np.float32)}, "7"),
    ],
)
async def test_state_of_another_task_or_coordinator_is_refused(
    config_of: Any, open_engine: Any, new_listener: Any, changed: dict[str, Any], text: str
) -> None:
    config = config_of(LONE)
    async with open_engine(config, new_listener()):
        pass
    name = changed.pop("name", "here-1")
    with pytest.raises((ConfigError, StorageError), match=text):
        async with open_engine(config_of(LONE, name=name, state_dir=config.state_dir), new_listener(), **changed):
            pass
    async with open_engine(config, new_listener()) as engine:  # and it is unharmed
        assert engine.version.number == 0


async def test_two_coordinators_cannot_run_on_one_state(config_of: Any, open_engine: Any, new_listener: Any) -> None:
    config = config_of(LONE)
    async with open_engine(config, new_listener()):
        with pytest.raises(StorageError, match="another coordinator"):
            async with open_engine(config, new_listener()):
                pass


async def test_a_newer_schema_is_refused_and_left_alone(config_of: Any, open_engine: Any, new_listener: Any) -> None:
    config = config_of(LONE)
    async with open_engine(config, new_listener()):
        pass
    path = config.state_dir / "coordinator.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 1000")
    db.close()
    before = path.read_bytes()
    with pytest.raises(SchemaTooNewError, match="1000") as refused:
        async with open_engine(config, new_listener()):
            pass
    assert refused.value.exit_code == 4
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused(config_of: Any, open_engine: Any, new_listener: Any) -> None:
    config = config_of(LONE)
    config.state_dir.mkdir()
    (config.state_dir / "coordinator.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match=r"coordinator\.db"):
        async with open_engine(config, new_listener()):
            pass


async def test_a_hole_in_the_journal_is_found(config_of: Any, open_engine: Any, new_listener: Any, words: Any) -> None:
    config, outlet = config_of(LONE), new_listener()
    async with open_engine(config, outlet) as engine:
        for sequence in range(1, 6):
            engine.submit(words.update("kite", sequence, engine.version))
        await outlet.until_accepted(5)
    db = sqlite3.connect(config.state_dir / "coordinator.db")
    db.execute("DELETE FROM journal WHERE version = 3")
    db.commit()
    db.close()
    with pytest.raises(StorageError, match="missing"):
        async with open_engine(config, new_listener()):
            pass


def test_the_journal_itself_refuses_to_hold_an_update_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def row(position: int, version: int) -> JournalRow:
        return JournalRow(position, version, "update", "kite", 1, 0, 0.5, 1.0, 1, 1, 0.5, 0.1, 0.0, 9, 0.0, b"")

    store.write(Batch(journal=[row(1, 1)]))
    with pytest.raises(StorageError, match="UNIQUE"):
        store.write(Batch(journal=[row(2, 2)]))
    assert store.ages() == [(1, 1.0)]
    store.close()


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    good = JournalRow(1, 1, "update", "kite", 1, 0, 0.5, 1.0, 1, 1, 0.5, 0.1, 0.0, 9, 0.0, b"")
    with pytest.raises(StorageError):
        store.write(Batch(journal=[good, good._replace(position=2)]))
    assert store.ages() == []
    store.write(Batch(journal=[good]))
    assert store.ages() == [(1, 1.0)]
    store.close()


def test_evaluations_of_an_older_schema_are_kept(tmp_path: Path) -> None:
    row = (1.0, 5, 4.5, "regional", 100, 71, 0.5)
    with closing(sqlite3.connect(tmp_path / "coordinator.db")) as db:
        db.executescript(Path("coordinator/schema/001_journal.sql").read_text() + "PRAGMA user_version = 1;")
        db.execute("INSERT INTO evaluation VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        db.commit()
    store = Store(tmp_path)
    store.write(Batch(evaluations=[EvaluationRow(2.0, 6, 5.0, "regional", 100, None, 0.4)]))
    assert list(store.history("evaluations")) == [row, (2.0, 6, 5.0, "regional", 100, None, 0.4)]
    store.close()


def test_the_journal_of_an_older_schema_is_kept_and_takes_models(tmp_path: Path) -> None:
    row = JournalRow(1, None, "update", "kite", 1, 0, None, None, 1, 1, 0.5, 0.1, 0.0, 9, 0.0, b"x")
    with closing(sqlite3.connect(tmp_path / "coordinator.db")) as db:
        scripts = sorted(Path("coordinator/schema").glob("*.sql"))[:3]
        db.executescript("".join(script.read_text() for script in scripts) + "PRAGMA user_version = 3;")
        db.execute(f"INSERT INTO journal VALUES ({', '.join('?' * 16)})", row[:16])
        db.commit()
    store = Store(tmp_path)
    with pytest.raises(StorageError):
        store.write(Batch(journal=[row._replace(position=2, kind="model")]))  # a repeat is one in either kind
    store.write(Batch(journal=[row._replace(position=2, kind="model", sequence=2)]))
    assert [(one.position, one.kind, one.payload) for one in store.held()] == [(1, "update", b"x"), (2, "model", b"x")]
    assert len(store.history("updates")) == 2
    store.close()


def test_every_query_fits_the_schema(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create_region(RegionRow("a", "b", "c", "d"), CheckpointRow(0, 0, 0.0))
    for name, statement in store._queries.items():
        store._db.connection.execute("EXPLAIN " + statement, [None] * statement.count("?")).fetchall()
        assert name
    store.close()


async def test_a_repeat_is_known_across_a_restart_and_a_cut(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    config, outlet = config_of(LONE, checkpoints=Checkpoints(keep=1, history_versions=0)), new_listener()
    async with open_engine(config, outlet) as engine:
        update = words.update("kite", 1, engine.version)
        engine.submit(update)
        await outlet.until_accepted(1)
    again = new_listener()
    async with open_engine(config, again) as engine:
        engine.submit(update)
        await again.until_accepted(1)
        assert engine.version.number == 1
        assert again.accepted()[0].weight == outlet.accepted()[0].weight


async def test_the_lineage_stays_and_a_lost_disk_starts_another(
    config_of: Any, open_engine: Any, new_listener: Any
) -> None:
    config = config_of(LONE)
    async with open_engine(config, new_listener()) as engine:
        lineage = engine.lineage
    async with open_engine(config, new_listener()) as engine:
        assert engine.lineage == lineage
        assert lineage.startswith("here/")
        assert ModelVersion(lineage, 0) == engine.version


def test_a_commit_is_a_sync(tmp_path: Path) -> None:
    """Nothing here can pull the plug, so at least the settings that survive it are held: WAL, synchronous=FULL."""
    store = Store(tmp_path)
    connection = store._db.connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()
