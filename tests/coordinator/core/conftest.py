"""What the coordinator's tests share: a region's settings, messages as devices send them, an outlet that listens."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
import pytest

from coordinator.age_history import AgeHistory
from coordinator.config import Checkpoints, CoordinatorConfig
from coordinator.engine import Engine
from coordinator.events import DeviceConnected, OfferDone, UpdateArrived
from coordinator.region import Region
from coordinator.region_state import RegionSettings, RegionState
from coordinator.threads import RunInThread, in_executor
from skerry.algorithms.arrival import Spyker
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation
from skerry.protocol import sparse
from skerry.protocol.messages import (
    BundleReference,
    Hello,
    ModelVersion,
    Part,
    UpdateAccepted,
    UpdateOffered,
    UpdateRejected,
    Welcome,
)
from skerry.recipe import Recipe
from skerry.vector import Float32, SparseVector

T = TypeVar("T")

SIZE = 64
BUNDLE = BundleReference("0" * 64, 1000)
LONE = Recipe(arrival=Spyker(), federation=NoFederation(), downlink=Newest())


class Words:
    """The tests' vocabulary: messages and events with what does not matter filled in."""

    size = SIZE
    bundle = BUNDLE
    lone = LONE

    @staticmethod
    def initial() -> Float32:
        """The model of version 0."""
        return np.linspace(-1.0, 1.0, SIZE, dtype=np.float32)

    @staticmethod
    def vector(seed: int, entries: int = 8, size: int = SIZE) -> SparseVector:
        """Some entries, different ones for every seed."""
        rng = np.random.default_rng(seed)
        indices = np.sort(rng.choice(size, entries, replace=False)).astype(np.int64)
        return SparseVector(size, indices, rng.standard_normal(entries).astype(np.float32))

    @staticmethod
    def update(device: str, sequence: int, base: ModelVersion, seed: int | None = None, **fields: Any) -> UpdateArrived:
        """An update; the same device and sequence bring the same values."""
        vector = fields.pop("vector", None) or Words.vector(
            crc32(f"{device} {sequence}".encode()) if seed is None else seed
        )
        offered = {"steps": 20, "examples": 100, "loss": 0.5, "seconds_per_step": 0.05} | fields
        payload = sparse.encode(vector)
        part = Part(0, 1, len(payload), 0, b"")
        return UpdateArrived(
            device,
            UpdateOffered(sequence=sequence, base=base, part=part, **offered),
            payload,
            vector,
            len(payload) + 90,
        )

    @staticmethod
    def hello(
        device: str, base: ModelVersion | None = None, seconds_per_step: float | None = 0.05, minor: int = 0
    ) -> DeviceConnected:
        """A device connects; `minor`: of the protocol that it speaks."""
        return DeviceConnected(device, Hello(1, minor, device, "1.0", "", None, base, 0, seconds_per_step), None)


@pytest.fixture(scope="session")
def words() -> type[Words]:
    return Words


@pytest.fixture(scope="session")
def new_region() -> Callable[..., Region]:
    """Start a region that has no past."""

    def start(recipe: Recipe = LONE, peers: tuple[str, ...] = (), state: RegionState | None = None) -> Region:
        settings = RegionSettings("here-1", "here", peers, recipe, BUNDLE, 1 << 18, size=SIZE)
        return Region(settings, state or RegionState("here/00000001", AgeHistory(0, [0.0])), 0.0)

    return start


class Listener:
    """An outlet that keeps what leaves, in order, and tells the engine that offers are written."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.offers: list[tuple[str, ModelVersion, ModelVersion | None, bytes]] = []
        self.engine: Engine
        self.running: asyncio.Future[None]
        self.on_send: Callable[[str, Any], None] = lambda _device, _message: None
        self.on_offer: Callable[[], None] = lambda: None
        self.on_peer: Callable[[str, Any], None] = lambda _peer, _message: None
        self._changed = asyncio.Event()

    def send_to_device(self, device: str, message: Welcome | UpdateAccepted | UpdateRejected) -> None:
        self.on_send(device, message)
        self.sent.append((device, message))
        self._changed.set()

    def offer_model(
        self, device: str, version: ModelVersion, base: ModelVersion | None, age: float, payload: bytes
    ) -> None:
        self.on_offer()
        self.offers.append((device, version, base, payload))
        self.engine.submit(OfferDone(device, version))
        self._changed.set()

    def send_to_peer(self, peer: str, message: Any) -> None:
        self.on_peer(peer, message)
        self._changed.set()

    def accepted(self, device: str | None = None) -> list[UpdateAccepted]:
        return [m for name, m in self.sent if isinstance(m, UpdateAccepted) and device in {None, name}]

    def notice(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_accepted_or_stopped(self, count: int) -> None:
        await self.until(lambda: len(self.accepted()) >= count or self.running.done())

    async def until_accepted(self, count: int) -> None:
        await self.until(lambda: len(self.accepted()) >= count)


@pytest.fixture
def new_listener() -> Callable[[], Listener]:
    return Listener


@pytest.fixture
def in_threads() -> Iterator[RunInThread]:
    """Run the engine's disk work in real threads."""
    with ThreadPoolExecutor(2) as executor:
        yield in_executor(executor)


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[..., CoordinatorConfig]:
    """Configuration of a coordinator whose state lies in the test's folder."""

    def make(
        recipe: Recipe = LONE,
        name: str = "here-1",
        checkpoints: Checkpoints = Checkpoints(),  # noqa: B008 - frozen
        **fields: Any,
    ) -> CoordinatorConfig:
        return CoordinatorConfig(
            name=name,
            region=name.partition("-")[0],
            bundle="builtin:activity",
            recipe=recipe,
            state_dir=fields.pop("state_dir", tmp_path / name),
            checkpoints=checkpoints,
            **fields,
        )

    return make


@pytest.fixture
def open_engine(in_threads: RunInThread) -> Callable[..., AbstractAsyncContextManager[Engine]]:
    """Open an engine and run it; leaving closes it as a stopping service does, `crash` as a kill does."""

    @asynccontextmanager
    async def opened(
        config: CoordinatorConfig, outlet: Listener, run_in_thread: RunInThread = in_threads, **fields: Any
    ) -> AsyncIterator[Engine]:
        engine = Engine.open(
            config,
            fields.pop("bundle", BUNDLE),
            fields.pop("initial", Words.initial()),
            outlet,
            run_in_thread=run_in_thread,
            wall_clock=lambda: 1_700_000_000.0,
            rng=random.Random(fields.pop("rng_seed", 7)),
            tail=fields.pop("tail", 0),
            **fields,
        )
        outlet.engine = engine
        running = outlet.running = asyncio.ensure_future(engine.run())
        running.add_done_callback(lambda _: outlet.notice())
        try:
            yield engine
        finally:
            running.cancel()
            try:
                with suppress(asyncio.CancelledError):
                    await running
            finally:
                await engine.close()

    return opened


@pytest.fixture
def inline() -> RunInThread:
    """Run the engine's disk work at once, so that one group follows another without any thread."""

    def run(function: Callable[[], T], /) -> Awaitable[T]:
        async def result() -> T:
            return function()

        return result()

    return run
