"""Two regions, two engines, joined by hand: what one publishes is what the other holds, and restarts change nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import numpy as np
import pytest

from coordinator.engine import Engine
from coordinator.events import PeerModelArrived, PeerSeen, PublicationNeeded, TokenArrived
from coordinator.history import read_history
from skerry.algorithms.age_weighting import federated_model
from skerry.algorithms.federation import SpykerToken
from skerry.protocol import sparse
from skerry.protocol.messages import BroadcastId, PeerModel, PeerModelNeeded, TokenPassed
from skerry.recipe import Recipe
from skerry.values import ValueEncoding


def eager(density: float = 1.0, values: ValueEncoding = ValueEncoding.FLOAT32) -> Recipe:
    """A federation that exchanges models as often as it can."""
    rule = SpykerToken(
        h_inter=1.0,
        h_intra=1.0,
        exchange_interval_min_s=0.0,
        hold_min_s=0.0,
        hold_max_s=0.01,
        peer_timeout_s=0.1,
        token_timeout_s=0.2,
        density=density,
        values=values,
    )
    return Recipe(federation=rule)


class Wire:
    """Carries messages between the regions, through their bytes, as HTTP would."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.cut = False
        self._under_way: set[asyncio.Task[None]] = set()

    def outlet_of(self, sender: str) -> Callable[[str, Any], None]:
        def send(peer: str, message: Any) -> None:
            if not self.cut:
                task = asyncio.ensure_future(self._carry(sender, peer, message))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

        return send

    async def _carry(self, sender: str, peer: str, message: PeerModel | TokenPassed) -> None:
        receiver = self.engines[peer]
        if isinstance(message, TokenPassed):
            await receiver.ask(TokenArrived(message))
            return
        values = sparse.decode(message.values, size=receiver.size)
        answer = await receiver.ask(PeerModelArrived(message, values))
        if isinstance(answer, PeerModelNeeded):
            self.engines[sender].submit(PublicationNeeded(peer))

    async def meet(self, train: Callable[[], Awaitable[None]]) -> None:
        """Go on training until both have merged twice, and each holds the other's newest publication."""
        async with asyncio.timeout(20):
            while not all(
                one.status().merges >= 2 and _holds_newest(one, name, other) for one, name, other in _views(self)
            ):
                for one, _, other in _views(self):
                    one.submit(PeerSeen(other.peer_status("0" * 64)))
                await train()
                await self.settle()
                await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)


@pytest.mark.parametrize(("density", "values"), [(1.0, ValueEncoding.FLOAT32), (0.05, ValueEncoding.INT8)])
async def test_regions_exchange_models_through_updates_restarts_and_cuts(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, values: ValueEncoding, density: float
) -> None:
    names = ("east-1", "west-1")
    recipe, wire = eager(density, values), Wire()
    configs = {name: config_of(recipe, name=name, peers={other: "http://peer"}) for name, other in _pairs(names)}
    sequence = 0
    for life in range(3):
        async with AsyncExitStack() as stack:
            outlets = {name: new_listener() for name in names}
            for name in names:
                outlets[name].on_peer = wire.outlet_of(name)
                wire.engines[name] = await stack.enter_async_context(open_engine(configs[name], outlets[name]))

            async def train(outlets: Any = outlets) -> None:
                nonlocal sequence
                sequence += 1
                for name in names if sequence % 3 else names[:1]:  # uneven regions
                    done = len(outlets[name].accepted()) + 1
                    wire.engines[name].submit(words.update(f"{name}-kite", sequence, wire.engines[name].version))
                    await outlets[name].until_accepted(done)

            for step in range(20):
                wire.cut = life == 1 and 5 <= step < 12
                await train()
                await asyncio.sleep(0.002)
            await wire.meet(train)
            _check_replicas(wire)
            wire.cut = True
            await wire.settle()
        wire.cut = False
    for name in names:
        history = read_history(configs[name].state_dir)
        assert len(history.merges) >= 3
        assert {merge.peer for merge in history.merges} == set(names) - {name}
        assert all(0.0 < merge.weight <= 1.0 for merge in history.merges)


async def test_a_region_that_lost_its_disk_is_understood_again(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    names, recipe, wire = ("east-1", "west-1"), eager(), Wire()
    configs = {name: config_of(recipe, name=name, peers={other: "http://peer"}) for name, other in _pairs(names)}
    east_outlet = new_listener()
    east_outlet.on_peer = wire.outlet_of("east-1")
    sequence = 0
    async with open_engine(configs["east-1"], east_outlet) as east:
        wire.engines["east-1"] = east
        for life in range(2):
            outlet = new_listener()
            outlet.on_peer = wire.outlet_of("west-1")
            state_dir = configs["west-1"].state_dir / f"disk-{life}"
            config = msgspec.structs.replace(configs["west-1"], state_dir=state_dir)
            async with open_engine(config, outlet, rng_seed=life) as west:
                wire.engines["west-1"], wire.cut = west, False

                async def train(west: Engine = west, outlet: Any = outlet) -> None:
                    nonlocal sequence
                    sequence += 1
                    done = len(outlet.accepted()) + 1
                    west.submit(words.update("kite", sequence, west.version))
                    east.submit(words.update("tern", sequence, east.version))
                    await outlet.until_accepted(done)

                def knows(west: Engine = west) -> bool:
                    replica = east._state.replicas.get("west-1")
                    return replica is not None and replica.lineage == west.lineage

                async with asyncio.timeout(20):
                    while not knows():
                        await wire.meet(train)
                        await train()
                await wire.meet(train)
                _check_replicas(wire)
                wire.cut = True
                await wire.settle()


def _pairs(names: tuple[str, str]) -> tuple[tuple[str, str], tuple[str, str]]:
    one, other = names
    return (one, other), (other, one)


def _holds_newest(one: Engine, name: str, other: Engine) -> bool:
    replica, published = one._state.replicas.get(name), other._state.published
    return replica is not None and published is not None and replica.number == published.number


def _check_replicas(wire: Wire) -> None:
    for one, name, other in _views(wire):
        replica, published = one._state.replicas[name], other._state.published
        assert published is not None
        assert (replica.lineage, replica.number, replica.broadcast, replica.age) == (
            published.lineage,
            published.number,
            published.broadcast,
            published.age,
        )
        assert replica.values.tobytes() == published.values.tobytes()
        mean = federated_model(one.model().values, one.age, {name: (replica.values, replica.age)})
        assert np.array_equal(one.model("federated").values, mean)


def _views(wire: Wire) -> list[tuple[Engine, str, Engine]]:
    east, west = wire.engines["east-1"], wire.engines["west-1"]
    return [(east, "west-1", west), (west, "east-1", east)]


async def test_the_first_coordinator_of_a_new_federation_makes_the_token_at_once(
    config_of: Callable[..., Any], open_engine: Callable[..., Any], new_listener: Callable[..., Any]
) -> None:
    federated = Recipe(federation=SpykerToken())
    first = config_of(federated, "a-1", peers={"b-1": "http://b"}, insecure=True)
    second = config_of(federated, "b-1", peers={"a-1": "http://a"}, insecure=True)
    async with open_engine(first, new_listener()) as lowest, open_engine(second, new_listener()) as other:
        assert lowest.peer_status("0" * 64).broadcast > BroadcastId(0, 0)
        assert other.peer_status("0" * 64).broadcast == BroadcastId(0, 0)
