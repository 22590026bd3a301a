"""Rounds and barriers across a kill: the files of any moment give back the model bit for bit, and the round with it."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import Checkpoints
from coordinator.engine import Engine
from coordinator.events import DeviceDisconnected, PeerModelArrived, TokenArrived
from coordinator.model_state import ModelState, Publication
from coordinator.recovery import rebuild
from skerry.algorithms.arrival import FedAvg
from skerry.algorithms.barrier import BarrierState
from skerry.algorithms.federation import SynchronousExchange
from skerry.algorithms.rounds import RoundState
from skerry.protocol import sparse
from skerry.protocol.messages import BroadcastId, PeerModel, TokenPassed
from skerry.recipe import Recipe
from skerry.values import ValueEncoding
from tests.coordinator.core.test_recovery import recovered

DEVICES = ("crow", "dove", "kite", "wren")
RECIPE = Recipe(
    arrival=FedAvg(fraction=0.75, devices_min=4),
    federation=SynchronousExchange(every_rounds=2, peer_timeout_s=3600.0, barrier_timeout_s=7200.0),
)


class Peer:
    """The other region: trains a little and publishes for the exchange that is waited for."""

    def __init__(self, words: Any) -> None:
        self._words = words
        self._state = ModelState.start(words.initial())

    async def publish(self, engine: Engine, exchange: int) -> None:
        state = self._state
        state.apply(self._words.vector(1000 + exchange, 12), 1.0, state.version + 1, state.age + 2.0)
        before = None if state.published is None else state.published.number
        payload = state.difference_to_publish(1.0, ValueEncoding.FLOAT32)
        values = sparse.decode(payload, size=self._words.size)
        number, broadcast = (before or 0) + 1, BroadcastId(0, exchange)
        state.publish(Publication("there/1", number, broadcast, state.age, before is None), values)
        message = PeerModel("there-1", "there/1", broadcast, state.age, number, before, payload)
        await engine.ask(PeerModelArrived(message, values))


@pytest.mark.parametrize("seed", range(4))
async def test_a_kill_in_a_round_or_at_a_barrier_loses_nothing(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, inline: Any, tmp_path: Path, seed: int
) -> None:
    """Four lives; in each, devices answer their invitations in any order, and the peer comes to the exchanges.

    A life ends in the midst of a round or of a barrier: the next one starts from a copy of the files as they were.
    """
    rng, peer, state_dir = random.Random(seed), Peer(words), tmp_path / "life-0"
    sequences = dict.fromkeys(DEVICES, 0)
    invited: dict[str, Any] = {}
    models: dict[int, bytes] = {}
    rounds = 0
    for life in range(4):
        config = config_of(
            RECIPE,
            peers={"there-1": "http://there"},
            checkpoints=Checkpoints(every_updates=rng.choice([2, 1000]), keep=100, history_versions=10_000),
            state_dir=state_dir,
        )
        outlet = new_listener()
        async with open_engine(config, outlet, inline) as engine:
            for device in DEVICES:
                engine.submit(words.hello(device, engine.version))
            steps = rng.randint(25, 40)
            for _ in range(steps):
                await _settle(engine)
                invited |= {device: version for device, version, _, _ in outlet.offers}
                outlet.offers.clear()
                models[engine.version.number] = engine.model().values.tobytes()
                barrier = engine._region._state.rules.get(BarrierState)
                if invited:
                    device = rng.choice(sorted(invited))
                    sequences[device] += 1
                    engine.submit(words.update(device, sequences[device], invited.pop(device)))
                elif isinstance(barrier, BarrierState) and barrier.waiting:
                    await peer.publish(engine, barrier.exchange)
                else:
                    device = rng.choice(DEVICES)  # as nobody else does anything: one comes back
                    engine.submit(DeviceDisconnected(device))
                    engine.submit(words.hello(device, engine.version))
            await _settle(engine)
            state_dir = tmp_path / f"life-{life + 1}"
            shutil.copytree(config.state_dir, state_dir)
            before = engine._region._state
            found = recovered(state_dir)
            assert found.region.rules == before.rules
            assert found.region.held == before.held
            assert found.vectors.model.tobytes() == engine.model().values.tobytes()
            assert (found.region.ages.last, found.region.ages.age) == (before.ages.last, before.ages.age)
            latest = before.rules[RoundState]
            assert isinstance(latest, RoundState)
            assert latest.number >= rounds
            rounds = latest.number
            assert not outlet.sent or all(getattr(m, "reason", None) in {None, "late"} for _, m in outlet.sent)
    assert rounds > 8
    for version, model in models.items():
        assert rebuild(state_dir, version).tobytes() == model


async def _settle(engine: Engine) -> None:
    """Wait until all that was submitted is done: a barrier answers a token, and takes no other notice of it."""
    await engine.ask(TokenArrived(TokenPassed("there-1", BroadcastId(1, 1), {})))
