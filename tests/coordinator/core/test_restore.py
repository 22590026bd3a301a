"""Going back to an exported model: what counts then, what does not count twice, and what a kill on the way leaves."""

import os
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from coordinator import export, restore
from coordinator.checkpoint import CHECKPOINTS
from coordinator.config import CoordinatorConfig
from coordinator.downlink import OfferedState
from coordinator.events import PeerModelArrived, RuleState
from coordinator.given_up import GivenUp
from coordinator.recovery import rebuild, recover
from coordinator.restore import Restored
from coordinator.state_dir import open_state
from coordinator.store import Batch, Store
from skerry.algorithms.arrival import ArrivalRule, Constant, FedAvg, FedBuff
from skerry.algorithms.barrier import BarrierState, PeerArrived
from skerry.algorithms.downlink import Newest, TopK
from skerry.algorithms.federation import NoFederation, SynchronousExchange
from skerry.algorithms.gain import GainState
from skerry.algorithms.peer_guard import PeerDistances
from skerry.algorithms.rounds import RoundState
from skerry.algorithms.token import TokenState
from skerry.errors import DataError, SkerryError, StorageError
from skerry.protocol.messages import (
    BroadcastId,
    BundleReference,
    ModelVersion,
    PeerModel,
    UpdateAccepted,
    UpdateRejected,
)
from skerry.recipe import Recipe
from skerry.tasks.bundle import Bundle
from skerry.tasks.model_file import from_safetensors, to_safetensors
from skerry.vector import Float32

BUNDLE = Bundle.builtin("activity")
LAYOUT = BUNDLE.manifest.layout
FIELDS = {"bundle": BundleReference(BUNDLE.sha256, BUNDLE.file_bytes), "initial": BUNDLE.initial_parameters()}
METADATA = {"lineage": "eu/1", "version": "3", "age": "2.5", "bundle": BUNDLE.sha256}


def recipe(arrival: ArrivalRule = Constant(weight=0.5), **stages: Any) -> Recipe:  # noqa: B008 - frozen
    return Recipe(**{"arrival": arrival, "downlink": Newest(), "federation": NoFederation()} | stages)


def back(config: CoordinatorConfig, path: Path, seed: int = 1) -> Restored:
    return restore.restore(config, path, rng=random.Random(seed), wall_clock=lambda: 1_700_000_000.0)


def exported(config: CoordinatorConfig, path: Path) -> Float32:
    path.write_bytes(export.from_state(config, "regional", "safetensors").data)
    return from_safetensors(LAYOUT, path.read_bytes())


@pytest.fixture
def train(words: Any) -> Callable[..., Any]:
    """Let a device send updates `first` to `last`."""

    async def send(engine: Any, outlet: Any, first: int, last: int, base: Any = None) -> list[UpdateAccepted]:
        before = len(outlet.accepted())
        for sequence in range(first, last + 1):
            vector = words.vector(sequence, 50, LAYOUT.size)
            engine.submit(words.update("kite", sequence, base or engine.version, vector=vector))
            await outlet.until_accepted(before + sequence - first + 1)
        accepted: list[UpdateAccepted] = outlet.accepted()[before:]
        return accepted

    return send


async def test_a_region_goes_on_from_the_model_and_counts_nothing_twice(
    config_of: Any, open_engine: Any, new_listener: Any, tmp_path: Path, train: Any
) -> None:
    config, path = config_of(recipe(downlink=TopK())), tmp_path / "good.safetensors"
    async with open_engine(config, new_listener(), **FIELDS) as engine:
        await train(engine, engine._outlet, 1, 2)
    good = exported(config, path)
    async with open_engine(config, new_listener(), **FIELDS) as engine:
        base = engine.version
        weights = [one.weight for one in await train(engine, engine._outlet, 3, 5)]
        assert not np.array_equal(engine.model().values, good)
    result = back(config, path)
    assert (result.model, result.before) == (f"{base.lineage}@2", f"{base.lineage}@5")
    assert result.age == 2.0
    assert [one.name for one in (config.state_dir / CHECKPOINTS).iterdir()] == ["000000000006.safetensors"]

    outlet = new_listener()
    async with open_engine(config, outlet, **FIELDS) as engine:
        assert result.version == f"{engine.lineage}@{engine.version.number}"
        assert engine.lineage != base.lineage
        assert engine.version.number == 6
        assert (engine.model().values.tobytes(), engine.age, engine.model().trained) == (good.tobytes(), 2.0, True)
        assert (engine.status().publication, engine.status().peers) == (0, {})
        repeats = await train(engine, outlet, 3, 5, base)
        assert [one.weight for one in repeats] == weights
        assert engine.model().values.tobytes() == good.tobytes(), "they were acknowledged: they count no second time"
        (after,) = await train(engine, outlet, 6, 6)
        assert after.version == 7
        values = engine.model().values
    assert not np.array_equal(values, good)
    assert rebuild(config.state_dir, 7).tobytes() == values.tobytes()


@pytest.mark.parametrize("arrival", [FedBuff(size=3), FedAvg(devices_min=2)])
async def test_what_was_held_is_given_up_and_rounds_begin_anew(
    config_of: Any, open_engine: Any, new_listener: Any, tmp_path: Path, train: Any, words: Any, arrival: ArrivalRule
) -> None:
    config, path = config_of(recipe(arrival)), tmp_path / "good.safetensors"
    async with open_engine(config, new_listener(), **FIELDS):
        pass
    good = exported(config, path)
    outlet = new_listener()
    async with open_engine(config, outlet, **FIELDS) as engine:
        for device in ("kite", "tern"):
            engine.submit(words.hello(device))
        await outlet.until(lambda: len(outlet.offers) >= 2)
        await train(engine, outlet, 1, 1)
        assert engine.status().held_updates == 1
    back(config, path)
    outlet = new_listener()
    async with open_engine(config, outlet, **FIELDS) as engine:
        assert engine.status().held_updates == 0
        assert engine.status().devices["kite"].last_sequence == 1
        assert engine.model().values.tobytes() == good.tobytes()
        for device in ("kite", "tern"):
            engine.submit(words.hello(device))
        await outlet.until(lambda: len(outlet.offers) >= 2)
        await train(engine, outlet, 2, 2)


async def test_what_was_made_on_the_model_that_was_given_up_does_not_bring_it_back(
    config_of: Any, open_engine: Any, new_listener: Any, tmp_path: Path, train: Any, words: Any
) -> None:
    """Neither after one way back nor after two; what was made on the model that is good still counts."""
    config, path = config_of(recipe()), tmp_path / "good.safetensors"
    async with open_engine(config, new_listener(), **FIELDS) as engine:
        await train(engine, engine._outlet, 1, 2)
        lineage, bases = engine.lineage, []
    exported(config, path)
    async with open_engine(config, new_listener(), **FIELDS) as engine:
        await train(engine, engine._outlet, 3, 5)
    for seed in (1, 2):
        back(config, path, seed)
        outlet = new_listener()
        async with open_engine(config, outlet, **FIELDS) as engine:
            present = engine.version
            for name, base, drops in (
                ("ruined", ModelVersion(lineage, 3), True),
                ("good", ModelVersion(lineage, 2), False),
                ("new", None, False),
                ("present", present, False),
            ):
                engine.submit(words.hello(name, base, minor=1))
                await outlet.until(lambda name=name, sent=outlet.sent: any(to == name for to, _ in sent))
                (welcome,) = [one for to, one in outlet.sent if to == name]
                assert welcome.base_given_up == drops
            for name, number in (("ruined", 3), ("ruined", 5), ("good", 2)):
                base, vector = ModelVersion(lineage, number), words.vector(number, 50, LAYOUT.size)
                engine.submit(words.update(name, 10 * seed + number, base, vector=vector, base_age=5.0))
            await outlet.until_accepted(1)
            rejected = [(to, one.reason) for to, one in outlet.sent if isinstance(one, UpdateRejected)]
            assert rejected == [("ruined", "outlier")] * 2, "for which agents drop what they made"
            assert [to for to, one in outlet.sent if isinstance(one, UpdateAccepted)] == ["good"]
        bases.append(present)
    outlet = new_listener()
    async with open_engine(config, outlet, **FIELDS) as engine:
        engine.submit(words.hello("late", bases[0]))
        await outlet.until(lambda: bool(outlet.sent))
        assert outlet.sent[0][1].base_given_up, "of the first way back, which was given up, too"
        engine.submit(words.update("late", 9, bases[0], vector=words.vector(1, 50, LAYOUT.size), base_age=5.0))
        await outlet.until(lambda: any(isinstance(one, UpdateRejected) for _, one in outlet.sent))
        assert outlet.sent[-1][1].reason == "not_finite", "as an agent of protocol 1.0 knows it, and drops it"


@pytest.mark.parametrize("waiting", [False, True])
async def test_a_region_that_waits_for_its_peers_goes_on_and_merges_only_what_it_holds(
    config_of: Any,
    open_engine: Any,
    new_listener: Any,
    tmp_path: Path,
    train: Any,
    words: Any,
    waiting: bool,
) -> None:
    """Its peer was faster, the everyday case, or slower; then what is held of the peer's model is given up."""
    rule = SynchronousExchange(every_rounds=2)
    config = config_of(recipe(federation=rule), peers={"there-1": "http://there"})
    path, vector = tmp_path / "good.safetensors", words.vector(1, 50, LAYOUT.size)

    def come(exchange: int) -> PeerModelArrived:
        whole = PeerModel("there-1", "there/2", BroadcastId(0, exchange), 1.0, exchange, None, b"")
        return PeerModelArrived(whole, vector)

    async with open_engine(config, new_listener(), **FIELDS) as engine:
        if waiting:
            await train(engine, engine._outlet, 1, 2)
        else:
            await engine.ask(come(1))
            await train(engine, engine._outlet, 1, 1)
        assert engine.status().waits_for_peers == waiting
    exported(config, path)
    back(config, path)
    async with open_engine(config, new_listener(), **FIELDS) as engine:
        assert not engine.status().waits_for_peers
        first = 3 if waiting else 2
        assert all(one.weight for one in await train(engine, engine._outlet, first, first + 1))
        assert (engine.status().waits_for_peers, engine.status().merges) == (True, 0)
        await engine.ask(come(2 if waiting else 1))
        assert (engine.status().waits_for_peers, engine.status().merges) == (False, 1)


async def test_what_is_no_more_so_of_versions_and_peers_is_forgotten(
    config_of: Any, open_engine: Any, new_listener: Any, tmp_path: Path, train: Any
) -> None:
    config, path = config_of(recipe()), tmp_path / "good.safetensors"
    async with open_engine(config, new_listener(), **FIELDS) as engine:
        await train(engine, engine._outlet, 1, 2)
    exported(config, path)
    merged, token = (
        TokenState(known=(2, 7), published=(2, 6), age_merged=90.0),
        TokenState(known=(2, 7), age_merged=1.0),
    )
    gain, arrived = GainState(load=0.3, devices=2.0), {"there-1": PeerArrived(5, 90.0)}
    rules: list[RuleState] = [
        BarrierState(4, waiting=True, rounds=1, arrived=arrived),
        PeerDistances(known=16, usual=3.0, gap=1.0, refused={"us": "far"}, admitted=frozenset({"there-1"})),
        gain,
        OfferedState(after=1),
        RoundState(number=3),
    ]
    for before, age_merged in ((merged, 2.0), (token, 1.0)):
        with closing(Store(config.state_dir)) as store:
            store.write(Batch(token=before, rules={type(one): one for one in rules}))
        back(config, path, seed=int(age_merged))
        with closing(Store(config.state_dir, read_only=True)) as store:
            region = recover(store, config.state_dir, config.name).region
        assert {type(one) for one in region.rules.values()} == {BarrierState, GainState, GivenUp}
        assert (region.rules[BarrierState], region.rules[GainState]) == (BarrierState(exchange=4), gain)
        assert region.token == replace(before, age_merged=age_merged), "how old the model was when it last merged"


async def test_nothing_happens_while_the_coordinator_runs(
    config_of: Any, open_engine: Any, new_listener: Any, tmp_path: Path, train: Any
) -> None:
    config, path = config_of(recipe()), tmp_path / "good.safetensors"
    outlet = new_listener()
    async with open_engine(config, outlet, **FIELDS) as engine:
        exported(config, path)
        with pytest.raises(StorageError, match="another coordinator is running on this state"):
            back(config, path)
        await train(engine, outlet, 1, 1)


@pytest.mark.parametrize("when", ["before it is written down", "before it is looked at"])
async def test_a_kill_on_the_way_leaves_the_former_state_or_the_new_one(
    config_of: Any,
    open_engine: Any,
    new_listener: Any,
    tmp_path: Path,
    train: Any,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    config, path = config_of(recipe()), tmp_path / "good.safetensors"
    async with open_engine(config, new_listener(), **FIELDS):
        pass
    good = exported(config, path)
    async with open_engine(config, new_listener(), **FIELDS) as engine:
        await train(engine, engine._outlet, 1, 3)
        former = engine.model().values

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if when == "before it is written down":
            patch.setattr("coordinator.store.Store.begin_lineage", killed)
        else:
            patch.setattr(restore, "open_state", lambda *one, **more: open_state(*one, **more) if more else killed())
        with pytest.raises(KeyboardInterrupt):
            back(config, path)
    assert len(list((config.state_dir / CHECKPOINTS).iterdir())) > 1
    expected = former if when == "before it is written down" else good
    async with open_engine(config, new_listener(), **FIELDS) as engine:
        assert engine.model().values.tobytes() == expected.tobytes()
        await train(engine, engine._outlet, 4, 4)
    assert back(config, path, seed=2).age == 0.0


async def test_without_a_state_the_region_begins_with_the_model(
    config_of: Any, open_engine: Any, new_listener: Any, tmp_path: Path
) -> None:
    config, path = config_of(recipe()), tmp_path / "good.safetensors"
    values = np.linspace(-1.0, 1.0, LAYOUT.size, dtype=np.float32)
    path.write_bytes(to_safetensors(LAYOUT, values, METADATA))
    result = back(config, path)
    assert (result.before, result.age, result.version.endswith("@0")) == (None, 2.5, True)
    async with open_engine(config, new_listener(), **FIELDS) as engine:
        assert (engine.model().values.tobytes(), engine.age) == (values.tobytes(), 2.5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("missing", ["nothing", "the state", "its folder"])
async def test_what_root_restores_belongs_to_the_service(
    config_of: Any, open_engine: Any, new_listener: Any, tmp_path: Path, missing: str
) -> None:
    service = tmp_path / "service"
    service.mkdir()
    config, path = config_of(recipe(), state_dir=service / "a" / "b"), tmp_path / "good.safetensors"
    path.write_bytes(to_safetensors(LAYOUT, BUNDLE.initial_parameters(), METADATA))
    if missing == "nothing":
        async with open_engine(config, new_listener(), **FIELDS):
            pass
    elif missing == "the state":
        config.state_dir.mkdir(parents=True)
    for one in (service, *service.rglob("*")):
        os.chown(one, 61_234, 61_235)  # as systemd does for a dynamic user
    before = os.umask(0o077)
    try:
        back(config, path)
    finally:
        os.umask(before)
    files = [service, *service.rglob("*")]
    assert len(files) > 6
    assert {(one.stat().st_uid, one.stat().st_gid) for one in files} == {(61_234, 61_235)}
    assert path.stat().st_uid == 0


@pytest.mark.parametrize(
    ("value", "changes", "words"),
    [
        (np.nan, {}, "not finite"),
        (1.1e30, {}, "this model has diverged; take an older one"),
        (1.0, {"bundle": "0" * 64}, "is a model of bundle 000000000000, this coordinator trains"),
        (1.0, {"age": "-1"}, "its age is -1"),
        (1.0, {"age": "nan"}, "its age is nan"),
        (1.0, {"age": "old"}, "says no age or no version"),
        (1.0, {"lineage": None}, "no model of a coordinator"),
        (1.0, {"age": None}, "says no age or no version"),
    ],
)
def test_what_is_no_model_of_this_task_is_refused_and_nothing_is_made(
    config_of: Any, tmp_path: Path, value: float, changes: dict[str, str | None], words: str
) -> None:
    config, path = config_of(recipe()), tmp_path / "bad.safetensors"
    metadata = {key: text for key, text in (METADATA | changes).items() if text is not None}
    values = np.ones(LAYOUT.size, np.float32)
    values[-1] = value
    path.write_bytes(to_safetensors(LAYOUT, values, metadata))
    with pytest.raises(DataError, match=words) as error:
        back(config, path)
    assert str(error.value).startswith(f"{path}: ")
    assert not config.state_dir.exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "No such file"),
        (b"", "not a safetensors file"),
        (b"\xff" * 100, "not a safetensors file"),
        (bytes((16 << 20) + 4 * LAYOUT.size + 1), "more than the"),
    ],
    ids=["missing", "empty", "garbage", "endless"],
)
def test_what_is_no_file_of_a_model_is_refused(config_of: Any, tmp_path: Path, data: bytes | None, words: str) -> None:
    path = tmp_path / "bad.safetensors"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SkerryError, match=words) as error:
        back(config_of(recipe()), path)
    assert str(path) in str(error.value)
