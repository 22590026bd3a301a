"""When a region exchanges models with its peers, what it answers them, and in which order: no disk, no network."""

from typing import Any

import pytest

from coordinator.events import (
    Apply,
    JournalMerge,
    JournalPeerModel,
    Merge,
    PeerModelArrived,
    PublicationNeeded,
    Publish,
    Reply,
    SaveToken,
    SendPublication,
    SendToken,
    TakePeerModel,
    Tick,
    TokenArrived,
)
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import SpykerToken
from skerry.algorithms.peer_guard import Measured
from skerry.protocol.limits import AGE_MAX
from skerry.protocol.messages import (
    BroadcastId,
    ModelVersion,
    PeerModel,
    PeerModelNeeded,
    PeerModelTaken,
    TokenPassed,
    TokenTaken,
)
from skerry.recipe import Recipe


def version(number: int) -> ModelVersion:
    return ModelVersion("here/00000001", number)


def of(kind: type[Any], effects: list[Any]) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


TOKEN = SpykerToken(h_inter=1.0, exchange_interval_min_s=0.0, hold_min_s=0.0)


def peer_model(
    publication: int, base: int | None, *, broadcast: int = 1, lineage: str = "there/00000002", age: float = 10.0
) -> PeerModel:
    return PeerModel(
        coordinator="there-1",
        lineage=lineage,
        broadcast=BroadcastId(9, broadcast),
        age=age,
        publication=publication,
        base=base,
        values=b"",
    )


@pytest.fixture
def federated(new_region: Any) -> Any:
    return new_region(Recipe(downlink=Newest(), federation=TOKEN), ("there-1",))


def arrived(message: PeerModel, words: Any, key: int = 5) -> PeerModelArrived:
    return PeerModelArrived(message, words.vector(1), key, Measured(0.0, 1.0))


def test_a_peers_model_is_merged_behind_our_own_publication(federated: Any, words: Any) -> None:
    effects = federated.handle(arrived(peer_model(1, None), words), 0.0)
    kinds = [type(effect) for effect in effects]
    expected = [JournalPeerModel, TakePeerModel, SaveToken, Publish, SendPublication, JournalMerge, Merge, Reply]
    assert kinds == expected
    (publish,) = of(Publish, effects)
    assert (publish.number, publish.broadcast) == (1, BroadcastId(9, 1))
    (merge,) = of(Merge, effects)
    assert (merge.version, merge.peer, merge.age) == (1, "there-1", federated.age)
    (journal,) = of(JournalMerge, effects)
    assert journal.publication == 1
    assert [effect.position for effect in effects if hasattr(effect, "position")] == [1, 2, 3]
    assert effects[-1] == Reply(5, PeerModelTaken(1))


def test_a_repeated_publication_is_taken_and_not_merged_again(federated: Any, words: Any) -> None:
    federated.handle(arrived(peer_model(1, None), words), 0.0)
    effects = federated.handle(arrived(peer_model(1, None), words), 0.1)
    assert not of(JournalPeerModel, effects)
    assert not of(Merge, effects)
    assert effects[-1] == Reply(5, PeerModelTaken(1))


def test_a_publication_on_one_that_is_missing_is_asked_for_whole(federated: Any, words: Any) -> None:
    for message in (peer_model(2, 1), peer_model(2, 0)):
        (reply,) = federated.handle(arrived(message, words), 0.0)
        assert isinstance(reply.message, PeerModelNeeded)
    federated.handle(arrived(peer_model(1, None), words), 0.1)
    (gap,) = federated.handle(arrived(peer_model(3, 2, broadcast=2), words), 0.2)
    assert isinstance(gap.message, PeerModelNeeded)
    (stranger,) = federated.handle(arrived(peer_model(2, 1, broadcast=2, lineage="there/00000003"), words), 0.2)
    assert isinstance(stranger.message, PeerModelNeeded)
    follows = federated.handle(arrived(peer_model(2, 1, broadcast=2), words), 0.3)
    assert follows[-1] == Reply(5, PeerModelTaken(2))
    assert of(Merge, follows)


def test_a_peer_whose_state_was_restored_from_an_older_copy_is_asked_for_its_model_whole(
    federated: Any, words: Any
) -> None:
    """Its numbers come a second time, and mean other models; its exchanges have gone on."""
    federated.handle(arrived(peer_model(7, None, broadcast=7), words), 0.0)
    for message in (peer_model(5, 4, broadcast=8), peer_model(8, 7, broadcast=8, lineage="there/00000003")):
        (reply,) = federated.handle(arrived(message, words), 0.1)
        assert isinstance(reply.message, PeerModelNeeded)
    effects = federated.handle(arrived(peer_model(5, None, broadcast=8), words), 0.2)
    assert of(TakePeerModel, effects)
    assert effects[-1] == Reply(5, PeerModelTaken(5))
    (reply,) = federated.handle(arrived(peer_model(8, 7, broadcast=9), words), 0.3)  # of its former life
    assert isinstance(reply.message, PeerModelNeeded)
    assert of(TakePeerModel, federated.handle(arrived(peer_model(6, 5, broadcast=9), words), 0.4))


def test_a_peer_that_lost_its_disk_starts_anew(federated: Any, words: Any) -> None:
    federated.handle(arrived(peer_model(7, None, broadcast=7), words), 0.0)
    effects = federated.handle(arrived(peer_model(1, None, broadcast=8, lineage="there/00000003"), words), 0.1)
    assert of(JournalPeerModel, effects)
    assert effects[-1] == Reply(5, PeerModelTaken(1))


def test_a_peer_is_sent_the_newest_publication_whole_when_it_asks(federated: Any, words: Any) -> None:
    assert federated.handle(PublicationNeeded("there-1"), 0.0) == []
    federated.handle(arrived(peer_model(1, None), words), 0.0)
    assert federated.handle(PublicationNeeded("there-1"), 0.1) == [SendPublication(("there-1",), whole=True)]


def test_the_token_is_on_disk_before_it_is_confirmed(federated: Any) -> None:
    message = TokenPassed("there-1", BroadcastId(9, 4), {"there-1": 3.0})
    effects = federated.handle(TokenArrived(message, 8), 0.0)
    assert [type(effect) for effect in effects[:2]] == [SaveToken, Reply]
    assert effects[1] == Reply(8, TokenTaken(BroadcastId(9, 4)))
    assert federated.holds_token


def test_drifting_ages_start_an_exchange_and_then_the_token_moves_on(federated: Any, words: Any) -> None:
    federated.handle(TokenArrived(TokenPassed("there-1", BroadcastId(9, 4), {"there-1": 0.0}), 8), 0.0)
    effects: list[Any] = []
    for sequence in range(1, 4):
        effects += federated.handle(words.update("kite", sequence, version(0)), 0.5 * sequence)
    (publish,) = of(Publish, effects)
    applied_before = [e.version for e in effects[: effects.index(publish)] if isinstance(e, Apply)]
    assert applied_before, "published with the update that started it in the model"
    reply = peer_model(1, None)
    answered = PeerModel(**{**{f: getattr(reply, f) for f in reply.__struct_fields__}, "broadcast": publish.broadcast})
    done = federated.handle(arrived(answered, words), 2.0)
    assert of(Merge, done)
    tokens = of(SendToken, effects + done + federated.handle(Tick(), 5.0))
    assert tokens[-1].to == "there-1"
    assert not federated.holds_token


def test_a_peer_of_the_largest_age_does_not_make_ours_unspeakable(new_region: Any, words: Any) -> None:
    """An age above what a message can say would end every stream and every exchange, for good."""
    recipe = Recipe(federation=SpykerToken(eta_a=1.0, phi=1000.0))
    region = new_region(recipe, ("there-1",))
    region.handle(arrived(peer_model(1, None, age=AGE_MAX), words), 0.0)
    assert region.age == AGE_MAX
    for sequence in range(1, 4):
        region.handle(words.update("kite", sequence, version(0)), 1.0)
    assert (region.version, region.age) == (4, AGE_MAX)
