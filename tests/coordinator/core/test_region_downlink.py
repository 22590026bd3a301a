"""What a region does so that its devices follow its model a little at a time, several times a cycle."""

from typing import Any

import pytest

from coordinator.age_history import AgeHistory
from coordinator.downlink import OfferedState
from coordinator.events import (
    Apply,
    DeviceDisconnected,
    FollowModel,
    Merge,
    OfferDone,
    OfferModel,
    PeerModelArrived,
    SaveRuleState,
    Tick,
)
from coordinator.region_state import RegionState
from skerry.algorithms.arrival import Spyker
from skerry.algorithms.downlink import Newest, TopK
from skerry.algorithms.federation import NoFederation, SpykerToken
from skerry.algorithms.local_steps import Cycle
from skerry.algorithms.participation import OnOffer
from skerry.algorithms.peer_guard import Measured
from skerry.protocol.messages import BroadcastId, ModelVersion, PeerModel
from skerry.recipe import Recipe
from skerry.vector import SparseVector

LINEAGE = "here/00000001"
SECOND = Cycle(steps_median=20, cycle_min_s=1.0, cycle_max_s=1.0)
FOLLOWING = Recipe(local_steps=SECOND, downlink=TopK(interval_cycles=0.5), federation=NoFederation())


def version(number: int) -> ModelVersion:
    return ModelVersion(LINEAGE, number)


def left(effects: list[Any]) -> list[Any]:
    """What concerns the downlink, in order."""
    return [effect for effect in effects if isinstance(effect, Apply | Merge | FollowModel | OfferModel)]


@pytest.fixture
def region(new_region: Any, words: Any) -> Any:
    """Two devices that hold version 0."""
    region = new_region(FOLLOWING)
    for device in ("kite", "tern"):
        assert left(region.handle(words.hello(device), 0.0)) == [OfferModel(device, None)]
        region.handle(OfferDone(device, version(0)), 0.0)
    return region


def test_all_devices_are_offered_what_changed_twice_a_cycle(region: Any, words: Any) -> None:
    assert left(region.handle(words.update("kite", 1, version(0)), 0.1))[1:] == [], "too soon"
    applied, *then = left(region.handle(words.update("kite", 2, version(0)), 0.6))
    assert isinstance(applied, Apply), "the model changes before it is followed"
    assert then == [FollowModel(), OfferModel("kite", 0), OfferModel("tern", 0)]
    assert left(region.handle(words.update("tern", 1, version(0)), 0.7))[1:] == []
    region.handle(OfferDone("kite", version(2)), 0.7)
    assert left(region.handle(words.update("tern", 2, version(0)), 1.2))[1:] == [FollowModel(), OfferModel("kite", 2)]
    region.handle(OfferDone("tern", version(2)), 1.3)
    assert left(region.handle(Tick(), 1.4)) == [OfferModel("tern", 2)], "it was still busy with the one before"


def test_the_region_asks_to_be_woken_for_what_came_too_soon(region: Any, words: Any) -> None:
    assert region.wake_at_s is None
    region.handle(words.update("kite", 1, version(0)), 0.1)
    assert region.wake_at_s == pytest.approx(0.5)
    assert left(region.handle(Tick(), 0.5)) == [FollowModel(), OfferModel("kite", 0), OfferModel("tern", 0)]
    assert region.wake_at_s is None, "nothing has changed since"
    assert left(region.handle(Tick(), 9.0)) == []


def test_a_merge_with_a_peer_is_followed_too(new_region: Any, words: Any) -> None:
    rule = SpykerToken(h_inter=1.0, exchange_interval_min_s=0.0)
    region = new_region(Recipe(local_steps=SECOND, downlink=TopK(), federation=rule), ("there-1",))
    region.handle(words.hello("kite"), 0.0)
    region.handle(OfferDone("kite", version(0)), 0.0)
    message = PeerModel("there-1", "there/00000002", BroadcastId(9, 1), 10.0, 1, None, b"")
    values = SparseVector.full(words.initial())
    effects = left(region.handle(PeerModelArrived(message, values, measured=Measured(0.0, 1.0)), 5.0))
    assert [type(effect) for effect in effects] == [Merge, FollowModel, OfferModel]


def test_a_device_that_comes_back_goes_on_from_what_it_holds(region: Any, words: Any) -> None:
    region.handle(words.update("kite", 1, version(0)), 1.0)
    region.handle(OfferDone("tern", version(1)), 1.0)
    region.handle(DeviceDisconnected("tern"), 1.1)
    region.handle(words.update("kite", 2, version(0)), 2.0)
    assert left(region.handle(words.hello("tern", version(1)), 2.1)) == [OfferModel("tern", 1)]


def test_what_a_device_got_before_a_restart_is_no_base(new_region: Any, words: Any) -> None:
    """Versions are the region's, but what devices hold of one is not on disk."""
    for recovered in (3, 4):
        state = RegionState(LINEAGE, AgeHistory(0, [float(number) for number in range(recovered + 1)]))
        region = new_region(FOLLOWING, state=state)
        assert left(region.handle(words.hello("kite", version(3)), 1.0)) == [OfferModel("kite", None)]


def test_the_first_model_of_a_lineage_is_a_base_after_a_restart(new_region: Any, words: Any) -> None:
    region = new_region(FOLLOWING)
    assert left(region.handle(words.hello("kite", version(0)), 1.0)) == []
    region.handle(words.update("kite", 1, version(0)), 2.0)
    assert region.links["kite"].in_flight == 1


def test_devices_that_wait_for_their_answer_get_the_newest_there_is(new_region: Any, words: Any) -> None:
    recipe = Recipe(
        participation=OnOffer(),
        local_steps=SECOND,
        arrival=Spyker(),
        downlink=TopK(interval_cycles=100.0),
        federation=NoFederation(),
    )
    region = new_region(recipe)
    region.handle(words.hello("kite"), 0.0)
    applied, *then = left(region.handle(words.update("kite", 1, version(0)), 0.1))
    assert isinstance(applied, Apply)
    assert then == [FollowModel(), OfferModel("kite", 0)]
    assert region.wake_at_s is None


def restarted(new_region: Any, recipe: Recipe, versions: int, before: Any = None) -> tuple[Any, RegionState]:
    """A region that goes on at version `versions`, and from what it remembered in its life `before`."""
    state = RegionState(LINEAGE, AgeHistory(0, [float(number) for number in range(versions + 1)]))
    if before is not None:
        state.rules = dict(before.rules)
    return new_region(recipe, state=state), state


def test_what_followed_is_no_base_for_exact_values_in_any_later_life(new_region: Any, words: Any) -> None:
    """A device that got a few entries would miss all others for good, if only what changes since were sent."""
    exact = Recipe(local_steps=SECOND, downlink=Newest(), federation=NoFederation())
    following, first = restarted(new_region, FOLLOWING, 0)
    saved = [effect for effect in following.handle(words.hello("kite"), 0.0) if isinstance(effect, SaveRuleState)]
    assert saved == [SaveRuleState(first.rules[OfferedState])], "on disk before anything is offered"
    _, second = restarted(new_region, exact, 3, first)
    for versions, before in ((3, first), (5, second)):
        region, _ = restarted(new_region, exact, versions, before)
        assert left(region.handle(words.hello("kite", version(3)), 0.0)) == [OfferModel("kite", None)]
    assert left(region.handle(words.hello("tern", version(4)), 0.0)) == [OfferModel("tern", 4)]


@pytest.mark.parametrize("held", [0, 3, 5])
def test_exact_values_stay_a_base_where_nothing_ever_followed(held: int, new_region: Any, words: Any) -> None:
    exact = Recipe(local_steps=SECOND, downlink=Newest(), federation=NoFederation())
    region, state = restarted(new_region, exact, 6)
    assert left(region.handle(words.hello("kite", version(held)), 0.0)) == [OfferModel("kite", held)]
    region, _ = restarted(new_region, exact, 6, state)
    assert left(region.handle(words.hello("kite", version(held)), 0.0)) == [OfferModel("kite", held)]


def test_a_device_that_was_busy_is_not_offered_an_older_model_when_a_newer_is_due(region: Any, words: Any) -> None:
    """It would be busy with that one then, and behind all others for ever."""
    region.handle(words.update("kite", 1, version(0)), 0.5)
    region.handle(OfferDone("tern", version(1)), 0.6)
    region.handle(words.update("tern", 1, version(1)), 1.0)
    region.handle(OfferDone("kite", version(1)), 1.1)
    region.handle(OfferDone("tern", version(2)), 1.1)
    region.handle(words.update("tern", 2, version(2)), 1.2)
    assert left(region.handle(Tick(), 1.5)) == [FollowModel(), OfferModel("kite", 1), OfferModel("tern", 2)]
    assert region.links["kite"].in_flight == 3


def test_offers_against_one_base_follow_each_other(region: Any, words: Any) -> None:
    """What that base lacks is found out once for all of them."""
    for device in ("lark", "wren"):
        region.handle(words.hello(device), 0.0)
    region.handle(words.update("kite", 1, version(0)), 0.5)
    for device, number in (("kite", 1), ("lark", 0), ("tern", 1), ("wren", 0)):
        region.handle(OfferDone(device, version(number)), 0.6)
    _, followed, *offers = left(region.handle(words.update("kite", 2, version(1)), 1.0))
    assert followed == FollowModel()
    assert offers == [
        OfferModel("lark", 0),
        OfferModel("wren", 0),
        OfferModel("kite", 1),
        OfferModel("tern", 1),
    ]
