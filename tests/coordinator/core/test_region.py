"""The region's decisions, event by event: no disk, no clock, no network."""

import math
from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.age_history import AgeHistory
from coordinator.events import (
    Apply,
    DeviceConnected,
    DeviceDisconnected,
    JournalUpdate,
    Malformed,
    OfferDone,
    OfferModel,
    ReleaseUpdate,
    SaveRuleState,
    SaveTelemetry,
    SendToDevice,
    TelemetryArrived,
    Tick,
    UpdateArrived,
)
from coordinator.region_state import RegionState
from skerry.agent_stages import AgentStages
from skerry.algorithms.arrival import Constant, FedBuff, GainControlled, Spyker
from skerry.algorithms.decay import Relative
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation
from skerry.algorithms.gain import GainState
from skerry.algorithms.local_steps import Cycle
from skerry.algorithms.privacy import Gaussian
from skerry.protocol.limits import ANSWERS_MAX
from skerry.protocol.messages import (
    ModelVersion,
    Telemetry,
    UpdateAccepted,
    UpdateRejected,
    Welcome,
)
from skerry.recipe import Recipe

LINEAGE = "here/00000001"


def version(number: int) -> ModelVersion:
    return ModelVersion(LINEAGE, number)


def of(kind: type[Any], effects: list[Any]) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def said(effects: list[Any]) -> list[Any]:
    """What the device is told."""
    return [effect.message for effect in of(SendToDevice, effects)]


# --- updates ---


def test_an_update_is_journalled_then_applied_then_acknowledged(new_region: Any, words: Any) -> None:
    region = new_region()
    effects = region.handle(words.update("kite", 1, version(0)), 1.0)
    assert [type(effect) for effect in effects] == [JournalUpdate, Apply, SendToDevice]
    journal, apply, told = effects
    assert (journal.position, journal.version, journal.age, journal.staleness) == (1, 1, 1.0, 0.0)
    assert (apply.position, apply.version, apply.weight, apply.age) == (1, 1, journal.weight, 1.0)
    assert told.message == UpdateAccepted(1, 1, journal.weight, told.message.plan)
    assert journal.weight == pytest.approx(0.6)  # Spyker's server rate, for a fresh update


def test_a_repeat_is_acknowledged_as_the_first_time_and_not_applied(new_region: Any, words: Any) -> None:
    region = new_region()
    first = said(region.handle(words.update("kite", 1, version(0)), 1.0))
    region.handle(words.update("kite", 2, version(0)), 1.0)
    again = region.handle(words.update("kite", 1, version(0)), 2.0)
    assert not of(JournalUpdate, again)
    assert not of(Apply, again)
    assert [(m.sequence, m.version, m.weight) for m in said(again)] == [(1, 1, first[0].weight)]
    assert region.counts.repeats == 1


def test_a_repeat_that_is_malformed_by_now_is_still_a_repeat(new_region: Any, words: Any) -> None:
    region = new_region()
    update = words.update("kite", 1, version(0))
    region.handle(update, 1.0)
    torn = UpdateArrived("kite", update.offered, b"", Malformed("malformed", "torn"), 90)
    assert isinstance(said(region.handle(torn, 2.0))[0], UpdateAccepted)


def test_a_whole_model_is_journalled_and_applied_as_one(new_region: Any, words: Any) -> None:
    region = new_region()
    update = words.update("kite", 1, version(0), whole=True, vector=words.vector(1, words.size))
    effects = region.handle(update, 1.0)
    assert of(JournalUpdate, effects)[0].arrived.offered.whole
    assert of(Apply, effects)[0].whole
    held = new_region(Recipe(arrival=FedBuff(2), downlink=Newest(), federation=NoFederation()))
    held.handle(update, 1.0)  # of an agent that still goes by another recipe
    effects = held.handle(words.update("tern", 1, version(0)), 1.0)
    assert [effect.whole for effect in of(Apply, effects)] == [True, False]


def test_a_whole_model_that_lacks_entries_is_malformed(new_region: Any, words: Any) -> None:
    region = new_region()
    (answer,) = said(region.handle(words.update("kite", 1, version(0), whole=True), 1.0))
    assert isinstance(answer, UpdateRejected)
    assert answer.reason == "malformed"


def test_a_controlled_rate_is_written_down_with_the_weight_that_it_gave(new_region: Any, words: Any) -> None:
    recipe = Recipe(arrival=GainControlled(), federation=NoFederation())
    region = new_region(recipe)
    for device in ("crow", "kite", "wren", "dove"):
        region.handle(words.hello(device), 0.0)
    effects = region.handle(words.update("crow", 1, version(0)), 1.0)
    (journal,), (saved,) = of(JournalUpdate, effects), of(SaveRuleState, effects)
    assert journal.weight < 0.6
    assert saved.state.devices == 4
    state = RegionState(LINEAGE, AgeHistory(0, [0.0, 1.0]), rules={GainState: saved.state})
    again = new_region(recipe, state=state)
    for device in ("crow", "kite", "wren", "dove"):
        again.handle(words.hello(device), 0.0)
    update = words.update("kite", 1, version(0))
    weights = [of(JournalUpdate, one.handle(update, 2.0))[0].weight for one in (region, again)]
    assert weights[0] == weights[1]
    assert weights[0] < journal.weight  # one behind


def test_the_weight_of_a_repeat_from_long_ago_is_unknown(new_region: Any, words: Any) -> None:
    region = new_region()
    for sequence in range(1, ANSWERS_MAX + 2):
        region.handle(words.update("kite", sequence, version(0)), 1.0)
    (forgotten,) = said(region.handle(words.update("kite", 1, version(0)), 2.0))
    (remembered,) = said(region.handle(words.update("kite", 2, version(0)), 2.0))
    assert forgotten.weight is None
    assert remembered.weight is not None


def test_numbers_may_be_skipped(new_region: Any, words: Any) -> None:
    region = new_region()
    region.handle(words.update("kite", 57, version(0)), 1.0)
    assert region.version == 1
    region.handle(words.update("kite", 60, version(0)), 1.0)
    assert region.version == 2


def test_a_number_that_was_passed_over_is_not_acknowledged(new_region: Any, words: Any) -> None:
    """Update 2 was rejected and the answer got lost: the device must learn that it is to keep what it learned."""
    region = new_region()
    region.handle(words.update("kite", 1, version(0)), 1.0)
    region.handle(words.update("kite", 3, version(0)), 1.0)
    (answer,) = said(region.handle(words.update("kite", 2, version(0)), 2.0))
    assert isinstance(answer, UpdateRejected)
    assert answer.reason == "wrong_sequence"
    assert (region.version, region.counts.repeats) == (2, 0)


def test_an_update_of_another_region_under_an_old_number_is_not_acknowledged(new_region: Any, words: Any) -> None:
    """A device that was set up anew counts from 1 elsewhere, and then comes here, where its name has got further."""
    region = new_region()
    for sequence in range(1, ANSWERS_MAX + 10):
        region.handle(words.update("kite", sequence, version(0)), 1.0)
    (answer,) = said(region.handle(words.update("kite", 2, ModelVersion("there/00000002", 0)), 2.0))
    assert isinstance(answer, UpdateRejected)
    assert answer.reason == "unknown_base"


@pytest.mark.parametrize(
    "base",
    [ModelVersion("here/0badf00d", 0), ModelVersion(LINEAGE, 6), ModelVersion(LINEAGE, 2)],
    ids=["another life", "yet to come", "forgotten"],
)
def test_an_update_on_an_unknown_base_is_rejected_and_not_remembered(
    new_region: Any, words: Any, base: ModelVersion
) -> None:
    region = new_region()
    for sequence in range(1, 6):
        region.handle(words.update("kite", sequence, version(0)), 1.0)
    region.forget_before(3)
    (answer,) = said(region.handle(words.update("tern", 1, base), 1.0))
    assert isinstance(answer, UpdateRejected)
    assert answer.reason == "unknown_base"
    assert region.version == 5
    assert region.ledger.last_sequence("tern") == 0
    accepted = said(region.handle(words.update("tern", 1, version(3)), 1.0))
    assert isinstance(accepted[0], UpdateAccepted)


def test_a_copy_of_a_rejected_update_is_rejected_on_the_same_stream(new_region: Any, words: Any) -> None:
    """The device has returned what it learned to its residual: applied after all, it would count twice."""
    region = new_region()
    region.handle(words.hello("kite"), 0.0)
    update = words.update("kite", 1, version(0))
    torn = UpdateArrived("kite", update.offered, b"", Malformed("malformed", "a gap"), 90)
    assert said(region.handle(torn, 1.0))[0].reason == "malformed"
    assert said(region.handle(update, 1.1))[0].reason == "wrong_sequence"
    assert region.version == 0
    region.handle(DeviceDisconnected("kite"), 2.0)
    region.handle(words.hello("kite"), 2.1)
    (answer,) = said(region.handle(update, 2.2))
    assert isinstance(answer, UpdateAccepted), "offered anew: the rejection did not arrive"


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_rejected(new_region: Any, words: Any, loss: float) -> None:
    region = new_region()
    (answer,) = said(region.handle(words.update("kite", 1, version(0), loss=loss), 1.0))
    assert (answer.reason, region.version) == ("not_finite", 0)


def test_a_payload_that_is_no_update_is_rejected_with_its_reason(new_region: Any, words: Any) -> None:
    region = new_region()
    update = words.update("kite", 1, version(0))
    bad = UpdateArrived("kite", update.offered, b"", Malformed("wrong_size", "7 entries"), 90)
    assert said(region.handle(bad, 1.0)) == [UpdateRejected(1, "wrong_size", "7 entries")]
    assert region.counts.rejected == {"wrong_size": 1}


def test_staleness_is_how_far_the_age_moved_since_the_base(new_region: Any, words: Any) -> None:
    region = new_region()
    for sequence in range(1, 5):
        region.handle(words.update("kite", sequence, version(0)), 1.0)
    (journal,) = of(JournalUpdate, region.handle(words.update("tern", 1, version(1)), 1.0))
    assert journal.staleness == 3.0
    assert journal.base_number == 1
    assert journal.weight == pytest.approx(0.6 / math.sqrt(4.0))


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["kite", "tern", "gull"]),
        st.sampled_from(["next", "repeat", "gap", "reconnect", "unknown_base", "malformed", "foreign"]),
        st.integers(0, 5),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(operations=OPERATIONS, rule=st.sampled_from([Spyker(), Constant(), FedBuff(size=3)]))
def test_every_acknowledged_update_is_journalled_exactly_once(
    operations: Any, rule: Any, new_region: Any, words: Any
) -> None:
    """Whatever devices repeat, skip or break: one row per acknowledged number, versions without gap or repeat."""
    region = new_region(Recipe(arrival=rule, federation=NoFederation()))
    newest: dict[str, int] = defaultdict(int)
    journal: dict[tuple[str, int], int] = {}
    applied: list[tuple[int, int, float]] = []
    acknowledged: dict[tuple[str, int], float | None] = {}
    rejected: dict[str, set[int]] = {}  # on the present stream of each device that is connected
    for step, (device, operation, argument) in enumerate(operations):
        base = version(max(0, region.version - argument))
        match operation:
            case "reconnect":
                region.handle(DeviceDisconnected(device), step)
                event: Any = words.hello(device)
                rejected[device] = set()
            case "repeat":
                event = words.update(device, max(1, newest[device] - argument), base)
            case "unknown_base":
                event = words.update(device, newest[device] + 1, ModelVersion("there/00000002", 0))
            case "foreign":
                event = words.update(device, max(1, newest[device] - argument - 1), ModelVersion("there/00000002", 0))
            case "malformed":
                whole = words.update(device, newest[device] + 1, base)
                event = UpdateArrived(device, whole.offered, b"", Malformed("malformed", ""), 1)
            case _:
                event = words.update(device, newest[device] + (1 if operation == "next" else 1 + argument), base)
        effects = region.handle(event, float(step))
        written = {effect.position for effect in of(JournalUpdate, effects) + of(ReleaseUpdate, effects)}
        seen_positions: set[int] = set()
        for effect in effects:
            match effect:
                case JournalUpdate():
                    key = effect.arrived.device, effect.arrived.offered.sequence
                    assert key not in journal, "journalled twice"
                    assert key[1] not in rejected.get(device, ()), "applied though the device took it back"
                    journal[key] = effect.position
                    newest[device] = effect.arrived.offered.sequence
                    seen_positions.add(effect.position)
                case ReleaseUpdate():
                    seen_positions.add(effect.position)
                case Apply():
                    assert effect.position in seen_positions, "applied ahead of its journal entry"
                    applied.append((effect.version, effect.position, effect.weight))
                case SendToDevice(to, UpdateAccepted() as answer):
                    assert seen_positions == written, "acknowledged ahead of the journal"
                    assert (to, answer.sequence) in journal, "acknowledged, and not there"
                    if acknowledged.get((to, answer.sequence)) is not None and answer.weight is not None:
                        assert acknowledged[to, answer.sequence] == answer.weight
                    acknowledged[to, answer.sequence] = answer.weight
                case SendToDevice(to, UpdateRejected() as answer):
                    in_journal = (to, answer.sequence) in journal
                    assert operation == "foreign" or not in_journal, "rejected though it is in the journal"
                    if to in rejected:
                        rejected[to].add(answer.sequence)
                case _:
                    pass
    assert [one[0] for one in applied] == list(range(1, len(applied) + 1))
    assert len({one[1] for one in applied}) == len(applied)
    assert len(applied) + len(region.held) == len(journal)
    assert sum(region.ledger.updates) == len(journal)
    assert region.age == float(len(applied))


# --- arrival rules that hold ---


def test_held_updates_are_acknowledged_at_once_and_applied_together(new_region: Any, words: Any) -> None:
    region = new_region(Recipe(arrival=FedBuff(size=3), downlink=Newest(), federation=NoFederation()))
    held = [region.handle(words.update(device, 1, version(0)), 1.0) for device in ("kite", "tern")]
    for effects in held:
        assert [type(effect) for effect in effects] == [JournalUpdate, SendToDevice]
        assert (effects[0].version, effects[0].weight, effects[0].age) == (None, None, None)
        assert (said(effects)[0].weight, said(effects)[0].version) == (None, 0)
    assert said(region.handle(words.update("kite", 1, version(0)), 1.0))[0].weight is None

    effects = region.handle(words.update("gull", 1, version(0)), 1.0)
    kinds = [type(effect) for effect in effects]
    assert kinds == [ReleaseUpdate, ReleaseUpdate, JournalUpdate, Apply, Apply, Apply, SendToDevice]
    assert [(one.position, one.version) for one in of(Apply, effects)] == [(1, 1), (2, 2), (3, 3)]
    assert [one.weight for one in of(ReleaseUpdate, effects)] == pytest.approx([1 / 3, 1 / 3])
    assert not region.held
    assert said(region.handle(words.update("kite", 1, version(0)), 1.0))[0].weight == pytest.approx(1 / 3)
    assert region.age == 3.0


# --- the plan ---


def test_the_cycle_follows_the_median_speed_of_the_devices(new_region: Any, words: Any) -> None:
    rule = Cycle(steps_median=10, cycle_min_s=0.1)
    region = new_region(Recipe(local_steps=rule, federation=NoFederation()))
    (welcome,) = said(region.handle(words.hello("kite", seconds_per_step=0.1), 0.0))
    assert welcome.plan.cycle_s == pytest.approx(1.0)
    region.handle(words.hello("tern", seconds_per_step=0.5), 0.1)
    region.handle(words.hello("gull", seconds_per_step=0.3), 0.2)
    (accepted,) = said(region.handle(words.update("kite", 1, version(0), seconds_per_step=0.1), 0.3))
    assert accepted.plan.cycle_s == pytest.approx(3.0)
    region.handle(TelemetryArrived("gull", telemetry(seconds_per_step=0.4)), 0.4)
    assert region.planner.cycle_s(2.0) == pytest.approx(4.0)


def test_a_device_not_heard_of_for_long_does_not_set_the_pace(new_region: Any, words: Any) -> None:
    region = new_region(Recipe(local_steps=Cycle(steps_median=10, cycle_min_s=0.1), federation=NoFederation()))
    region.handle(words.hello("slow", seconds_per_step=9.0), 0.0)
    region.handle(words.hello("kite", seconds_per_step=0.1), 700.0)
    assert region.planner.cycle_s(701.0) == pytest.approx(1.0)


def test_a_device_that_contributes_more_than_others_learns_more_slowly(new_region: Any, words: Any) -> None:
    region = new_region(Recipe(decay=Relative(), federation=NoFederation()))
    (first,) = said(region.handle(words.update("tern", 1, version(0)), 0.0))
    for sequence in range(1, 100):
        last = said(region.handle(words.update("kite", sequence, version(0)), 0.0))[0]
    assert last.plan.learning_rate < first.plan.learning_rate
    (other,) = said(region.handle(words.update("tern", 2, version(0)), 0.0))
    assert other.plan.learning_rate == first.plan.learning_rate


def telemetry(seconds_per_step: float = 0.1) -> Telemetry:
    return Telemetry(1.0, 1.0, 0.0, 1, 20, seconds_per_step, 1, 1, 1, 0, None)


def test_telemetry_is_kept(new_region: Any) -> None:
    assert new_region().handle(TelemetryArrived("kite", telemetry()), 1.0) == [SaveTelemetry("kite", telemetry())]


def test_what_a_device_told_is_known_for_as_long_as_its_stream(new_region: Any, words: Any) -> None:
    region = new_region()
    region.handle(TelemetryArrived("kite", telemetry()), 0.0)  # its stream has ended meanwhile
    region.handle(words.hello("kite"), 1.0)
    assert region.links["kite"].told is None
    region.handle(TelemetryArrived("kite", telemetry()), 2.0)
    assert region.links["kite"].told == telemetry()
    region.handle(words.hello("kite"), 3.0)
    assert region.links["kite"].told is None


# --- the way down ---


def test_a_new_device_is_welcomed_and_offered_the_whole_model(new_region: Any, words: Any) -> None:
    region = new_region()
    welcome, offer = region.handle(words.hello("kite"), 0.0)
    assert isinstance(welcome.message, Welcome)
    assert welcome.message.last_sequence == 0
    assert msgspec.convert(welcome.message.recipe, AgentStages) == words.lone.agent_stages()
    assert offer == OfferModel("kite", None)
    noisy = new_region(Recipe(privacy=Gaussian(), federation=NoFederation())).handle(words.hello("kite"), 0.0)[0]
    assert noisy.message.recipe["privacy"]["clip_norm"] == Gaussian().norm(words.size)


def test_a_device_that_holds_an_older_version_is_offered_the_difference(new_region: Any, words: Any) -> None:
    region = new_region()
    region.handle(words.update("tern", 1, version(0)), 0.0)
    region.handle(words.update("tern", 2, version(0)), 0.0)
    assert of(OfferModel, region.handle(words.hello("kite", version(1)), 1.0)) == [OfferModel("kite", 1)]
    assert of(OfferModel, region.handle(words.hello("gull", version(2)), 1.0)) == []
    assert of(OfferModel, region.handle(words.hello("skua", ModelVersion("there/1", 2)), 1.0)) == [
        OfferModel("skua", None)
    ]
    region.forget_before(2)
    assert of(OfferModel, region.handle(words.hello("loon", version(1)), 1.0)) == [OfferModel("loon", None)]


def test_one_offer_at_a_time_and_one_per_half_cycle(new_region: Any, words: Any) -> None:
    region = new_region(
        Recipe(
            local_steps=Cycle(steps_median=20, cycle_min_s=1.0, cycle_max_s=1.0),
            downlink=Newest(),
            federation=NoFederation(),
        )
    )

    def offers(sequence: int, now_s: float) -> list[Any]:
        return of(OfferModel, region.handle(words.update("kite", sequence, version(0)), now_s))

    region.handle(words.hello("kite"), 0.0)
    assert offers(1, 9.0) == []  # the first one is still being written
    region.handle(OfferDone("kite", version(0)), 9.0)
    assert offers(2, 9.1) == [OfferModel("kite", 0)]
    region.handle(OfferDone("kite", version(2)), 9.2)
    assert offers(3, 9.5) == []
    assert offers(4, 9.65) == [OfferModel("kite", 2)]


def test_a_silent_device_that_is_behind_is_offered_the_model_once_a_cycle(new_region: Any, words: Any) -> None:
    region = new_region(
        Recipe(
            local_steps=Cycle(steps_median=20, cycle_min_s=1.0, cycle_max_s=1.0),
            downlink=Newest(),
            federation=NoFederation(),
        )
    )
    region.handle(words.hello("kite"), 0.0)
    region.handle(OfferDone("kite", version(0)), 0.0)
    assert region.handle(Tick(), 5.0) == []  # it has the newest
    region.handle(words.update("tern", 1, version(0)), 5.0)
    assert region.handle(Tick(), 5.1) == [OfferModel("kite", 0)]
    region.handle(OfferDone("kite", version(1)), 5.1)
    region.handle(words.update("tern", 2, version(0)), 5.2)
    assert region.handle(Tick(), 6.0) == []
    assert region.handle(Tick(), 6.2) == [OfferModel("kite", 1)]
    region.handle(DeviceDisconnected("kite"), 6.3)
    assert region.handle(Tick(), 99.0) == []


def test_what_was_on_its_way_when_the_stream_was_cut_counts_for_nothing(new_region: Any, words: Any) -> None:
    region = new_region()
    region.handle(words.hello("kite"), 0.0)
    region.handle(DeviceDisconnected("kite"), 0.1)
    region.handle(words.update("tern", 1, version(0)), 0.2)
    assert of(OfferModel, region.handle(words.hello("kite"), 0.3)) == [OfferModel("kite", None)]
    region.handle(OfferDone("kite", version(0)), 0.4)  # of the earlier stream
    assert region.links["kite"].base is None


def test_the_welcome_says_how_far_the_devices_updates_are_in_the_journal(new_region: Any, words: Any) -> None:
    region = new_region()
    region.handle(words.update("kite", 41, version(0)), 0.0)
    (welcome,) = said(region.handle(words.hello("kite", version(1)), 1.0))
    assert welcome.last_sequence == 41


# --- a restart ---


def test_a_restart_goes_on_with_ledger_ages_and_held_updates(new_region: Any, words: Any) -> None:
    recipe = Recipe(arrival=FedBuff(size=3), downlink=Newest(), federation=NoFederation())
    state = RegionState(LINEAGE, AgeHistory(0, [0.0]))
    before = new_region(recipe, state=state)
    before.handle(words.update("kite", 1, version(0)), 0.0)
    before.handle(words.update("tern", 1, version(0)), 0.0)
    after = new_region(recipe, state=state)
    assert not of(JournalUpdate, after.handle(words.update("kite", 1, version(0)), 1.0))
    assert len(of(Apply, after.handle(words.update("gull", 1, version(0)), 1.0))) == 3


def test_connected_event_of_an_unknown_partial_reaches_the_welcome(new_region: Any, words: Any) -> None:
    from skerry.protocol.messages import PartialUpdate

    event = words.hello("kite")
    partial = PartialUpdate(3, 77, 2)
    (welcome, _) = new_region().handle(DeviceConnected("kite", event.hello, partial), 0.0)
    assert welcome.message.partial == partial
