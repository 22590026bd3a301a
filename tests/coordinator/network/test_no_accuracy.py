"""A task whose predictions are neither right nor wrong: a coordinator and an agent train it, and nobody says 0 %."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.history import read_history
from coordinator.status_text import status_text
from edge_agent import service
from edge_agent.config import AgentConfig, Data, Limits, Training
from skerry.policy import Policy
from skerry.tasks.manifest import Input, Label
from skerry.training.definition import TaskDefinition

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from skerry.training.build import build  # noqa: E402 - behind importorskip

Start = Callable[..., Awaitable[Any]]


@pytest.fixture
def line(tmp_path: Path) -> tuple[str, str]:
    """Return a bundle that fits a line, and rows that lie on one."""
    torch.manual_seed(1)
    definition = TaskDefinition(
        name="line", model=torch.nn.Linear(4, 1), input=Input(shape=(4,)), label=Label(loss="mse", shape=(1,))
    )
    path = tmp_path / "line.skerry"
    path.write_bytes(build(definition).file)
    x = np.random.default_rng(1).standard_normal((200, 4)).astype(np.float32)
    y = x @ np.array([[1.0], [-2.0], [0.5], [3.0]], np.float32)
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    return str(path), f"npz:{tmp_path}/rows.npz"


async def test_a_model_without_accuracy_is_told_by_its_loss(
    start: Start, line: tuple[str, str], tmp_path: Path
) -> None:
    bundle, source = line
    coordinator = await start(bundle=bundle, evaluation={"source": source, "every_s": 0.05})
    config = AgentConfig(
        device="pi-1",
        coordinators=(f"http://127.0.0.1:{coordinator.service.port}",),
        data=Data(source),
        state_dir=tmp_path / "agent",
        insecure=True,
        training=Training(calibration_steps=3, seed=1),
        limits=Limits(reconnect_min_s=0.01, reconnect_max_s=0.1, telemetry_s=0.2),
        policy=Policy(enabled=False),
    )
    stop = asyncio.Event()
    agent = asyncio.create_task(service.run(config, stop, rng=random.Random(1)))
    try:
        await coordinator.until(lambda status: status["evaluations"].get("regional", {}).get("loss", 9.0) < 1.0)
        status = await coordinator.json("/v1/admin/status")
        metrics = await coordinator.metrics()
    finally:
        stop.set()
        await agent
    assert status["evaluations"]["regional"]["correct"] is None
    assert status["evaluations"]["regional"]["examples"] == 200
    (told,) = [line for line in status_text(status).splitlines() if "regional: " in line]
    assert told.startswith("accuracy    regional: none at version ")
    assert "skerry_model_loss{kind=regional}" in metrics
    assert not [name for name in metrics if name.startswith("skerry_model_accuracy")]
    await coordinator.service.stop()
    evaluations = read_history(coordinator.config.state_dir).evaluations
    assert {one.correct for one in evaluations} == {None}
    assert evaluations[-1].loss < evaluations[0].loss
