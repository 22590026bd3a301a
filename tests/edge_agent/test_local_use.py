"""What a whole agent does with the model beside training: it evaluates, keeps an own head, and answers."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp import ClientSession

from edge_agent import status
from edge_agent.config import AgentConfig, Data
from edge_agent.local_cycle import RegionalModel
from edge_agent.local_use import LocalUse, Shells
from edge_agent.personal import OwnTensors
from edge_agent.store import FILE_NAME, Store, StoredHead
from edge_agent.task import open_task
from skerry.errors import ConfigError
from skerry.protocol.messages import ModelVersion, Telemetry
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import load
from skerry.training.onnx_engine import OnnxTrainer

Serve = Callable[..., Awaitable[Any]]
MakeConfig = Callable[..., AgentConfig]
Running = Callable[[AgentConfig], AbstractAsyncContextManager[asyncio.Task[None]]]


async def ask(config: AgentConfig, path: str, body: Any = None) -> tuple[int, Any]:
    url = f"http://{config.inference.listen}{path}"
    async with ClientSession() as session, session.request("GET" if body is None else "POST", url, json=body) as answer:
        return answer.status, msgspec.json.decode(await answer.read())


async def test_the_regional_model_is_evaluated_on_held_out_rows_and_only_counts_are_sent(
    serve: Serve, agent_config: MakeConfig, running: Running, activity: Bundle
) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: any(one.held_out_examples for one in coordinator.telemetry))
    told: Telemetry = coordinator.telemetry[-1]
    rows = load(config.data.source, activity.manifest, held_out=True)
    assert told.held_out_examples == min(len(rows), config.held_out.examples_max)
    assert 0 < told.held_out_correct <= told.held_out_examples
    assert told.held_out_version is not None
    assert told.held_out_loss_sum > 0.0
    assert told.personal_correct is None
    final = status.read(config.state_dir)
    assert final is not None
    assert final.held_out_examples == told.held_out_examples
    assert final.held_out_correct is not None
    assert (final.personal_correct, final.personal_loss_sum) == (None, None)


@pytest.mark.parametrize("source", ["?split=all", "no split"])
async def test_rows_that_are_trained_on_are_no_held_out_rows(
    source: str, serve: Serve, agent_config: MakeConfig, running: Running, activity: Bundle, tmp_path: Path
) -> None:
    coordinator = await serve()
    rows = load("builtin:activity?part=0&parts=6&split=all", activity.manifest)
    np.savez(tmp_path / "rows.npz", x=rows.x, y=rows.y)
    data = f"npz:{tmp_path}/rows.npz" if source == "no split" else f"builtin:activity{source}&part=0&parts=6"
    config = msgspec.structs.replace(agent_config(coordinator.url), data=Data(data))
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 10 and len(coordinator.telemetry) >= 3)
    assert not any(one.held_out_examples for one in coordinator.telemetry)


async def test_an_own_head_is_tuned_used_and_reported_beside_the_regional_model(
    serve: Serve, agent_config: MakeConfig, running: Running, activity: Bundle, free_port: int
) -> None:
    coordinator = await serve()
    config = agent_config(
        coordinator.url,
        personal={"layers": ["4.*"], "learning_rate": 0.05},
        inference={"enabled": True, "listen": f"127.0.0.1:{free_port}"},
    )
    async with running(config):
        # A busy machine takes a while to train the regional model past what is right by chance.
        await coordinator.until(
            lambda: any(
                (one.personal_correct or 0) > 0.3 * one.held_out_examples > 0 and one.held_out_correct > 0
                for one in coordinator.telemetry
            ),
            60.0,
        )
        code, about = await ask(config, "/v1/model")
        assert code == 200
        assert about["personal"]
        assert 0.0 < about["held_out"]["regional"]["accuracy"] < 1.0
        assert 0.2 < about["held_out"]["personal"]["accuracy"] < 1.0
        x = np.zeros((3, 43)).tolist()
        code, answer = await ask(config, "/v1/predict", {"x": x, "scores": "logits"})
        assert code == 200
        assert answer["model"]["personal"]
        assert answer["model"]["bundle"] == activity.sha256
    with closing(Store(config.state_dir / FILE_NAME)) as store:
        head = store.load().head
    assert head is not None
    assert head.tensors == ("4.weight", "4.bias")
    final = status.read(config.state_dir)
    assert final is not None
    assert final.personal_correct is not None
    assert 0.0 < (final.personal_loss_sum or 0.0) != final.held_out_loss_sum


async def test_a_restarted_agent_answers_with_model_and_head_from_disk_before_it_has_found_a_coordinator(
    serve: Serve, agent_config: MakeConfig, running: Running, activity: Bundle, free_port: int
) -> None:
    coordinator = await serve()
    options: dict[str, Any] = {
        "personal": {"layers": ["4.*"]},
        "inference": {"enabled": True, "listen": f"127.0.0.1:{free_port}"},
    }
    config = agent_config(coordinator.url, **options)
    async with running(config):
        await coordinator.until(lambda: any(one.personal_correct for one in coordinator.telemetry))
    with closing(Store(config.state_dir / FILE_NAME)) as store:
        stored = store.load()
    assert stored.model is not None
    assert stored.head is not None
    own = OwnTensors(activity.manifest.layout, ["4.*"], "activity")
    parameters = own.with_head(stored.model.parameters, stored.head.values)
    raw = np.full((1, 43), 0.25, np.float32)
    expected = OnnxTrainer(activity).predict(parameters, activity.manifest.input.prepare(raw))
    alone = agent_config("http://127.0.0.1:9", limits={"outbox_updates_max": 1}, **options)
    async with running(alone):
        async with asyncio.timeout(20):
            while True:
                try:
                    code, answer = await ask(alone, "/v1/predict", {"x": raw.tolist(), "scores": "logits"})
                except OSError:
                    continue
                if code == 200:
                    break
                await asyncio.sleep(0.002)
    assert answer["model"]["version"] == stored.model.version.number
    assert answer["model"]["personal"]
    np.testing.assert_allclose(answer["logits"], expected, rtol=1e-4, atol=1e-5)


async def test_uploads_are_the_same_bit_by_bit_with_and_without_an_own_head(
    serve: Serve, agent_config: MakeConfig, running: Running, tmp_path: Path
) -> None:
    """The coordinator offers one model and no newer one: then nothing but seeds decides what is uploaded."""

    async def uploads(name: str, **options: Any) -> list[tuple[int, int, bytes]]:
        coordinator = await serve(offer_every_updates=10**9)
        config = msgspec.structs.replace(agent_config(coordinator.url, **options), state_dir=tmp_path / name)
        async with running(config):
            await coordinator.until(lambda: len(coordinator.journal) >= 25)
            if options:
                await coordinator.until(lambda: any(one.personal_correct for one in coordinator.telemetry))
        assert all(offered.part.of == 1 for offered in coordinator.offered)
        return [(one.sequence, one.steps, one.part.data) for one in coordinator.offered[:25]]

    plain = await uploads("plain")
    assert plain == await uploads("personal", personal={"layers": ["*"], "steps": 30})
    assert len({data for _, _, data in plain}) == 25


async def test_layers_that_the_task_does_not_have_leave_the_own_head_off_and_training_goes_on(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url, personal={"layers": ["7.*"]})
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 3)
        await coordinator.until(lambda: any(one.held_out_examples for one in coordinator.telemetry))
        assert all(one.personal_correct is None for one in coordinator.telemetry)
        found = status.read(config.state_dir)
    assert found is not None
    assert "no own head: personal.layers: '7.*' names no tensor of task 'activity'; there are: 0.w" in found.last_error


async def test_an_address_in_use_ends_the_agent_with_the_reason(
    serve: Serve, agent_config: MakeConfig, running: Running
) -> None:
    coordinator = await serve()
    listen = coordinator.url.removeprefix("http://")
    with pytest.raises(ConfigError, match="cannot listen"):
        async with running(agent_config(coordinator.url, inference={"enabled": True, "listen": listen})) as task:
            await asyncio.wait([task], timeout=20)


@pytest.mark.parametrize("what", ["pause", "another task"])
async def test_tuning_and_evaluation_are_given_up_when_the_device_rests_or_leaves_the_task(
    what: str, agent_config: MakeConfig, activity: Bundle
) -> None:
    config = agent_config("http://127.0.0.1:9", personal={"layers": ["4.*"]})
    task = open_task(activity, config)
    calls = 0
    heads: list[StoredHead] = []

    async def aside(work: Callable[[], Any]) -> Any:
        nonlocal calls
        calls += 1
        done = work()
        if calls == stop_at and what == "pause":
            use.paused = True
        elif calls == stop_at:
            use.task_left()
        await asyncio.sleep(0)
        return done

    for stop_at in (3, 24):  # while tuning; while evaluating
        calls = 0
        heads.clear()
        shells = Shells(aside, heads.append, lambda: False, asyncio.get_running_loop().time, lambda: 0.0)
        use = LocalUse(config.held_out, config.personal, None, shells, None)
        running = asyncio.create_task(use.run())
        use.task_opened(task, RegionalModel(ModelVersion("r/00000001", 1), task.initial))
        use.cycle_finished()
        for _ in range(200):
            await asyncio.sleep(0)
        assert calls in {stop_at, stop_at + 1}
        assert use.scores.version is None
        assert len(heads) == (stop_at == 24)
        running.cancel()
