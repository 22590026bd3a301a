"""What a region does with updates that count together, as a robust mean."""

from typing import Any

from coordinator.events import ApplyBuffer, Buffer, JournalUpdate, ReleaseUpdate, SendToDevice
from coordinator.refusal import BUFFERED_MAX
from skerry.algorithms.arrival import Median
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation
from skerry.algorithms.uplink import Dense
from skerry.protocol.messages import ModelVersion, UpdateAccepted
from skerry.recipe import Recipe

LINEAGE = "here/00000001"


def version(number: int) -> ModelVersion:
    return ModelVersion(LINEAGE, number)


def said(effects: list[Any]) -> list[Any]:
    return [effect.message for effect in effects if isinstance(effect, SendToDevice)]


ROBUST = Recipe(arrival=Median(size=3, exponent=0.0), uplink=Dense(), downlink=Newest(), federation=NoFederation())


def test_the_updates_of_a_robust_mean_change_the_model_together(new_region: Any, words: Any) -> None:
    region = new_region(ROBUST)
    for device, sequence in (("kite", 1), ("tern", 1), ("kite", 2)):
        effects = region.handle(words.update(device, sequence, version(0)), 1.0)
        assert [type(effect) for effect in effects] == [JournalUpdate, SendToDevice]
    effects = region.handle(words.update("gull", 1, version(0)), 1.0)
    *released, journalled, applied, accepted = effects
    assert [type(effect) for effect in released] == [ReleaseUpdate] * 3
    assert [(one.version, one.buffer) for one in (*released, journalled)] == [
        (number, Buffer(4, 0.5)) for number in (1, 2, 3, 4)
    ]
    members = ((1, "kite", 1.0), (2, "tern", 1.0), (3, "kite", 1.0), (4, "gull", 1.0))
    assert applied == ApplyBuffer(members, 0.5, version=4, age=4.0)
    assert (accepted.message.version, accepted.message.weight) == (4, 1.0)
    assert not region.held


def test_a_fast_device_does_not_fill_the_memory_while_others_are_waited_for(new_region: Any, words: Any) -> None:
    region = new_region(ROBUST)
    for sequence in range(1, BUFFERED_MAX + 1):
        assert isinstance(said(region.handle(words.update("kite", sequence, version(0)), 1.0))[0], UpdateAccepted)
    refused = said(region.handle(words.update("kite", BUFFERED_MAX + 1, version(0)), 1.0))[0]
    assert (refused.reason, region.counts.rejected) == ("late", {"late": 1})
    assert isinstance(said(region.handle(words.update("tern", 1, version(0)), 1.0))[0], UpdateAccepted)
