"""What a region does with a peer's model that is too far away: keep it out, say so, remember it, let it in again."""

import threading
from contextlib import closing
from itertools import count
from typing import Any

import numpy as np
import pytest

from coordinator import engine as engine_module
from coordinator.age_history import AgeHistory
from coordinator.events import (
    JournalMerge,
    JournalPeerModel,
    Merge,
    PeerAdmitted,
    PeerAlarm,
    PeerModelArrived,
    PeerSeen,
    Publish,
    Reply,
    SaveRuleState,
    TakePeerModel,
    Tick,
)
from coordinator.former_life import FormerLife
from coordinator.model_state import ModelState
from coordinator.recovery import rebuild, recover
from coordinator.region_state import RegionState
from coordinator.store import Store
from skerry.algorithms.arrival import Constant
from skerry.algorithms.barrier import BarrierState, PeerArrived
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import FederationRule, NoFederation, SpykerToken, SynchronousExchange
from skerry.algorithms.peer_guard import UNMEASURED, Measured, PeerDistances
from skerry.protocol import sparse
from skerry.protocol.messages import BroadcastId, ModelVersion, PeerModel, PeerModelTaken, PeerStatus
from skerry.recipe import Recipe
from skerry.vector import Float32, SparseVector

OLD = 100.0  # of age: neither young nor far behind
NEAR, FAR = Measured(1.0, 8.0), Measured(30.0, 8.0)
WHY = "it is 30 away from the model here, whose own length is 8"


def publication(number: int, age: float = OLD) -> PeerModel:
    base = None if number == 1 else number - 1
    return PeerModel("there-1", "there/00000002", BroadcastId(9, number), age, number, base, b"")


def of(kind: type[Any], effects: list[Any]) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


@pytest.fixture
def region(new_region: Any) -> Any:
    return region_of(new_region)


def region_of(new_region: Any, rule: FederationRule = SpykerToken(), **state: Any) -> Any:  # noqa: B008 - frozen
    before = RegionState("here/00000001", AgeHistory(0, [OLD]), **state)
    return new_region(Recipe(downlink=Newest(), federation=rule), ("there-1",), before)


def come(region: Any, words: Any, number: int, measured: Measured | None) -> list[Any]:
    arrived = PeerModelArrived(publication(number), words.vector(1), 5, measured)
    return list(region.handle(arrived, float(number)))


def test_a_model_that_is_too_far_away_is_kept_and_not_merged(region: Any, words: Any) -> None:
    effects = come(region, words, 1, FAR)
    assert [type(one) for one in effects[:2]] == [JournalPeerModel, TakePeerModel], "the next one builds on it"
    assert not of(JournalMerge, effects) + of(Merge, effects)
    assert of(Publish, effects), "the exchange goes on: it may be the peer that is right"
    assert of(PeerAlarm, effects) == [PeerAlarm("there-1", f"its model is not merged: {WHY}")]
    assert of(SaveRuleState, effects) == [SaveRuleState(PeerDistances(refused={"there-1": WHY}))]
    assert effects[-1] == Reply(5, PeerModelTaken(1))
    assert (region.version, region.age) == (0, OLD)
    assert dict(region.refused_peers) == {"there-1": WHY}
    assert not of(PeerAlarm, come(region, words, 2, FAR)), "there is one alarm"
    assert region.counts.peer_models_refused == {"there-1": 2}


def test_it_is_merged_again_when_it_is_back(region: Any, words: Any) -> None:
    come(region, words, 1, FAR)
    effects = come(region, words, 2, NEAR)
    assert of(Merge, effects)
    assert of(PeerAlarm, effects) == [PeerAlarm("there-1", "its model is in bounds again")]
    assert dict(region.refused_peers) == {}
    assert region.counts.peer_models_refused == {"there-1": 1}


def test_what_nobody_could_measure_is_not_merged(region: Any, words: Any) -> None:
    """It builds on a publication of the same moment."""
    come(region, words, 1, NEAR)
    effects = come(region, words, 2, None)
    assert of(TakePeerModel, effects)
    assert not of(Merge, effects) + of(PeerAlarm, effects)
    assert dict(region.refused_peers) == {"there-1": UNMEASURED}, "it has no part in the federated model, either"
    effects = come(region, words, 3, NEAR)
    assert of(Merge, effects)
    assert not of(PeerAlarm, effects)
    assert dict(region.refused_peers) == {}


def test_an_operator_lets_a_peer_in_and_is_answered(region: Any, words: Any) -> None:
    assert region.handle(PeerAdmitted("there-1", 7), 0.0) == [Reply(7, message=False)]
    come(region, words, 1, FAR)
    saved, alarm, reply = region.handle(PeerAdmitted("there-1", 8), 1.0)
    assert saved.state.admitted == {"there-1"}
    assert alarm == PeerAlarm("there-1", "its next model is merged: an operator says so")
    assert reply == Reply(8, message=True)
    assert of(Merge, come(region, words, 2, FAR))
    assert not of(Merge, come(region, words, 3, FAR))


def test_a_barrier_does_not_wait_for_a_model_that_has_no_part_in_the_mean(new_region: Any, words: Any) -> None:
    rule = SynchronousExchange(every_rounds=1, barrier_timeout_s=300.0)
    for measured, merges in ((FAR, 0), (NEAR, 1)):
        region = region_of(new_region, rule)
        region.handle(PeerSeen(PeerStatus("there-1", "there", "there/2", 1, OLD, "0" * 64, BroadcastId(0, 0), 0)), 0.0)
        message = PeerModel("there-1", "there/00000002", BroadcastId(0, 1), OLD, 1, None, b"")
        region.handle(PeerModelArrived(message, words.vector(1), 5, measured), 0.1)
        effects = region.handle(words.update("kite", 1, ModelVersion("here/00000001", 0)), 0.2)
        assert len(of(Publish, effects)) == 1
        assert len(of(Merge, effects)) == merges
        assert not region.waits_for_peers


def test_a_peer_that_has_arrived_and_is_not_held_comes_again(new_region: Any, words: Any) -> None:
    """As a state that was restored had it: whoever starts with it ends no exchange with what is not there."""
    rules = {BarrierState: BarrierState(exchange=1, waiting=True, arrived={"there-1": PeerArrived(1, OLD)})}
    region = region_of(new_region, SynchronousExchange(peer_timeout_s=10.0), rules=rules)
    effects = region.handle(Tick(), 1.0)
    assert of(Publish, effects)
    assert not of(Merge, effects)
    assert not of(Merge, region.handle(Tick(), 11.0))
    assert not region.waits_for_peers


def test_where_nothing_is_compared_nothing_is_refused(new_region: Any, words: Any) -> None:
    for rule in (NoFederation(), SpykerToken(distance_max=0.0)):
        region = region_of(new_region, rule, rules={PeerDistances: PeerDistances(refused={"there-1": WHY})})
        assert dict(region.refused_peers) == {}, "it may have been compared before"
        come(region, words, 1, FAR)
        come(region, words, 2, None)
        assert dict(region.refused_peers) == {}


@pytest.mark.parametrize("begun", [0, 1])
def test_a_peer_talks_its_way_round_the_guard_neither_within_an_exchange_nor_with_many(
    region: Any, words: Any, begun: int
) -> None:
    """It sends what is near, as often as it likes, and then what is far."""
    numbers, exchange, now_s = count(1), 0, 0.0

    def send(distance: float, after_s: float, begun: int = 1) -> int:
        nonlocal exchange, now_s
        number, exchange, now_s = next(numbers), exchange + begun, now_s + after_s
        base = None if number == 1 else number - 1
        message = PeerModel("there-1", "there/2", BroadcastId(9, exchange), region.age, number, base, b"")
        arrived = PeerModelArrived(message, words.vector(1), 5, Measured(distance, 20.0))
        return len(of(Merge, region.handle(arrived, now_s)))

    assert [send(1.0, 1.0) for _ in range(30)] == [1] * 30
    for _ in range(75):
        send(1.0, 0.01, begun)
    assert [send(29.0, 1.0) for _ in range(3)] == [0, 0, 0]
    assert list(region.refused_peers) == ["there-1"]


def test_what_is_written_down_outlives_a_restart(new_region: Any, words: Any) -> None:
    known = PeerDistances(refused={"there-1": WHY})
    region = region_of(new_region, rules={PeerDistances: known})
    assert dict(region.refused_peers) == {"there-1": WHY}
    assert not of(PeerAlarm, come(region, words, 1, FAR))


async def test_a_ruined_model_has_no_part_in_any_model_here_until_it_is_replaced(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, inline: Any
) -> None:
    """Through engine, journal and a restart: the region's model and the federated one stay as they were."""
    federation = SpykerToken(density=1.0, eta_a=1.0)
    recipe = Recipe(arrival=Constant(weight=0.5), downlink=Newest(), federation=federation)
    config = config_of(recipe, peers={"there-1": "http://there"})
    model, former = words.initial(), FormerLife(age=OLD)

    async def tell(engine: Any, number: int, values: Float32, *, whole: bool = False) -> None:
        vector = SparseVector.full(values)
        base = None if whole else number - 1
        message = PeerModel("there-1", "there/1", BroadcastId(9, number), OLD, number, base, sparse.encode(vector))
        await engine.ask(PeerModelArrived(message, vector))

    async with open_engine(config, new_listener(), inline, former=former) as engine:
        await tell(engine, 1, 100.0 * model, whole=True)
        assert engine.model().values.tobytes() == engine.model("federated").values.tobytes() == model.tobytes()
        status = engine.status()
        assert status.peers["there-1"].refused.endswith("whose own length is 4.69")
        assert (status.merges, status.peer_models_refused) == (0, {"there-1": 1})
    with closing(Store(config.state_dir, read_only=True)) as store:
        assert list(recover(store, config.state_dir, config.name).region.refused_peers) == ["there-1"], "for an export"
    async with open_engine(config, new_listener(), inline, former=former) as engine:
        assert engine.status().peers["there-1"].refused
        assert engine.model("federated").values.tobytes() == model.tobytes()
        await tell(engine, 2, np.float32(-98.9) * model)  # now 1.1 times ours
        assert engine.status().peers["there-1"].refused == ""
        merged = engine.model().values
        np.testing.assert_allclose(merged, 1.05 * model, atol=1e-5)
        assert not np.array_equal(engine.model("federated").values, merged)
        version = engine.version.number
    assert rebuild(config.state_dir, version).tobytes() == merged.tobytes()


@pytest.mark.parametrize(("distance_max", "threads"), [(5.0, 1), (0.0, 0)])
async def test_a_large_model_is_measured_beside_the_event_loop_and_only_where_it_is_compared(
    config_of: Any,
    open_engine: Any,
    new_listener: Any,
    words: Any,
    in_threads: Any,
    monkeypatch: pytest.MonkeyPatch,
    distance_max: float,
    threads: int,
) -> None:
    size = engine_module.COMPUTE_INLINE_ENTRIES_MAX + 1
    measured_in, measure = [], ModelState.measure

    def noted(state: ModelState, *one: Any) -> Measured | None:
        measured_in.append(threading.current_thread())
        return measure(state, *one)

    monkeypatch.setattr(ModelState, "measure", noted)
    federation = SpykerToken(distance_max=distance_max)
    config = config_of(Recipe(downlink=Newest(), federation=federation), peers={"there-1": "http://there"})
    vector = words.vector(1, size, size)
    message = PeerModel("there-1", "there/1", BroadcastId(9, 1), OLD, 1, None, sparse.encode(vector))
    initial = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    async with open_engine(config, new_listener(), in_threads, initial=initial) as engine:
        await engine.ask(PeerModelArrived(message, vector))
        assert engine.status().merges == 1
    assert len(measured_in) == threads
    assert threading.current_thread() not in measured_in
