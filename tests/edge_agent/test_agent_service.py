"""The agent as a whole, in this process, against a real server on a real socket."""

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent import status
from edge_agent.config import AgentConfig, Data
from edge_agent.flash import FlashBudget
from edge_agent.learning_rate import LearningRate
from edge_agent.outbox import Outbox, Update
from edge_agent.recipe_text import SCHEDULE_OVER
from edge_agent.store import FILE_NAME, Store
from skerry.agent_stages import AgentStages
from skerry.algorithms.local_steps import Fixed
from skerry.algorithms.schedule import Cosine
from skerry.algorithms.uplink import Dense, TopK, Uplink
from skerry.errors import ConfigError, DataError, StorageError
from skerry.protocol import sparse
from skerry.protocol.messages import Heartbeat, Hello, ModelVersion, Plan, UpdateAccepted, UpdateOffered
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import load
from skerry.values import ValueEncoding
from skerry.vector import SparseVector

Serve = Callable[..., Awaitable[Any]]
MakeConfig = Callable[..., AgentConfig]
Running = Callable[[AgentConfig], AbstractAsyncContextManager[asyncio.Task[None]]]


async def test_an_agent_trains_and_its_updates_arrive_in_order_without_gap_or_repeat(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 12 and len(coordinator.telemetry) >= 2)
    sequences = [offered.sequence for offered in coordinator.offered]
    assert sequences == list(range(1, len(sequences) + 1))
    assert {offered.steps for offered in coordinator.offered} == {5}
    assert coordinator.offered[-1].base.number > 0  # newer models were taken up
    assert coordinator.offered[-1].loss < coordinator.offered[0].loss
    final = status.read(config.state_dir)
    assert final is not None
    assert not final.running
    assert final.steps >= 60
    assert final.sent_bytes > 0
    assert final.idle_share < 0.9
    assert final.recipe == coordinator.stages
    assert final.learning_rate == LearningRate(0.05, 0.05, 1.0, final.steps, 0)


async def test_a_restarted_agent_goes_on_where_it_was(serve: Serve, agent_config: MakeConfig, running: Running) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 3)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.hellos) == 2 and len(coordinator.journal) >= 8)
    again = coordinator.hellos[1]
    assert again.bundle is None or again.bundle == coordinator.bundle.sha256
    assert again.base is not None
    assert again.last_sequence >= 3
    assert len(coordinator.bundle_requests) == 1  # kept on disk
    assert sorted(coordinator.journal) == list(range(1, len(coordinator.journal) + 1))


@pytest.mark.parametrize("uplink", [Dense(), TopK()])
async def test_a_restarted_agent_goes_on_in_its_schedule(
    serve: Serve, agent_config: MakeConfig, running: Running, uplink: Uplink
) -> None:
    """The rate falls to zero in the midst of the second update: there is no third, before and after a restart."""
    stages = AgentStages(local_steps=Fixed(5), schedule=Cosine(fall_steps=8), uplink=uplink)
    coordinator = await serve(stages=stages, weight=0.5)
    config = agent_config(coordinator.url)
    for _ in range(2):
        async with running(config):
            await coordinator.until(
                lambda: (
                    (found := status.read(config.state_dir)) is not None
                    and found.running
                    and (found.connected, found.pace, found.reasons) == (True, "pause", (SCHEDULE_OVER,))
                    and len(coordinator.journal) >= 2
                )
            )
        assert [bool(vector.values.any()) for _, vector in sorted(coordinator.journal.items())] == [True, True]


async def test_a_new_learning_rate_reaches_the_cycle_under_way(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    """A long first cycle, told of a far greater rate in its midst: its own update is that much longer."""
    coordinator = await serve(stages=AgentStages(local_steps=Fixed(1500), uplink=Dense()))
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(
            lambda: (found := status.read(config.state_dir)) is not None and found.steps_per_cycle > 0
        )
        assert not coordinator.journal
        await coordinator.say(UpdateAccepted(sequence=999, version=0, weight=1.0, plan=Plan(0.05, 1000.0)))
        await coordinator.until(lambda: bool(coordinator.journal), timeout_s=60.0)
    assert np.abs(coordinator.journal[1].values).max() > 100.0


async def test_a_restarted_agent_trains_before_it_has_found_a_coordinator(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve(answers=False)
    config = agent_config(coordinator.url, limits={"outbox_updates_max": 3})
    async with running(config):
        await coordinator.until(lambda: bool(coordinator.offered))
    await coordinator.cut()
    alone = agent_config("http://127.0.0.1:9", limits={"outbox_updates_max": 6})
    async with running(alone):
        await coordinator.until(
            lambda: (found := status.read(alone.state_dir)) is not None and found.outbox_updates == 6
        )
    found = status.read(alone.state_dir)
    assert found is not None
    assert not found.connected


async def test_unanswered_updates_are_sent_again_with_the_same_numbers(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve(answers=False)
    config = agent_config(coordinator.url, limits={"outbox_updates_max": 4})
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) == 4)
        coordinator.answers = True
        await coordinator.cut()
        await coordinator.until(lambda: len(coordinator.journal) >= 8)
    numbers = [offered.sequence for offered in coordinator.offered]
    assert numbers[:8] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert sorted(coordinator.journal) == list(range(1, len(coordinator.journal) + 1))
    payloads: dict[int, set[bytes]] = {}
    for offered in coordinator.offered:
        payloads.setdefault(offered.sequence, set()).add(offered.part.data)
    assert all(len(different) == 1 for different in payloads.values())


async def test_a_full_outbox_pauses_training_and_counts_as_idle(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve(answers=False)
    config = agent_config(coordinator.url, limits={"outbox_updates_max": 2})
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) == 2)
        await asyncio.sleep(0.5)
        assert len(coordinator.journal) == 2
    final = status.read(config.state_dir)
    assert final is not None
    assert final.idle_s > 0.4


async def test_a_large_update_goes_on_where_the_link_was_cut(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve(part_bytes_max=1024, cut_after_parts=3)
    coordinator.stages = replace(coordinator.stages, uplink=Dense())
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: 2 in coordinator.journal)
    numbers = [offered.part.number for offered in coordinator.offered if offered.sequence == 1]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 3


async def test_an_update_of_too_many_parts_does_not_end_the_agent(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    """The update is in the outbox when the agent starts again: it must not crash for ever."""
    coordinator = await serve(part_bytes_max=1)
    coordinator.stages = replace(coordinator.stages, uplink=Dense())
    config = agent_config(coordinator.url)
    for _ in range(2):
        async with running(config):
            await coordinator.until(
                lambda: (
                    (found := status.read(config.state_dir)) is not None
                    and found.running
                    and "part_bytes_max" in found.last_error
                )
            )
    assert coordinator.offered == []
    coordinator.part_bytes_max = 1024
    async with running(config):
        await coordinator.until(lambda: bool(coordinator.journal))


async def test_rejected_mass_returns_and_is_sent_again(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve(rejects=True)
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.offered) >= 3)
        coordinator.rejects = False
        await coordinator.until(lambda: bool(coordinator.journal))
    first = np.abs(next(iter(coordinator.journal.values())).values).max()
    assert first > 0


async def test_of_an_update_that_is_rejected_with_its_first_part_the_rest_is_not_sent(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve(part_bytes_max=8 << 10, rejects_first_parts=True)
    coordinator.stages = replace(coordinator.stages, uplink=Dense())
    async with running(agent_config(coordinator.url)):
        await coordinator.until(lambda: any(offered.sequence == 9 for offered in coordinator.offered))
    parts = [[one.part for one in coordinator.offered if one.sequence == sequence] for sequence in range(1, 9)]
    # On a busy machine one or another may be on its way before the answer to its first part is heard.
    assert sum(len(sent) < sent[0].of for sent in parts) >= 4


async def test_what_was_to_be_sent_on_a_stream_that_is_gone_is_not_sent_on_the_next(
    serve: Serve, agent_config: MakeConfig, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arithmetic takes long: behind it wait a Welcome's updates and the next stream's Hello, and both streams end."""
    coordinator = await serve(answers=False)
    config = agent_config(coordinator.url)
    async with running(agent_config(coordinator.url, limits={"outbox_updates_max": 2})):  # leaves room for a next one
        await coordinator.until(lambda: len(coordinator.journal) >= 2)
    before = len(coordinator.journal)
    await coordinator.cut()

    taking, go_on = threading.Event(), threading.Event()
    take = Outbox.take

    def held_take(*arguments: Any) -> Update:
        taking.set()
        assert go_on.wait(20.0)
        return take(*arguments)

    monkeypatch.setattr(Outbox, "take", held_take)
    coordinator.silent = True
    known = len(coordinator.hellos)
    async with running(config):
        try:
            await coordinator.until(lambda: len(coordinator.hellos) > known and taking.is_set())
            await coordinator.welcome(coordinator.hellos[-1])
            await coordinator.until(lambda: (found := status.read(config.state_dir)) is not None and found.connected)
            for _ in range(2):
                await coordinator.cut()
                await coordinator.until(lambda: bool(coordinator.sockets))
            coordinator.silent = False
        finally:
            go_on.set()
        await coordinator.until(lambda: len(coordinator.journal) > before)
        heard = [message for message in coordinator.heard if not isinstance(message, Heartbeat)]
    assert [isinstance(message, Hello) for message in heard] == [True] + [False] * (len(heard) - 1)
    offered = [message.sequence for message in heard if isinstance(message, UpdateOffered)]
    assert offered == sorted(set(offered))


async def test_a_residual_beyond_what_coordinators_take_does_not_reject_every_update_for_ever(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    stages = AgentStages(local_steps=Fixed(5), uplink=TopK(values=ValueEncoding.FLOAT32))
    coordinator = await serve(stages=stages)
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 2)
    await coordinator.cut()
    with closing(Store(config.state_dir / FILE_NAME)) as store:
        stored = store.load()
        huge = np.zeros(len(coordinator.model), np.float32)
        huge[7] = 3e30
        update = Update(stored.last_sequence + 1, coordinator.at(0), 1, 1, 0.5, 0.1, 0.05, b"", stored.events + 1)
        values = SparseVector(len(huge), np.zeros(1, np.int64), np.full(1, 1e-9, np.float32))
        store.put_update(replace(update, payload=sparse.encode(values)), huge)
    async with running(config):  # some updates may wait from before
        await coordinator.until(lambda: max(coordinator.journal) >= update.sequence + 5)
    rejected = set(range(1, max(coordinator.journal) + 1)) - set(coordinator.journal)
    assert len(rejected) == 1


async def test_a_restarted_agent_knows_at_which_rate_its_residual_was_learned(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve(stages=AgentStages(local_steps=Fixed(5), uplink=TopK(values=ValueEncoding.FLOAT32)))
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 2)
    with closing(Store(config.state_dir / FILE_NAME)) as store:
        stored = store.load()
        residual = np.zeros(len(coordinator.model), np.float32)
        residual[7] = 1000.0
        rate = 1000.0 * coordinator.plan.learning_rate
        update = Update(stored.last_sequence + 1, coordinator.at(0), 1, 1, 0.5, 0.1, rate, b"", stored.events + 1)
        values = SparseVector(len(residual), np.zeros(1, np.int64), np.full(1, 1e-9, np.float32))
        store.put_update(replace(update, payload=sparse.encode(values)), residual)
    async with running(config):
        await coordinator.until(lambda: update.sequence + 1 in coordinator.journal)
    assert coordinator.journal[update.sequence + 1].dense()[7] == pytest.approx(1.0, abs=0.3)


async def test_the_next_coordinator_is_tried_when_one_is_down(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve()
    config = agent_config("http://127.0.0.1:9", coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 1)


async def test_a_silent_coordinator_is_left_after_the_progress_timeout(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    silent = await serve(silent=True)
    good = await serve()
    config = agent_config(silent.url, good.url, limits={"progress_timeout_s": 0.5})
    async with running(config):
        await good.until(lambda: len(good.journal) >= 1)
    assert silent.heartbeats >= 2


async def test_a_foreign_bundle_is_never_trained_on(serve: Serve, agent_config: MakeConfig, running: Running) -> None:
    coordinator = await serve()
    true = coordinator.bundle.path.read_bytes()
    coordinator.bundle_bytes = true[:-1] + bytes([true[-1] ^ 1])
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.bundle_requests) >= 2)
        await asyncio.sleep(0.2)
        found = status.read(config.state_dir)
        assert found is not None
        assert hashlib.sha256(coordinator.bundle_bytes).hexdigest() in found.last_error
        assert "foreign" in found.last_error
        coordinator.bundle_bytes = None
        await coordinator.until(lambda: bool(coordinator.journal))


async def test_a_bundle_that_ends_early_is_fetched_on_from_there(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve()
    coordinator.bundle_bytes = coordinator.bundle.path.read_bytes()[:5000]
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: bool(coordinator.bundle_requests))
        coordinator.bundle_bytes = None
        await coordinator.until(lambda: bool(coordinator.journal))
    assert "bytes=5000-" in coordinator.bundle_requests


async def test_a_task_that_the_data_do_not_fit_is_told_and_tried_again(
    serve: Serve, agent_config: MakeConfig, activity: Bundle, tmp_path: Path, running: Running
) -> None:
    coordinator = await serve(offers_models=False)
    file = tmp_path / "mine.npz"
    np.savez(file, x=np.zeros((10, 7), np.float32), y=np.zeros(10, np.int64))
    config = agent_config(coordinator.url)
    config = replace(config, data=Data(f"npz:{file}"))
    async with running(config):
        await coordinator.until(lambda: bool(coordinator.telemetry))
        await coordinator.offer(whole=True)  # comes too early, and again when it can be used
        await coordinator.until(lambda: bool((found := status.read(config.state_dir)) and found.last_error))
        found = status.read(config.state_dir)
        assert found is not None
        assert (found.connected, found.pace, found.policy_enabled) == (True, "pause", False)
        assert "mine.npz" in found.last_error
        assert all(one.pace == "pause" and "mine.npz" not in one.reasons[0] for one in coordinator.telemetry)
        coordinator.offers_models = True
        good = load("builtin:activity?part=0&parts=6", activity.manifest)
        np.savez(tmp_path / "good.npz", x=good.x, y=good.y)
        (tmp_path / "good.npz").replace(file)
        await coordinator.until(lambda: len(coordinator.journal) >= 2)
        assert coordinator.telemetry[-1].pace == "train"


async def test_a_data_set_that_is_not_there_ends_the_agent_at_its_start(
    agent_config: MakeConfig, tmp_path: Path, running: Running
) -> None:
    config = replace(agent_config("http://127.0.0.1:9"), data=Data(f"npz:{tmp_path / 'none.npz'}"))
    with pytest.raises(DataError, match=r"none\.npz"):
        async with running(config) as task:
            await asyncio.wait([task], timeout=20)
    found = status.read(config.state_dir)
    assert found is not None
    assert not found.running
    assert "none.npz" in found.last_error


async def test_an_agent_that_a_defect_or_the_disk_ends_says_so_in_its_status(
    serve: Serve, agent_config: MakeConfig, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url)
    full, defect = StorageError("state.db: full"), KeyError("x")
    for error, told in (
        (full, "state.db: full"),
        (defect, "a defect, KeyError: 'x'"),
        (ExceptionGroup("at once", [full, defect]), "a defect, KeyError: 'x'"),
    ):

        def refuse(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(Store, "put_update", refuse)
        with pytest.raises((StorageError, ExceptionGroup)):
            async with running(config) as task:
                await asyncio.wait([task], timeout=20)
        found = status.read(config.state_dir)
        assert found is not None
        assert (found.running, found.connected) == (False, False)
        assert found.last_error == f"the agent ended: {told}"
        assert found.cycles >= 1


async def test_two_agents_never_share_a_state(serve: Serve, agent_config: MakeConfig, running: Running) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: bool(coordinator.hellos))
        with pytest.raises(ConfigError, match="another agent"):
            async with running(config) as task:
                await asyncio.wait([task], timeout=5)


async def test_an_offered_difference_to_an_unknown_model_brings_the_whole_model(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 2)
        coordinator.sent_model = (999, coordinator.model.copy())
        await coordinator.offer(whole=False)
        await coordinator.until(lambda: len(coordinator.hellos) == 2)
        assert coordinator.hellos[1].base is None
        before = len(coordinator.journal)
        await coordinator.until(lambda: len(coordinator.journal) >= before + 2)
    assert coordinator.offered[-1].base != ModelVersion("test/00000001", 999)


async def test_a_young_agents_model_outlives_a_kill_however_little_may_be_written(
    serve: Serve, agent_config: MakeConfig, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FlashBudget, "sparing", True)
    coordinator = await serve()
    config = agent_config(coordinator.url)

    def model_on_disk() -> bool:
        with closing(Store(config.state_dir / FILE_NAME, look_only=True)) as store:
            return store.load().model is not None

    async with running(config):
        await coordinator.until(lambda: bool(coordinator.journal))
        await coordinator.until(model_on_disk)
