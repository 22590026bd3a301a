"""Exchanges with a barrier, step by step and with many machines that are joined by hand."""

import random
from statistics import fmean

import pytest

from skerry.algorithms.barrier import BarrierMachine, BarrierState
from skerry.algorithms.federation import NoFederation, SynchronousExchange
from skerry.algorithms.token import Alone, Id, MergePeer, Publish, TokenEffect

RULE = SynchronousExchange(every_rounds=2, barrier_timeout_s=100.0)


def machine(
    name: str, *peers: str, rule: SynchronousExchange = RULE, state: BarrierState | None = None, now_s: float = 0.0
) -> BarrierMachine:
    started = rule.start(name, peers, now_s, None, state)
    assert isinstance(started, BarrierMachine)
    return started


def test_every_second_round_a_region_publishes_and_waits() -> None:
    a = machine("a", "b")
    assert a.updated(10.0, 3, 1.0) == []
    assert not a.blocks
    assert a.updated(20.0, 3, 2.0) == [Publish((0, 1))]
    assert a.blocks
    assert a.model_arrived("b", (0, 1), 40.0, 20.0, 3.0) == [MergePeer("b", 0.5, 30.0)]
    assert not a.blocks
    assert a.updated(40.0, 3, 4.0) == []
    assert a.updated(50.0, 3, 5.0) == [Publish((0, 2))]


def test_who_comes_last_waits_for_nobody() -> None:
    b = machine("b", "a", "c")
    b.model_arrived("c", (0, 1), 60.0, 0.0, 1.0)
    b.model_arrived("a", (0, 1), 0.0, 0.0, 1.0)
    b.updated(20.0, 3, 2.0)
    effects = b.updated(30.0, 3, 2.0)
    assert effects[0] == Publish((0, 1)), "the own model first, then the merges"
    assert [(e.peer, e.weight) for e in effects[1:] if isinstance(e, MergePeer)] == [
        ("a", 0.5),
        ("c", pytest.approx(1 / 3)),
    ]
    last = effects[-1]
    assert isinstance(last, MergePeer)
    assert last.age == pytest.approx(30.0)
    assert not b.blocks


def test_a_publication_of_an_earlier_exchange_does_not_end_a_later_one() -> None:
    a = machine("a", "b", state=BarrierState(exchange=4, rounds=1))
    assert a.updated(1.0, 1, 0.0) == [Publish((0, 5))]
    assert a.model_arrived("b", (0, 4), 1.0, 1.0, 0.0) == []
    assert a.blocks
    assert a.model_arrived("b", (0, 6), 1.0, 1.0, 0.0) == [MergePeer("b", 0.5, 1.0)]


def test_who_fell_behind_joins_the_others_exchange() -> None:
    a = machine("a", "b", state=BarrierState(exchange=1, rounds=1))
    a.model_arrived("b", (0, 7), 1.0, 1.0, 0.0)
    effects = a.updated(1.0, 1, 0.0)
    assert effects[0] == Publish((0, 7))
    assert a.token == (0, 7)


def test_a_dead_peer_is_not_waited_for() -> None:
    a = machine("a", "b", "c")
    a.peer_seen("b", (0, 0), 5.0)
    a.updated(1.0, 1, 5.0)
    a.updated(2.0, 1, 6.0)
    assert a.model_arrived("b", (0, 1), 2.0, 2.0, 7.0) == []
    assert a.wake_at_s == pytest.approx(10.0), "until then the start of c is its sign of life"
    assert a.tick(2.0, 1, 9.9) == []
    assert a.tick(2.0, 1, 10.0) == [MergePeer("b", 0.5, 2.0)]
    assert not a.blocks


def test_a_peer_that_lives_but_never_comes_is_waited_for_until_the_time_out() -> None:
    a = machine("a", "b")
    a.updated(1.0, 1, 0.0)
    a.updated(2.0, 1, 1.0)
    for second in range(2, 101):
        a.peer_seen("b", (0, 0), float(second))
        assert a.tick(2.0, 1, float(second)) == []
    a.peer_seen("b", (0, 0), 101.0)
    assert a.tick(2.0, 1, 101.0) == []
    assert not a.blocks


def test_alone_the_rounds_go_on() -> None:
    a = machine("a", "b")
    for number in range(6):
        assert a.updated(float(number), 1, 60.0 + number) == []
        assert not a.blocks
    assert isinstance(RULE.start("a", (), 0.0, None, None), Alone)
    assert not NoFederation().start("a", ("b",), 0.0, None).blocks


def test_an_interval_sets_the_exchanges_and_a_peers_model_begins_one() -> None:
    rule = SynchronousExchange(interval_s=5.0)
    a, b = machine("a", "b", rule=rule), machine("b", "a", rule=rule)
    assert a.updated(1.0, 1, 4.9) == []
    assert a.updated(2.0, 1, 4.9) == []
    assert a.wake_at_s == 5.0
    assert a.tick(2.0, 1, 5.0) == [Publish((0, 1))]
    assert b.model_arrived("a", (0, 1), 2.0, 0.0, 5.1) == [Publish((0, 1)), MergePeer("a", 0.5, 1.0)]
    assert a.model_arrived("b", (0, 1), 0.0, 2.0, 5.2) == [MergePeer("b", 0.5, 1.0)]
    assert a.wake_at_s == pytest.approx(10.2)


def test_a_restart_in_an_exchange_publishes_again_and_goes_on_waiting() -> None:
    a = machine("a", "b", "c")
    a.model_arrived("c", (0, 1), 7.0, 0.0, 0.0)
    a.updated(1.0, 1, 0.0)
    a.updated(2.0, 1, 0.0)
    again = machine("a", "b", "c", state=a.snapshot(), now_s=50.0)
    assert again.blocks
    assert again.tick(2.0, 1, 50.0) == [Publish((0, 1))]
    assert again.tick(2.0, 1, 51.0) == []
    effects = again.model_arrived("b", (0, 1), 2.0, 2.0, 52.0)
    assert [effect.peer for effect in effects if isinstance(effect, MergePeer)] == ["b", "c"]


@pytest.mark.parametrize(
    ("sender", "broadcast", "age"),
    [("x", (0, 1), 1.0), ("b", (3, 1), 1.0), ("b", (0, 1 << 60), 1.0), ("b", (0, 1), float("nan"))],
)
def test_what_cannot_be_is_not_counted(sender: str, broadcast: Id, age: float) -> None:
    a = machine("a", "b", state=BarrierState(exchange=0, rounds=1))
    a.updated(1.0, 1, 0.0)
    assert a.model_arrived(sender, broadcast, age, 1.0, 0.0) == []
    assert a.blocks


@pytest.mark.parametrize("seed", range(50))
def test_every_exchange_leaves_all_regions_with_the_mean_of_their_models(seed: int) -> None:
    """Models are numbers here; messages between a pair keep their order, come late, and come twice now and then.

    None comes a whole exchange before those of slower peers: there the newer model is taken, see `barrier`.
    """
    rng = random.Random(seed)
    names = ["a", "b", "c", "d"][: rng.randint(2, 4)]
    machines = {name: machine(name, *(peer for peer in names if peer != name)) for name in names}
    models = {name: rng.uniform(-1.0, 1.0) for name in names}
    ages = dict.fromkeys(names, 0.0)
    replicas: dict[tuple[str, str], float] = {}
    wires: dict[tuple[str, str], list[tuple[Id, float, float]]] = {
        (to, sender): [] for to in names for sender in names if to != sender
    }
    published: dict[int, list[tuple[float, float]]] = {}
    met: dict[int, list[tuple[float, float]]] = {}

    def perform(name: str, effects: list[TokenEffect]) -> None:
        for effect in effects:
            match effect:
                case Publish(broadcast):
                    published.setdefault(broadcast[1], []).append((models[name], ages[name]))
                    for peer in names:
                        if peer != name:
                            wires[peer, name].append((broadcast, models[name], ages[name]))
                case MergePeer(peer, weight, age):
                    models[name] += weight * (replicas[name, peer] - models[name])
                    ages[name] = age
        if any(isinstance(effect, MergePeer) for effect in effects):
            met.setdefault(machines[name].token[1], []).append((models[name], ages[name]))

    for _ in range(600):
        name, pair = rng.choice(names), rng.choice(list(wires))
        to, sender = pair
        if wires[pair] and not (machines[to].blocks and wires[pair][0][0] > machines[to].token):
            broadcast, model, age = wires[pair][0]
            if rng.random() < 0.9:
                del wires[pair][0]
            replicas[pair] = model
            perform(to, machines[to].model_arrived(sender, broadcast, age, ages[to], 0.0))
        elif not machines[name].blocks:
            models[name] += rng.uniform(-1.0, 1.0)
            ages[name] += 1.0
            perform(name, machines[name].updated(ages[name], 3, 0.0))

    complete = [exchange for exchange in met if len(met[exchange]) == len(names)]
    assert len(complete) > 3
    for exchange in complete:
        expected = fmean(model for model, _ in published[exchange])
        expected_age = fmean(age for _, age in published[exchange])
        assert [model for model, _ in met[exchange]] == pytest.approx([expected] * len(names))
        assert [age for _, age in met[exchange]] == pytest.approx([expected_age] * len(names))
