"""A coordinator on a real port with a real state folder, and devices under the test's hand that talk to it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import aiohttp
import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.config import CoordinatorConfig
from coordinator.service import Service
from skerry.protocol import frames, sparse
from skerry.protocol.limits import FRAME_BYTES_MAX, PART_BYTES_MAX, PROTOCOL_MAJOR, PROTOCOL_MINOR
from skerry.protocol.messages import (
    FromAgent,
    FromCoordinator,
    Hello,
    ModelOffered,
    ModelVersion,
    UpdateAccepted,
    UpdateOffered,
    Welcome,
)
from skerry.protocol.parts import Assembler, split
from skerry.tasks import bundle as bundles
from skerry.tasks.manifest import Input, Label, Manifest, PartName
from skerry.tasks.model_file import from_safetensors, to_safetensors
from skerry.vector import Float32, Layout, Tensor

T = TypeVar("T")


@dataclass
class Device:
    """A device's end of a stream."""

    name: str
    socket: aiohttp.ClientWebSocketResponse
    welcome: Welcome | None = None

    async def send(self, message: FromAgent) -> None:
        await self.socket.send_bytes(frames.encode(message))

    async def receive(self) -> FromCoordinator:
        frame = await self.socket.receive_bytes(timeout=10)
        return frames.decode(frame, FromCoordinator, bytes_max=FRAME_BYTES_MAX)

    async def next(self, kind: type[T]) -> T:
        """Return the next message of `kind`; others are passed over."""
        while True:
            message = await self.receive()
            if isinstance(message, kind):
                return message

    async def hello(self, **fields: Any) -> None:
        message = Hello(PROTOCOL_MAJOR, PROTOCOL_MINOR, self.name, "1", "", None, None, 0, None)
        await self.send(msgspec.structs.replace(message, **fields))

    async def model(self, held: Float32 | None = None) -> tuple[ModelVersion, Float32]:
        """Receive the next model that is offered; `held` is the base that it may be told against."""
        assembler, payload = Assembler(1 << 30), None
        while payload is None:
            offered = await self.next(ModelOffered)
            payload = assembler.add(offered.version, offered.part)
        size = int.from_bytes(payload[4:8], "little")
        assert offered.base is None or held is not None
        values = np.full(size, np.nan, np.float32) if held is None else held.copy()
        sparse.decode(payload, size=size).set_in(values)
        return offered.version, values

    async def offer(self, sequence: int, base: ModelVersion, payload: bytes, part_bytes: int = PART_BYTES_MAX) -> None:
        """Offer an update."""
        for frame in self.update_frames(sequence, base, payload, part_bytes):
            await self.socket.send_bytes(frame)

    def update_frames(self, sequence: int, base: ModelVersion, payload: bytes, part_bytes: int) -> list[bytes]:
        """Return the frames that carry an update."""
        return [
            frames.encode(UpdateOffered(sequence, base, 20, 100, 0.5, 0.01, part))
            for part in split(payload, part_bytes)
        ]

    async def accepted(self) -> UpdateAccepted:
        return await self.next(UpdateAccepted)


async def _connect(http: aiohttp.ClientSession, url: str, name: str, **hello: Any) -> Device:
    socket = await http.ws_connect(f"{url}/v1/agents/stream", compress=0, max_msg_size=FRAME_BYTES_MAX)
    device = Device(name, socket)
    await device.hello(**hello)
    device.welcome = await device.next(Welcome)
    return device


class Coordinator:
    """A running coordinator, and what can be asked of it."""

    def __init__(self, service: Service, config: CoordinatorConfig, http: aiohttp.ClientSession) -> None:
        self.service = service
        self.config = config
        self.http = http
        self.url = f"http://127.0.0.1:{service.port}"

    async def socket(self) -> aiohttp.ClientWebSocketResponse:
        return await self.http.ws_connect(f"{self.url}/v1/agents/stream", compress=0, max_msg_size=FRAME_BYTES_MAX)

    async def device(self, name: str = "pi-1", **hello: Any) -> Device:
        """Connect a device and let it say Hello."""
        return await _connect(self.http, self.url, name, **hello)

    async def json(self, path: str) -> dict[str, Any]:
        async with self.http.get(self.url + path) as response:
            assert response.status == 200, await response.text()
            return cast("dict[str, Any]", await response.json())

    async def model(self, kind: str = "regional") -> Float32:
        async with self.http.get(f"{self.url}/v1/model?kind={kind}") as response:
            layout = bundles.resolve(self.config.bundle).manifest.layout
            return from_safetensors(layout, await response.read())

    async def metrics(self) -> dict[str, float]:
        """Return the samples by name and labels, as `name{label=value}`."""
        async with self.http.get(self.url + "/metrics") as response:
            text = await response.text()
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return samples

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the status meets a condition; return it."""
        async with asyncio.timeout(20):
            while True:
                status = await self.json("/v1/admin/status")
                if condition(status):
                    return status
                await asyncio.sleep(0.01)

    async def until_metric(self, name: str, value: float) -> None:
        """Wait until a sample reaches at least `value`, or, if that is 0, falls to it."""
        async with asyncio.timeout(20):
            while True:
                found = (await self.metrics()).get(name, 0.0)
                if found >= value > 0 or found == value:
                    return
                await asyncio.sleep(0.01)


@pytest.fixture
def write_bundle() -> Callable[[Path, Float32], Path]:
    """Return a function that writes the bundle of a model that starts from some values."""

    def write(path: Path, initial: Float32) -> Path:
        layout = Layout((Tensor("weights", (len(initial),), 0),))
        parts = dict.fromkeys(PartName, b"no graph: a coordinator opens none to coordinate")
        parts[PartName.PARAMETERS] = to_safetensors(layout, initial)
        manifest = Manifest(
            name="flat",
            input=Input(shape=(1,)),
            label=Label(classes=2),
            layout=layout,
            parts={name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
        )
        path.write_bytes(bundles.pack(manifest, parts))
        return path

    return write


@pytest.fixture
def initial() -> Float32:
    return np.linspace(-1, 1, 64, dtype=np.float32)


@pytest.fixture
def bundle_file(tmp_path: Path, initial: Float32, write_bundle: Callable[[Path, Float32], Path]) -> Path:
    return write_bundle(tmp_path / "flat.skerry", initial)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def connect(http: aiohttp.ClientSession) -> Callable[..., Awaitable[Device]]:
    """Return a function that connects a device to the coordinator at a URL."""

    async def connect(url: str, name: str, session: aiohttp.ClientSession | None = None, **hello: Any) -> Device:
        return await _connect(session or http, url, name, **hello)

    return connect


@pytest.fixture
def make_config(tmp_path: Path, bundle_file: Path) -> Callable[..., CoordinatorConfig]:
    """Return a function from keys of the configuration to a configuration for this test's folder."""

    def make(name: str = "eu", **keys: Any) -> CoordinatorConfig:
        defaults = {
            "name": name,
            "region": name,
            "bundle": str(bundle_file),
            "state_dir": str(tmp_path / name),
            "insecure": True,
            "listen": {"port": 0},
            "peers_wait_s": 0.0,
            "recipe": {"arrival": {"rule": "constant", "weight": 0.5}},
        }
        return msgspec.convert(defaults | keys, CoordinatorConfig, dec_hook=lambda kind, value: kind(value))

    return make


@pytest.fixture
async def start(
    make_config: Callable[..., CoordinatorConfig], http: aiohttp.ClientSession
) -> AsyncIterator[Callable[..., Awaitable[Coordinator]]]:
    """Return a function that starts a coordinator; it is stopped when the test ends, if the test has not done so."""
    async with AsyncExitStack() as stack:

        async def begin(name: str = "eu", **keys: Any) -> Coordinator:
            config = make_config(name, **keys)
            service = Service(config)
            await service.start()
            stack.push_async_callback(service.stop)
            return Coordinator(service, config, http)

        yield begin


@pytest.fixture
async def coordinator(start: Callable[..., Awaitable[Coordinator]]) -> Coordinator:
    return await start()
