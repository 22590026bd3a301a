"""A coordinator for one device: a real server on a real socket that speaks the protocol, and does as the test says."""

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp import WSMsgType, web

from edge_agent import service
from edge_agent.board import Board
from edge_agent.config import AgentConfig, Data, HeldOut, Inference, Limits, Personal, Training
from edge_agent.device import Device
from edge_agent.events import BundleOpened, Calibrated, Connected, Received, SetModel, StartCycle
from skerry.agent_stages import AgentStages
from skerry.algorithms.local_steps import Fixed
from skerry.policy import Policy
from skerry.protocol import frames, parts, sparse
from skerry.protocol.limits import FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX
from skerry.protocol.messages import (
    BundleReference,
    FromAgent,
    FromCoordinator,
    Heartbeat,
    Hello,
    ModelOffered,
    ModelVersion,
    PartialUpdate,
    Plan,
    Telemetry,
    UpdateAccepted,
    UpdateOffered,
    UpdateRejected,
    Welcome,
)
from skerry.tasks.bundle import Bundle
from skerry.vector import Float32, SparseVector
from tests.edge_agent import device_core
from tests.edge_agent.device_core import SHA

PATIENCE = float(os.environ.get("SKERRY_TEST_PATIENCE", "1"))  # times the usual: an emulated processor is slow


async def _until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s * PATIENCE):
        while not condition():  # noqa: ASYNC110 - a real agent is watched from outside
            await asyncio.sleep(0.01)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Wait for a condition, or fail."""
    return _until


@dataclass
class Coordinator:
    """Journals updates in memory: (sequence -> vector), each once; answers as its knobs say."""

    bundle: Bundle
    stages: AgentStages = field(default_factory=lambda: AgentStages(local_steps=Fixed(steps_per_cycle=5)))
    weight: float | None = 1.0
    answers: bool = True  # acknowledge what arrives
    rejects: bool = False
    rejects_first_parts: bool = False  # as soon as an update begins, as one that is too large
    offers_models: bool = True
    offer_every_updates: int = 3
    part_bytes_max: int = 256 << 10
    cut_after_parts: int | None = None  # of an update, once
    bundle_bytes: bytes | None = None  # instead of the true ones
    silent: bool = False  # reads, and says nothing at all
    ready: bool = True  # says that it takes agents
    shuts_out: bool = False  # says that the device's certificate was revoked
    opens_in_s: float = 0.0  # a stream
    name: str = "test"  # of its region, too
    others: dict[str, str] = field(default_factory=dict)  # coordinators that it names
    url: str = ""
    journal: dict[int, SparseVector] = field(default_factory=dict)
    offered: list[UpdateOffered] = field(default_factory=list)  # every message, repeats and parts included
    hellos: list[Hello] = field(default_factory=list)
    telemetry: list[Telemetry] = field(default_factory=list)
    heartbeats: int = 0
    heard: list[FromAgent] = field(default_factory=list)  # on the newest stream
    bundle_requests: list[str] = field(default_factory=list)
    version: int = 0
    sockets: list[web.WebSocketResponse] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = self.bundle.initial_parameters()
        self.assembler = parts.Assembler(PAYLOAD_BYTES_MAX)
        self.sent_model: tuple[int, Float32] | None = None

    # --- what tests say and ask ---

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        await _until(condition, timeout_s)

    async def say(self, message: FromCoordinator) -> None:
        await self.sockets[-1].send_bytes(frames.encode(message))

    async def cut(self) -> None:
        for one in self.sockets:
            if one._req is not None and one._req.transport is not None:
                one._req.transport.abort()
        self.sockets.clear()

    async def offer(self, *, whole: bool) -> None:
        base = None if whole or self.sent_model is None else self.sent_model
        if base is None:
            values, base_version = SparseVector.full(self.model), None
        else:
            indices = np.flatnonzero(self.model != base[1]).astype(np.int64)
            values, base_version = SparseVector(len(self.model), indices, self.model[indices]), self.at(base[0])
        payload = sparse.encode(values, background=None if base is None else base[1])
        self.sent_model = (self.version, self.model.copy())
        for part in parts.split(payload, 4096):
            await self.say(
                ModelOffered(version=self.at(self.version), base=base_version, age=float(self.version), part=part)
            )

    def at(self, number: int) -> ModelVersion:
        return ModelVersion(f"{self.name}/00000001", number)

    # --- the server ---

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/agents/stream", self._stream)
        app.router.add_get("/v1/bundles/{sha256}", self._bundle)
        app.router.add_get("/readyz", self._ready)
        return app

    async def _ready(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready else 503)

    async def _bundle(self, request: web.Request) -> web.StreamResponse:
        self.bundle_requests.append(request.headers.get("Range", ""))
        if self.bundle_bytes is not None:
            return web.Response(body=self.bundle_bytes)
        return web.FileResponse(self.bundle.path)

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        await asyncio.sleep(self.opens_in_s)
        if self.shuts_out:
            raise web.HTTPForbidden(headers={"Skerry-Refused": "revoked"})
        socket = web.WebSocketResponse(max_msg_size=FRAME_BYTES_MAX)
        await socket.prepare(request)
        self.sockets.append(socket)
        self.heard = heard = []
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                parsed: FromAgent = frames.decode(message.data, FromAgent, bytes_max=FRAME_BYTES_MAX)
                heard.append(parsed)
                await self._receive(parsed)
        return socket

    async def _receive(self, message: FromAgent) -> None:
        match message:
            case Hello():
                self.hellos.append(message)
                if not self.silent:
                    await self.welcome(message)
            case UpdateOffered():
                await self._update(message)
            case Telemetry():
                self.telemetry.append(message)
            case Heartbeat():
                self.heartbeats += 1
                if not self.silent:
                    await self.say(Heartbeat(message.stamp_s, self.others))

    async def welcome(self, hello: Hello) -> None:
        partial = self.assembler.partial
        known = None
        if partial is not None:
            assert isinstance(partial[0], int)
            known = PartialUpdate(sequence=partial[0], parts=partial[1], crc32=partial[2])
        await self.say(
            Welcome(
                protocol_major=1,
                protocol_minor=0,
                coordinator=self.name,
                region=self.name,
                bundle=BundleReference(self.bundle.sha256, self.bundle.file_bytes),
                recipe=msgspec.to_builtins(self.stages),
                plan=self.plan,
                last_sequence=max(self.journal, default=0),
                partial=known,
                part_bytes_max=self.part_bytes_max,
                coordinators=self.others,
            )
        )
        if self.offers_models:
            if hello.base is None or self.sent_model is None or hello.base != self.at(self.sent_model[0]):
                await self.offer(whole=True)
            elif self.sent_model[0] != self.version:
                await self.offer(whole=False)

    @property
    def plan(self) -> Plan:
        return Plan(cycle_s=0.05, learning_rate=0.05)

    async def _update(self, offered: UpdateOffered) -> None:
        self.offered.append(offered)
        if self.cut_after_parts is not None and offered.part.number + 1 == self.cut_after_parts:
            self.assembler.add(offered.sequence, offered.part)
            self.cut_after_parts = None
            await self.cut()
            return
        if self.rejects_first_parts:
            if offered.part.number == 0:
                await self.say(UpdateRejected(sequence=offered.sequence, reason="too_large", detail="a test"))
            return
        payload = self.assembler.add(offered.sequence, offered.part)
        if payload is None:
            return
        if self.rejects:
            await self.say(UpdateRejected(sequence=offered.sequence, reason="unknown_base", detail="a test"))
            return
        if offered.sequence not in self.journal:
            vector = sparse.decode(payload, size=len(self.model))
            if np.abs(vector.values).max(initial=0.0) > 1e30:
                await self.say(UpdateRejected(sequence=offered.sequence, reason="not_finite", detail="a test"))
                return
            self.journal[offered.sequence] = vector
            vector.add_to(self.model, 1.0 if self.weight is None else self.weight)
            self.version += 1
        if self.answers:
            await self.say(
                UpdateAccepted(sequence=offered.sequence, version=self.version, weight=self.weight, plan=self.plan)
            )
            if self.offers_models and self.version % self.offer_every_updates == 0:
                await self.offer(whole=False)


@pytest.fixture(scope="session")
def patience() -> float:
    """Return how many times as long as usual a test may wait."""
    return PATIENCE


@pytest.fixture
def training() -> Device:
    """The core of a device in its first cycle, of ten steps."""
    device = device_core.new_device()
    told = (Connected(), Received(device_core.welcome()), BundleOpened(SHA), Calibrated(SHA, [0.1] * 5))
    effects = device_core.tell(device, *told, device_core.offer(1))
    assert effects == [SetModel(device_core.at(1), None, device_core.PAYLOAD), StartCycle(1, 10, 0.05, 0, 0)]
    return device


@pytest.fixture(scope="session")
def activity() -> Bundle:
    return Bundle.builtin("activity")


Serve = Callable[..., Awaitable[Coordinator]]


@pytest.fixture
async def serve(activity: Bundle) -> AsyncIterator[Serve]:
    """Start coordinators; each takes a Coordinator's fields, and `port` to listen on a certain one."""
    runners: list[web.AppRunner] = []

    async def start(port: int = 0, **knobs: Any) -> Coordinator:
        coordinator = Coordinator(activity, **knobs)
        runner = web.AppRunner(coordinator.application(), shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        coordinator.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return coordinator

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
def agent_config(tmp_path: Path) -> Callable[..., AgentConfig]:
    """Make a quick agent's configuration."""

    def make(
        *urls: str,
        limits: dict[str, Any] | None = None,
        personal: dict[str, Any] | None = None,
        inference: dict[str, Any] | None = None,
        policy: Policy | None = None,
        **training: Any,
    ) -> AgentConfig:
        quick: dict[str, Any] = {
            "reconnect_min_s": 0.01,
            "reconnect_max_s": 0.1,
            "heartbeat_s": 0.1,
            "progress_timeout_s": 2.0,
            "telemetry_s": 0.2,
            "status_s": 0.1,
        }
        return AgentConfig(
            device="pi-1",
            coordinators=urls,
            data=Data("builtin:activity?part=0&parts=6"),
            state_dir=tmp_path / "agent",
            insecure=True,
            training=Training(**({"calibration_steps": 3, "seed": 1} | training)),
            limits=Limits(**(quick | (limits or {}))),
            held_out=HeldOut(share=0.5),
            personal=Personal(**({"share": 0.5, "save_s": 0.0} | (personal or {}))),
            inference=Inference(**(inference or {})),
            policy=policy or Policy(enabled=False),  # the machine that runs the tests may be as busy as it likes
        )

    return make


@pytest.fixture
def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def running() -> Any:
    """Run an agent for the length of a `with`; leaving it stops the agent in good order."""

    @asynccontextmanager
    async def run(config: AgentConfig, board: Board | None = None) -> AsyncIterator[asyncio.Task[None]]:
        stop = asyncio.Event()
        task = asyncio.create_task(service.run(config, stop, rng=random.Random(1), board=board))
        try:
            yield task
        finally:
            stop.set()
            await task

    return run


@pytest.fixture(scope="session")
def coordinator_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a real coordinator, a process of its own, that trains `activity`."""
    folder = tmp_path_factory.mktemp("coordinator")
    config, port = folder / "coordinator.toml", folder / "state" / "port"
    config.write_text(
        f'name = "real-1"\nregion = "real"\nbundle = "builtin:activity"\nstate_dir = "{folder / "state"}"\n'
        'insecure = true\nlisten = { host = "127.0.0.1", port = 0 }\n'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from coordinator.cli import main; main()", "run", "--config", str(config)],
            stderr=log,
            cwd=Path(__file__).parent.parent.parent,
        )
    try:
        deadline_s = time.monotonic() + 20.0 * PATIENCE
        while not port.exists() or not port.read_text():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port.read_text().strip()}"
    finally:
        process.terminate()
        process.wait(20)
