"""Who is let in, who is refused, who is kept apart: made-up fleets whose devices have different labels."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.algorithms.conduct import Conduct
from skerry.algorithms.guard import Clip, Guard, Outliers, Verdict, WellFormed
from skerry.vector import Float32, SparseVector

SIZE = 4000
Lie = Callable[[Float32, np.random.Generator], Float32]


def noise(difference: Float32, rng: np.random.Generator) -> Float32:
    """Return noise whose largest entries are about as large as the others'."""
    noisy: Float32 = np.float32(2.0 * np.std(difference)) * rng.standard_normal(len(difference), np.float32)
    return noisy


LIES: dict[str, Lie] = {
    "sign flip": lambda difference, _: -difference,
    "scaled": lambda difference, _: 30 * difference,
    "scaled sign flip": lambda difference, _: -30 * difference,
    "noise": noise,
}


class Fleet:
    """Devices that share a direction and have one of their own, as long: two labels of ten, say."""

    def __init__(self, seed: int, devices: int = 20, tail: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.devices = [f"d{number}" for number in range(devices)]
        self.tail = tail
        heavy = 1.0 / np.arange(1, SIZE + 1) ** 0.5  # some entries matter more than others, to everybody
        self._common = self.rng.permutation(heavy) * self.rng.choice([-1, 1], SIZE)
        self._own = {name: self.rng.standard_normal(SIZE) * np.abs(self._common) for name in self.devices}
        self._pace = {name: self.rng.uniform(0.5, 2.0) for name in self.devices}

    def difference(self, device: str) -> Float32:
        drawn = self._common + self._own[device] + self.rng.standard_normal(SIZE) * np.abs(self._common)
        difference: Float32 = (self._pace[device] * drawn).astype(np.float32)
        return difference

    def sent(self, difference: Float32, density: float = 0.1) -> SparseVector:
        head = SIZE - self.tail
        chosen = np.sort(np.argsort(-np.abs(difference[:head]))[: round(density * head)])
        indices = np.concatenate((chosen, np.arange(head, SIZE)))
        return SparseVector(SIZE, indices, difference[indices])


def train(guard: Guard, fleet: Fleet, rounds: int, liars: dict[str, Lie] | None = None) -> dict[str, list[Verdict]]:
    """Let every device send an update in each round; return what became of them, by device."""
    verdicts: dict[str, list[Verdict]] = {name: [] for name in fleet.devices}
    for _ in range(rounds):
        for name in fleet.devices:
            difference = fleet.difference(name)
            if liars and name in liars:
                difference = liars[name](difference, fleet.rng)
            verdicts[name].append(guard.judge(name, fleet.sent(difference)))
    return verdicts


def test_well_formed_compares_nothing() -> None:
    assert not WellFormed.compares
    assert WellFormed().start(SIZE, 0, []) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("seed", range(4))
def test_honest_devices_of_different_labels_are_let_in_whole(seed: int) -> None:
    guard = Outliers().start(SIZE, 0, [])
    verdicts = train(guard, Fleet(seed), 40)
    assert guard.quarantined == {}
    assert all(verdict == Verdict() for own in verdicts.values() for verdict in own[1:])


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("seed", range(3))
def test_liars_end_in_quarantine_and_nobody_else(lie: str, seed: int) -> None:
    fleet = Fleet(seed)
    liars = dict.fromkeys(fleet.devices[3::5], LIES[lie])
    guard = Outliers().start(SIZE, 0, [])
    verdicts = train(guard, fleet, 30, liars)
    assert set(guard.quarantined) == set(liars)
    for name, own in verdicts.items():
        refused = Counter(verdict.refused for verdict in own)
        if name in liars:
            assert refused["quarantined"] >= 5
            assert [verdict.alarm.partition(":")[0] for verdict in own if verdict.alarm] == [
                "in quarantine from now on"
            ]
        else:
            assert refused == {None: 30}


def test_what_is_far_too_long_never_counts_whole() -> None:
    fleet = Fleet(1)
    guard = Outliers(strikes_max=1000).start(SIZE, 0, [])
    verdicts = train(guard, fleet, 20, {"d7": LIES["scaled"]})
    assert [verdict.refused for verdict in verdicts["d7"]] == ["outlier"] * 20
    assert "times as long as the median device's" in verdicts["d7"][0].detail
    assert guard.quarantined == {}


def test_strikes_are_forgiven() -> None:
    fleet = Fleet(1)
    guard = Outliers().start(SIZE, 0, [])
    train(guard, fleet, 3)
    for _ in range(20):
        long = fleet.sent(30 * fleet.difference("d7"))
        assert guard.judge("d7", long).refused == "outlier"
        assert guard.judge("d7", fleet.sent(fleet.difference("d7"))).refused is None
    assert guard.line("d7").strikes == 0
    for strikes in range(1, 5):
        assert guard.judge("d7", fleet.sent(30 * fleet.difference("d7"))).refused == (
            "quarantined" if strikes == 4 else "outlier"
        )


def of_length(length: float) -> SparseVector:
    return SparseVector(4, np.array([1]), np.array([length], np.float32))


def test_while_few_are_known_an_update_counts_no_longer_than_the_others() -> None:
    guard = Outliers(devices_min=4).start(4, 0, [])

    def judge(name: str, length: float) -> float:
        return guard.judge(name, of_length(length)).factor

    assert judge("a", 8.0) == 1.0
    assert judge("a", 80.0) == 1.0, "there is nobody to compare it with"
    assert judge("b", 2.0) == 1.0
    assert judge("b", 1000.0) == pytest.approx(10 * 8.0 * 10**0.5 / 1000.0, rel=1e-3), "ten times that of a single one"
    assert judge("c", 1.0) == 1.0
    assert judge("c", 1000.0) == pytest.approx((2.0 * 1000.0) ** 0.5 / 1000.0, rel=1e-3), "of two others the longer"
    assert judge("d", 1.0) == 1.0
    assert guard.judge("d", of_length(1e3)).refused == "outlier"


@pytest.mark.parametrize("rule", [Outliers(), Clip()])
@pytest.mark.parametrize("devices", [3, 4])
def test_one_tiny_device_among_few_does_not_stop_training(rule: Outliers | Clip, devices: int) -> None:
    guard = rule.start(4, 0, [])
    factors = []
    for _ in range(20):
        guard.judge("tiny", of_length(1e-20))
        factors += [guard.judge(f"d{number}", of_length(1.0)).factor for number in range(1, devices)]
    assert min(factors[devices - 1 :]) == 1.0


@pytest.mark.parametrize("rule", [Outliers(), Clip()])
@pytest.mark.parametrize(("honest", "length"), [(1, 10.0), (2, 1.0), (3, 1.0)])
def test_among_few_a_liar_counts_no_longer_by_repeating_itself(
    rule: Outliers | Clip, honest: int, length: float
) -> None:
    guard = rule.start(4, 0, [])
    for _ in range(10):
        for number in range(honest):
            assert guard.judge(f"d{number}", of_length(1.0)).factor == 1.0
        for _ in range(5):
            assert guard.judge("liar", of_length(1e4)).factor * 1e4 == pytest.approx(length, rel=1e-3)


@pytest.mark.parametrize("rule", [Outliers(release_after=5), Clip()])
@pytest.mark.parametrize("length", [0.0, 1e-6, 1.0])
def test_however_much_one_device_sends_nobody_else_has_left(rule: Outliers | Clip, length: float) -> None:
    guard = rule.start(4, 0, [])
    for _ in range(10):
        for number in range(20):
            guard.judge(f"d{number}", of_length(1.0))
    for _ in range(2000):
        guard.judge("liar", of_length(length))
    assert len(guard._recent) == 21
    for _ in range(20):
        verdict = guard.judge("liar", of_length(1e4))
        assert verdict.refused is not None or verdict.factor * 1e4 == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize(("devices", "too_few"), [(40, 9), (12, 4)])
def test_fewer_than_a_quarter_do_not_make_the_others_leave_and_a_quarter_does(devices: int, too_few: int) -> None:
    """Nor do fewer than `devices_min`."""
    guard = Outliers().start(4, 0, [])
    for number in range(devices):
        guard.judge(f"d{number}", of_length(1.0))
    for fast, stay in ((too_few, devices), (too_few + 1, too_few + 1)):
        for _ in range(100):
            for number in range(fast):
                guard.judge(f"d{number}", of_length(1.0))
        assert len(guard._recent) == len(guard._lengths) == stay


def test_devices_that_never_sent_anything_but_zeros_do_not_make_the_others_leave() -> None:
    guard = Outliers().start(4, 0, [])
    for number in range(10):
        guard.judge(f"d{number}", of_length(1.0))
    for _ in range(100):
        for number in range(10):
            guard.judge(f"empty{number}", of_length(0.0))
    assert len(guard._lengths) == 10


@pytest.mark.parametrize("each", [1, 40])
def test_a_device_that_sends_more_often_is_kept_apart_all_the_same(each: int) -> None:
    """First nothing, which makes it nobody's outlier; then the negative, `each` to one of every other device's."""
    fleet = Fleet(10)
    guard = Outliers(release_after=10).start(SIZE, 0, [])
    train(guard, fleet, 5)
    for _ in range(20 * each):
        guard.judge("d3", fleet.sent(np.zeros(SIZE, np.float32)))
    taken = 0
    for _ in range(5):
        lie = fleet.sent(-fleet.difference("d3"))
        for name in fleet.devices[4:]:
            assert guard.judge(name, fleet.sent(fleet.difference(name))).refused is None
            taken += sum(guard.judge("d3", lie).refused is None for _ in range(each))
    assert set(guard.quarantined) == {"d3"}
    assert taken <= 20


@pytest.mark.parametrize("seed", range(2))
def test_honest_devices_of_very_different_rates_are_let_in_and_none_has_left(seed: int) -> None:
    """One sends forty times as often as others, four ten times, one in every third round alone."""
    fleet = Fleet(seed)
    each = dict.fromkeys(fleet.devices, 1) | {"d0": 40} | dict.fromkeys(("d1", "d2", "d3", "d4"), 10)
    guard = Outliers().start(SIZE, 0, [])
    for turn in range(8):
        for name in fleet.devices:
            update = fleet.sent(fleet.difference(name))
            for _ in range(each[name] if name != "d5" or turn % 3 == 0 else 0):
                verdict = guard.judge(name, update)
                assert turn == 0 or verdict == Verdict()
    assert guard.quarantined == {}
    assert len(guard._recent) == 20


def test_among_devices_in_quarantine_alone_what_is_far_longer_than_theirs_counts_no_more() -> None:
    """Those who put them there have left; the first that comes out has nobody else to be compared with."""
    apart = [Conduct(f"d{number}", length=0.0, quarantine="once", turn=40) for number in range(8)]
    left = [Conduct(f"old{number}", length=5.0) for number in range(20)]
    guard = Outliers(release_after=3).start(4, 0, [*apart, *left])
    for _ in range(3):
        assert guard.judge("d0", of_length(1.0)).refused == "quarantined"
    assert guard.judge("d0", of_length(1.0)) == Verdict()
    for _ in range(10):
        assert guard.judge("d0", of_length(1e4)).factor * 1e4 == pytest.approx(1.0)


@pytest.mark.parametrize("cosine", [-0.4, 0.4])
def test_who_was_last_seen_to_point_away_is_not_let_in_by_length_alone(cosine: float) -> None:
    apart = [
        Conduct(f"d{number}", length=0.0, quarantine="once", turn=40, cosines=20, cosine=cosine) for number in range(8)
    ]
    guard = Outliers(release_after=3).start(4, 0, apart)
    for _ in range(10):
        guard.judge("d0", of_length(1.0))
    assert ("d0" in guard.quarantined) == (cosine < 0.0)


@pytest.mark.parametrize("cosines", [0, 10])
def test_nobody_is_let_in_before_its_direction_can_be_judged(cosines: int) -> None:
    honest = [Conduct(f"d{number}", length=0.0, cosines=cosines, cosine=0.4, chance=20.0) for number in range(8)]
    liar = Conduct("liar", length=0.0, quarantine="once", cosines=20, cosine=0.0, chance=20.0)
    guard = Outliers(release_after=3).start(4, 0, [*honest, liar])
    for _ in range(10):
        guard.judge("liar", of_length(1.0))
    assert ("liar" in guard.quarantined) == (cosines == 0)


def test_devices_that_left_do_not_put_away_for_good_those_that_came_for_them() -> None:
    """Others with a longer cycle: their updates are six times as long."""
    guard = Outliers().start(4, 0, [])
    for _ in range(20):
        for number in range(30):
            guard.judge(f"old{number}", of_length(1.0))
    counted = 0
    for turn in range(100):
        for number in range(12):
            verdict = guard.judge(f"new{number}", of_length(6.0))
            counted += verdict.refused is None
            assert verdict.refused is None or turn < 80
    assert guard.quarantined == {}
    assert counted >= 20 * 12


def test_those_who_left_count_neither_in_what_is_usual_nor_in_the_share() -> None:
    fleet = Fleet(4, devices=40)
    guard = Outliers(share_max=0.2).start(SIZE, 0, [])
    train(guard, fleet, 10)
    fleet.devices = fleet.devices[:10]
    train(guard, fleet, 20)
    assert len(guard._lengths) == len(guard._cosines) == 10
    train(guard, fleet, 20, dict.fromkeys(fleet.devices[:3], LIES["scaled"]))
    assert len(guard.quarantined) == 2, "of ten, not of forty"
    assert guard.line("d39").taken == 10, "but what is known of them is kept"


def test_liars_that_stay_behind_alone_are_not_let_in_by_a_few_and_a_slow_device_is_not_forgotten() -> None:
    fleet = Fleet(5)
    guard = Outliers(release_after=7).start(SIZE, 0, [])
    liars = dict.fromkeys(fleet.devices[:4], LIES["scaled"])
    train(guard, fleet, 20, liars)
    assert set(guard.quarantined) == set(liars)
    everybody, fleet.devices = fleet.devices, fleet.devices[:4]
    verdicts = train(guard, fleet, 100, liars)
    assert all(verdict.refused == "quarantined" for own in verdicts.values() for verdict in own), "four are too few"
    fleet.devices = everybody
    assert [verdict.refused for verdict in train(guard, fleet, 3)["d7"]] == [None] * 3


def test_an_operators_word_brings_a_device_back_that_was_silent_for_long() -> None:
    fleet = Fleet(6)
    guard = Outliers(release_after=None).start(SIZE, 0, [])
    train(guard, fleet, 20, {"d3": LIES["scaled"]})
    silent, fleet.devices = fleet.devices, [name for name in fleet.devices if name != "d3"]
    train(guard, fleet, 10)
    assert guard.release("d3")
    assert len(guard._lengths) == 20
    again = Outliers().start(SIZE, 0, [guard.line(name) for name in silent])
    assert len(again._lengths) == 20, "after a restart, too"
    fleet.devices = fleet.devices[:10]
    train(guard, fleet, 30)
    assert len(guard._lengths) == 10
    fleet.devices = silent
    assert train(guard, fleet, 1)["d3"] == [Verdict()]


def test_the_statistics_at_the_end_are_measured_for_themselves() -> None:
    fleet = Fleet(2, tail=100)
    guard = Outliers().start(SIZE, 100, [])

    def poisoned(difference: Float32, _: np.random.Generator) -> Float32:
        return np.concatenate((difference[:-100], 30 * difference[-100:]))

    train(guard, fleet, 10, {"d4": poisoned})
    assert set(guard.quarantined) == {"d4"}


def test_a_learning_rate_that_rises_everywhere_locks_nobody_out() -> None:
    fleet = Fleet(3)
    guard = Outliers().start(SIZE, 0, [])
    train(guard, fleet, 10)
    verdicts = train(guard, fleet, 20, dict.fromkeys(fleet.devices, LIES["scaled"]))
    assert guard.quarantined == {}
    assert all(verdict.refused is None for own in verdicts.values() for verdict in own[4:])


def test_at_most_a_share_of_the_devices_is_kept_apart() -> None:
    fleet = Fleet(4)
    guard = Outliers(share_max=0.1).start(SIZE, 0, [])
    liars = dict.fromkeys(fleet.devices[:4], LIES["scaled"])
    verdicts = train(guard, fleet, 20, liars)
    assert len(guard.quarantined) == 2
    alarms = [verdict.alarm for own in verdicts.values() for verdict in own if verdict.alarm]
    assert sum("would be in quarantine, were not 2 of 20 devices there" in alarm for alarm in alarms) == 1
    assert all(verdict.refused for name in liars for verdict in verdicts[name][1:]), "too long is too long all the same"


def test_those_in_quarantine_have_no_part_in_what_is_usual() -> None:
    fleet = Fleet(4)
    guard = Outliers(release_after=None).start(SIZE, 0, [])
    train(guard, fleet, 20, dict.fromkeys(fleet.devices[3::5], LIES["scaled sign flip"]))
    assert set(guard.quarantined) == set(fleet.devices[3::5])
    assert len(guard._lengths) == len(guard._cosines) == len(guard._chances) == 16
    assert guard.release("d3")
    train(guard, fleet, 1)
    assert len(guard._lengths) == 17


def test_a_device_comes_back_after_enough_updates_in_order() -> None:
    fleet = Fleet(5)
    guard = Outliers(release_after=7).start(SIZE, 0, [])
    train(guard, fleet, 5)
    train(guard, fleet, 4, {"d3": LIES["scaled"]})
    assert set(guard.quarantined) == {"d3"}
    verdicts = train(guard, fleet, 8)["d3"]
    assert [verdict.refused for verdict in verdicts] == ["quarantined"] * 7 + [None]
    assert "let in again after 7 updates in order" in verdicts[6].alarm


def test_one_that_goes_on_lying_does_not_come_back() -> None:
    fleet = Fleet(5)
    guard = Outliers(release_after=7).start(SIZE, 0, [])
    train(guard, fleet, 60, {"d3": LIES["sign flip"], "d9": LIES["noise"]})
    assert set(guard.quarantined) == {"d3", "d9"}


def test_an_operator_lets_a_device_in_and_its_direction_is_judged_anew() -> None:
    fleet = Fleet(6)
    guard = Outliers(release_after=None).start(SIZE, 0, [])
    train(guard, fleet, 20, {"d3": LIES["sign flip"]})
    assert not guard.release("d4")
    assert not guard.release("nobody")
    assert guard.release("d3")
    assert guard.quarantined == {}
    assert all(verdict.refused is None for verdict in train(guard, fleet, 20)["d3"])


def test_what_was_written_down_is_enough_to_go_on() -> None:
    fleet = Fleet(7)
    guard = Outliers().start(SIZE, 0, [])
    train(guard, fleet, 20, {"d3": LIES["sign flip"]})
    again = Outliers().start(SIZE, 0, [guard.line(name) for name in fleet.devices])
    assert again.quarantined == guard.quarantined
    assert again.judge("d5", fleet.sent(30 * fleet.difference("d5"))).refused == "outlier"
    assert again.judge("d3", fleet.sent(fleet.difference("d3"))).refused == "quarantined"
    verdicts = train(again, fleet, 10)
    assert all(verdict.refused is None for name, own in verdicts.items() if name != "d3" for verdict in own)


def test_a_device_that_sends_more_often_has_no_more_say_of_the_direction() -> None:
    """Eight updates of a liar to each of others': more than half of all. They must not become the direction."""
    fleet = Fleet(8, devices=6)
    guard = Outliers(share_max=0.5).start(SIZE, 0, [])
    for _ in range(25):
        train(guard, fleet, 1, {"d0": LIES["sign flip"]})
        for _ in range(7):
            guard.judge("d0", fleet.sent(-fleet.difference("d0")))
    assert set(guard.quarantined) <= {"d0"}
    assert guard.line("d0").cosine < 0.0


def test_clipping_shortens_and_refuses_nothing() -> None:
    fleet = Fleet(9)
    guard = Clip(clip_factor=2.0).start(SIZE, 0, [])
    verdicts = train(guard, fleet, 20, {"d7": LIES["scaled"]})
    assert all(verdict.refused is None for own in verdicts.values() for verdict in own)
    shortest = [name for name, own in verdicts.items() if own[-1].factor == 1.0]
    assert len(shortest) >= 15
    length = np.linalg.norm(fleet.sent(30 * fleet.difference("d7")).values)
    usual = np.median([np.exp(guard.line(name).length or 0.0) for name in fleet.devices])
    assert verdicts["d7"][-1].factor * length == pytest.approx(2.0 * usual, rel=0.2)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), power=st.floats(-40.0, 40.0), zeros=st.booleans(), dense=st.booleans())
def test_whatever_is_sent_is_answered_and_never_enlarged(seed: int, power: float, zeros: bool, dense: bool) -> None:
    rng = np.random.default_rng(seed)
    guard = Outliers(devices_min=3, updates_min=1, clip_factor=1.0).start(40, 5, [])
    for number in range(60):
        values = rng.standard_normal(40 if dense else 9).astype(np.float32)
        if number % 3 == 0:
            values = np.zeros_like(values) if zeros else (values * 10.0 ** min(power, 29.0)).astype(np.float32)
        indices = np.sort(rng.choice(40, len(values), replace=False))
        verdict = guard.judge(f"d{number % 6}", SparseVector(40, indices, values))
        assert 0.0 < verdict.factor <= 1.0
        assert verdict.refused is None or verdict.detail
        for name in ("d0", "d1"):
            line = guard.line(name)
            assert np.isfinite([line.length or 0.0, line.tail_length or 0.0, line.cosine, line.chance]).all()
