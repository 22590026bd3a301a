"""Bits that rot in a coordinator's database: the start gives back the very state, or stops; never another model."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.config import Checkpoints
from coordinator.events import PeerModelArrived, TokenArrived
from coordinator.history import read_history
from coordinator.recovery import Recovered, rebuild
from coordinator.state_dir import is_made, open_state
from coordinator.store import FILE_NAME, Batch, EvaluationRow, RegionRow, Store
from skerry.algorithms.arrival import FedBuff, Spyker
from skerry.algorithms.federation import SpykerToken
from skerry.errors import SchemaTooNewError, StateDamagedError, StorageError
from skerry.protocol import sparse
from skerry.protocol.messages import BroadcastId, PeerModel, TokenPassed
from skerry.recipe import Recipe
from skerry.vector import SparseVector

FLIPS = {"": 5, "-wal": 1}  # on each page
UPDATES = 30
ENTRIES = 600  # of the model: its rows take pages of their own


class Fixture:
    """The folder of a coordinator that was killed, and what it held."""

    def __init__(self, folder: Path, expected: dict[str, Any], initial: Any) -> None:
        self.folder, self.expected, self.initial = folder, expected, initial

    def copy(self) -> Path:
        target = self.folder.with_name("copy")
        shutil.rmtree(target, ignore_errors=True)
        return Path(shutil.copytree(self.folder, target, ignore=shutil.ignore_patterns("*-shm")))

    def start(self, folder: Path) -> dict[str, Any] | None:
        """Start a coordinator on `folder`; return what it holds, None where it stops and says that it is damaged."""
        region = RegionRow("here-1", "here", "0" * 64, "here/00000009")
        try:
            state = open_state(folder, region, self.initial, 0.0)
        except StateDamagedError:
            return None
        try:
            return everything(state.recovered)
        finally:
            state.close()


def everything(found: Recovered) -> dict[str, Any]:
    """All that a coordinator goes on from, to the bit."""
    state, region = found.vectors, found.region
    replicas = {**state.replicas, "": state.published}
    return {
        "version": (state.version, state.age, region.lineage, region.position, region.publication),
        "ages": [region.ages.at(version) for version in range(region.ages.first, region.ages.last + 1)],
        "model": (state.model.tobytes(), state.changed_at.tobytes()),
        "replicas": {
            peer: one and (one.lineage, one.number, one.broadcast, one.age, one.values.tobytes())
            for peer, one in replicas.items()
        },
        "ledger": {name: region.ledger.entry(name) for name in region.ledger},
        "held": region.held,
        "waiting": {at: (one.indices.tobytes(), one.values.tobytes()) for at, one in found.held.items()},
        "token": region.token,
        "rules": region.rules,
    }


@pytest.fixture(params=["in the log", "in the database"])
async def killed(
    request: pytest.FixtureRequest,
    config_of: Any,
    open_engine: Any,
    new_listener: Any,
    words: Any,
    inline: Any,
    tmp_path: Path,
) -> Fixture:
    """A state with something in every table, either all in the write-ahead log or all in the main file."""
    arrival = FedBuff(size=3) if request.param == "in the log" else Spyker()
    recipe = Recipe(arrival=arrival, federation=SpykerToken(h_inter=1.0, exchange_interval_min_s=0.0, hold_min_s=0.0))
    config = config_of(recipe, peers={"there-1": "http://there"}, checkpoints=Checkpoints(every_updates=10))
    initial, outlet, folder = np.linspace(-1.0, 1.0, ENTRIES, dtype=np.float32), new_listener(), tmp_path / "killed"
    async with open_engine(config, outlet, inline, initial=initial) as engine:
        for step in range(1, UPDATES + 1):
            vector = words.vector(step, 300, ENTRIES)
            engine.submit(words.update(f"d{step % 3}", step, engine.version, vector=vector))
            if step % 5 == 0:
                number = step // 5
                values = SparseVector.full(initial * np.float32(1 + step / 100))  # near enough to be merged
                message = PeerModel(
                    "there-1",
                    "there/1",
                    BroadcastId(40, number),
                    9.0 * step,
                    number,
                    number - 1 or None,
                    sparse.encode(values),
                )
                await engine.ask(PeerModelArrived(message, values))
                await engine.ask(TokenArrived(TokenPassed("there-1", BroadcastId(40, 100 * step), {})))
            await outlet.until(lambda at=step: len(outlet.accepted()) == at)
        if request.param == "in the database":
            engine._state_dir.store._db.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copytree(config.state_dir, folder)
    start = Fixture(folder, {}, initial)
    expected = start.start(start.copy())
    assert expected is not None
    assert expected["version"][0] == engine.version.number
    assert expected["ledger"]
    assert expected["replicas"].keys() == {"there-1", ""}
    return Fixture(folder, expected, initial)


def test_a_flipped_bit_on_any_page_gives_the_same_state_or_none(killed: Fixture) -> None:
    rng, stopped, same = random.Random(1), 0, 0
    for kind, page_bytes in (("", 4096), ("-wal", 24 + 4096)):
        name = f"{FILE_NAME}{kind}"
        if not (killed.folder / name).exists():
            continue
        for page in range(-(-(killed.folder / name).stat().st_size // page_bytes)):
            for _ in range(FLIPS[kind]):
                copy = killed.copy()
                data = bytearray((copy / name).read_bytes())
                bit = rng.randrange(8 * page * page_bytes, 8 * min(len(data), (page + 1) * page_bytes))
                data[bit // 8] ^= 1 << bit % 8
                (copy / name).write_bytes(data)
                try:
                    found = killed.start(copy)
                except SchemaTooNewError:
                    assert (kind, page) == ("", 0)  # the number of the schema lies there
                    found = None
                stopped += found is None
                same += found == killed.expected
                assert found in (None, killed.expected) or _is_last_transaction(killed, name, bit), (name, page, bit)
    assert stopped > same / 10


def _is_last_transaction(killed: Fixture, name: str, bit: int) -> bool:
    """Whether the bit is where damage cannot be told from a torn write."""
    data = (killed.folder / name).read_bytes()
    commits = [at for at in range(32, len(data), 24 + 4096) if any(data[at + 4 : at + 8])]
    return name.endswith("-wal") and bit // 8 >= commits[-3]


TABLES = ("region", "journal", "publication", "ledger", "token", "rule_state", "checkpoint")


def test_every_value_of_every_table_that_a_model_comes_from_is_covered(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        for table in TABLES:
            columns = [name for name, hidden in db.execute(f"SELECT name, hidden FROM pragma_table_xinfo('{table}')")]
            (definition,) = db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
            covered = definition.partition("row_crc(")[2].partition(")")[0]
            assert [name.strip() for name in covered.split(",")] == columns[:-1], table


@pytest.mark.parametrize("table", TABLES)
def test_a_value_that_changed_behind_our_back_is_noticed(killed: Fixture, table: str) -> None:
    """The page is well-formed, so that SQLite has nothing to find."""
    changes = {
        "region": "lineage = 'here/00000000'",
        "journal": "weight = weight * 1.001",
        "publication": "age = age + 1",
        "ledger": "updates = updates + 1",
        "token": "state = replace(state, 'true', 'false')",
        "rule_state": "state = state || ' '",
        "checkpoint": "written_at_s = 5",
    }
    copy = killed.copy()
    change_behind_our_back(copy, f"UPDATE {table} SET {changes[table]}")
    assert killed.start(copy) is None
    with pytest.raises(StateDamagedError, match=f"in {table}: .* but neither enrolment.db .* its peers hold"):
        rebuild(copy, killed.expected["version"][0])


def test_a_region_that_rotted_is_damaged_and_not_another_coordinators(killed: Fixture) -> None:
    copy = killed.copy()
    change_behind_our_back(copy, "UPDATE region SET coordinator = 'here-3'")
    assert killed.start(copy) is None


@pytest.mark.parametrize("line", ["'{'", "'[]'", "CAST(x'22AC22' AS TEXT)"])
def test_telemetry_that_rotted_is_no_telemetry(tmp_path: Path, line: str) -> None:
    """No model comes from it: it has no checksum, and the service starts without a look at it."""
    store = Store(tmp_path)
    store._db.connection.execute(f"INSERT INTO telemetry (device, at_s, telemetry) VALUES ('pi', 1.0, {line})")
    store.check()
    store.close()
    with pytest.raises(StateDamagedError, match=r"coordinator\.db: .*(damaged|decode)"):
        read_history(tmp_path)


def test_a_region_that_is_no_text_is_somebodys(tmp_path: Path) -> None:
    expected, initial = RegionRow("here-1", "here", "0" * 64, "here/00000009"), np.zeros(ENTRIES, np.float32)
    open_state(tmp_path, expected, initial, 0.0).close()
    path = tmp_path / FILE_NAME
    data = path.read_bytes()
    assert data.count(b"here-1here") == 1
    path.write_bytes(data.replace(b"here-1here", b"here-1h\xacre"))
    assert is_made(tmp_path)
    with pytest.raises(StateDamagedError, match=r"coordinator\.db: Could not decode to UTF-8"):
        open_state(tmp_path, expected, initial, 0.0)


def change_behind_our_back(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as db:
        db.create_function("row_crc", -1, lambda *_: 7, deterministic=True)
        assert db.execute(statement).rowcount > 0


def test_damage_is_found_before_a_migration_gives_it_a_checksum(
    killed: Fixture, later_schema: Callable[[str], None]
) -> None:
    copy = killed.copy()
    change_behind_our_back(copy, "UPDATE journal SET payload = zeroblob(length(payload))")
    later_schema("UPDATE journal SET position = position;")
    for _ in range(2):  # the first try changes nothing
        with pytest.raises(StateDamagedError, match=r"a checksum differs in journal: move coordinator.db\* away"):
            Store(copy)


def test_a_whole_state_is_migrated(killed: Fixture, later_schema: Callable[[str], None]) -> None:
    copy = killed.copy()
    later_schema("UPDATE journal SET position = position;")
    assert killed.start(copy) == killed.expected


def _edit(folder: Path, statement: str) -> None:
    """Change what is there as something would that keeps every checksum right: a page that was never written."""
    store = Store(folder)
    store._db.connection.execute(statement)
    store.close()


@pytest.mark.parametrize(
    "lost",
    [
        "DELETE FROM journal WHERE position = (SELECT position FROM journal ORDER BY position DESC LIMIT 1 OFFSET 2)",
        "DELETE FROM publication WHERE position = (SELECT max(position) FROM publication WHERE lineage = 'there/1')",
        "DELETE FROM journal WHERE version > 25",
        "DELETE FROM ledger WHERE device = 'd1'",
    ],
)
def test_rows_that_are_missing_are_missed(killed: Fixture, lost: str) -> None:
    copy = killed.copy()
    _edit(copy, lost)
    assert killed.start(copy) is None


def test_a_checkpoint_of_a_version_that_the_journal_lost_tells_of_it(killed: Fixture) -> None:
    copy = killed.copy()
    newest = max(int(path.stem) for path in (copy / "checkpoints").glob("*.safetensors"))
    shutil.copy(copy / "checkpoints" / f"{newest:012d}.safetensors", copy / "checkpoints" / "000000000999.safetensors")
    region = RegionRow("here-1", "here", "0" * 64, "here/00000009")
    with pytest.raises(StateDamagedError, match=r"999\.safetensors: is whole, but the journal ends at version 36"):
        open_state(copy, region, killed.initial, 0.0)
    assert StateDamagedError.exit_code == 6
    assert (copy / "checkpoints" / "000000000999.safetensors").exists()


def test_without_a_whole_checkpoint_there_is_no_start(killed: Fixture) -> None:
    copy = killed.copy()
    for path in (copy / "checkpoints").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    assert killed.start(copy) is None


def test_a_full_disk_is_no_damage(killed: Fixture) -> None:
    copy = killed.copy()
    store = Store(copy)
    store._db.connection.execute("PRAGMA max_page_count = 1")
    row = EvaluationRow(0.0, 1, 1.0, "regional", 1, 1, 1.0)
    with pytest.raises(StorageError) as refused:
        store.write(Batch(evaluations=1000 * [row]))
    store.close()
    assert refused.value.exit_code == 3
