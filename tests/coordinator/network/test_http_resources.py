"""The HTTP resources: what they give, and what they answer to requests that cannot be served."""

from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import numpy as np
import pytest

from coordinator.config import CoordinatorConfig
from coordinator.service import Service
from coordinator.status_text import status_text
from coordinator.store import Batch, Store
from skerry.algorithms.conduct import Conduct
from skerry.algorithms.peer_guard import PeerDistances
from skerry.protocol import frames, sparse
from skerry.protocol.messages import (
    BroadcastId,
    PeerModel,
    PeerModelNeeded,
    PeerModelTaken,
    PeerStatus,
    Telemetry,
    TokenPassed,
)
from skerry.tasks import bundle as bundles
from skerry.vector import Float32, SparseVector

Start = Callable[..., Awaitable[Any]]

COUNTS = (1.0, 0.5, 0.1, 1, 20, 0.02, 80 << 20, 100, 200, 0, None)  # of telemetry: what matters nothing here
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


async def test_the_bundle_is_served_by_its_hash_and_by_no_other(coordinator: Any) -> None:
    bundle = bundles.resolve(coordinator.config.bundle)
    async with coordinator.http.get(f"{coordinator.url}/v1/bundles/{bundle.sha256}") as response:
        assert await response.read() == bundle.path.read_bytes()
        assert "immutable" in response.headers["Cache-Control"]
        assert response.headers["ETag"] == f'"{bundle.sha256}"'
        assert "Last-Modified" not in response.headers
    async with coordinator.http.get(f"{coordinator.url}/v1/bundles/{'0' * 64}") as response:
        assert response.status == 404
        assert bundle.sha256 in await response.text()


@pytest.mark.parametrize("kind", ["regional", "federated"])
async def test_a_model_is_sent_once_per_version(coordinator: Any, initial: Float32, kind: str) -> None:
    assert np.array_equal(await coordinator.model(kind), initial)
    url = f"{coordinator.url}/v1/model?kind={kind}"
    async with coordinator.http.get(url) as response:
        tag = response.headers["ETag"]
    assert "@0" in tag
    async with coordinator.http.get(url, headers={"If-None-Match": tag}) as response:
        assert response.status == 304
    device = await coordinator.device()
    version, _ = await device.model()
    await device.offer(1, version, sparse.encode(SparseVector.full(np.ones(64, np.float32))))
    await device.accepted()
    async with coordinator.http.get(url, headers={"If-None-Match": tag}) as response:
        assert response.status == 200
        assert "@1" in response.headers["ETag"]


async def test_answers_are_dated_by_the_coordinators_own_clock(
    make_config: Callable[..., CoordinatorConfig], http: aiohttp.ClientSession
) -> None:
    service = Service(make_config(), wall_clock=lambda: 1_700_000_000.0)
    await service.start()
    try:
        async with http.get(f"http://127.0.0.1:{service.port}/healthz") as response:
            assert response.headers.getall("Date") == ["Tue, 14 Nov 2023 22:13:20 GMT"]
    finally:
        await service.stop()


async def test_an_unknown_kind_of_model_is_refused(coordinator: Any) -> None:
    async with coordinator.http.get(f"{coordinator.url}/v1/model?kind=global") as response:
        assert response.status == 400
        assert "global" in await response.text()


async def test_health_readiness_and_status(coordinator: Any) -> None:
    for path in ("/healthz", "/readyz"):
        async with coordinator.http.get(coordinator.url + path) as response:
            assert response.status == 200
    await coordinator.device()
    status = await coordinator.json("/v1/admin/status")
    assert (status["coordinator"], status["region"], status["recipe"]) == ("eu", "eu", "default")
    assert status["devices"]["pi-1"]["connected"]
    assert status["peer_troubles"] == {}


@pytest.mark.parametrize(
    ("rejected", "words"),
    [
        ({}, "updates     0 accepted, 0 rejected, "),
        ({"late": 2, "malformed": 0, "quarantined": 223}, "accepted, 225 rejected (223 quarantined, 2 late), 0 held"),
    ],
)
async def test_status_says_why_updates_were_rejected(coordinator: Any, rejected: dict[str, int], words: str) -> None:
    status = await coordinator.json("/v1/admin/status")
    assert words in status_text(status | {"rejected": rejected})


async def test_a_device_in_quarantine_is_shown_and_released(start: Start) -> None:
    keys = {"recipe": {"guard": {"rule": "outliers"}}}
    first = await start(**keys)
    await first.service.stop()
    store = Store(first.config.state_dir)
    store.write(Batch(conducts={"pi-9": Conduct("pi-9", quarantine="why \x1b[2J")}))
    store.close()

    coordinator = await start(**keys)
    status = await coordinator.json("/v1/admin/status")
    assert status["devices"]["pi-9"]["quarantine"] == "why \x1b[2J"
    assert "pi-9: 0 updates, not connected, in quarantine: why ?[2J" in status_text(status)
    assert (await coordinator.metrics())["skerry_devices_quarantined"] == 1.0
    for answer in (200, 404):
        async with coordinator.http.post(f"{coordinator.url}/v1/admin/devices/pi-9/release") as response:
            assert response.status == answer
            assert "pi-9" in await response.text()
    assert "pi-9" not in (await coordinator.json("/v1/admin/status"))["devices"]


async def test_what_devices_tell_is_shown(coordinator: Any) -> None:
    hot = ("temperature 90.0 C, pauses at 85.0 C", "metered \x1b[2J")
    told = {
        "pi-1": Telemetry(
            *COUNTS, held_out_examples=100, held_out_correct=60, held_out_loss_sum=90.0, held_out_version=3
        ),
        "pi-2": Telemetry(
            *COUNTS,
            held_out_examples=50,
            held_out_correct=15,
            held_out_loss_sum=60.0,
            personal_correct=40,
            held_out_version=7,
        ),
        "pi-3": Telemetry(*COUNTS, pace="pause", reasons=hot),
    }
    before = await coordinator.json("/v1/admin/status")
    assert before["paces"] == {"train": 0, "slow": 0, "pause": 0}
    assert "on devices" not in status_text(before)
    devices = {name: await coordinator.device(name) for name in [*told, "pi-4"]}
    for name, message in told.items():
        await devices[name].send(message)
    status = await coordinator.until(lambda status: sum(status["paces"].values()) == 3)
    assert status["paces"] == {"train": 2, "slow": 0, "pause": 1}
    assert [status["devices"][name]["pace"] for name in devices] == ["train", "train", "pause", None]
    assert status["devices"]["pi-3"]["reasons"] == list(hot)
    assert status["held_out"] == {
        "examples": 150,
        "correct": 75,
        "loss_sum": 150.0,
        "personal_examples": 50,
        "personal_correct": 40,
        "oldest_version": 3,
        "newest_version": 7,
    }
    text = status_text(status)
    assert "4 of 4 connected, 1 paused\n" in text
    assert "  pi-3: 0 updates, paused: temperature 90.0 C, pauses at 85.0 C; metered ?[2J\n" in text
    assert "on devices  regional: 50.0% of 150 held-out examples, loss 1.0000, at versions 3 to 7\n" in text
    assert "on devices  own heads: 80.0% of 50 held-out examples" in text
    assert "regional: none of 150 held-out examples, loss 1.0000" in status_text(status | {"countable": False})
    assert "own heads" not in status_text(status | {"countable": False})
    metrics = await coordinator.metrics()
    assert [metrics[f"skerry_devices{{pace={pace}}}"] for pace in ("train", "slow", "pause")] == [2, 0, 1]
    names = ("examples", "correct", "personal_examples", "personal_correct")
    assert [metrics[f"skerry_device_held_out_{name}"] for name in names] == [150, 75, 50, 40]
    await devices["pi-3"].socket.close()
    status = await coordinator.until(lambda status: status["paces"]["pause"] == 0)
    assert status["devices"].get("pi-3", {"pace": None})["pace"] is None


async def test_metrics_use_the_products_words(coordinator: Any) -> None:
    device = await coordinator.device()
    version, _ = await device.model()
    await device.offer(1, version, sparse.encode(SparseVector.full(np.ones(64, np.float32))))
    await device.accepted()
    coordinator.service.housekeep()
    metrics = await coordinator.metrics()
    assert metrics["skerry_updates_accepted_total"] == 1
    assert metrics["skerry_model_version"] == 1
    assert metrics["skerry_waits_for_peers"] == 0
    assert not {"skerry_round", "skerry_server_rate"} & set(metrics)  # this rule has neither
    assert metrics["skerry_model_age"] == 1
    assert metrics["skerry_devices_connected"] == 1
    assert metrics["skerry_update_staleness_count"] == 1
    assert metrics["skerry_commit_seconds_count"] >= 1
    assert metrics["skerry_commit_updates_sum"] == 1
    assert metrics["skerry_frames_bytes_total{direction=received}"] > 256
    assert metrics["skerry_frames_bytes_total{direction=sent}"] > 256
    assert not [name for name in metrics if "_created" in name]


class Peer:
    """A peer of the test's making."""

    def __init__(self, coordinator: Any) -> None:
        self.coordinator = coordinator
        self.headers = {"Skerry-Bundle": bundles.resolve(coordinator.config.bundle).sha256}

    async def post(self, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
        url = f"{self.coordinator.url}/v1/federation/{path}"
        async with self.coordinator.http.post(url, data=body, headers=self.headers | headers) as response:
            return response.status, await response.read()


def publication(number: int, base: int | None, values: Float32, sender: str = "us") -> bytes:
    payload = sparse.encode(SparseVector.full(values))
    return frames.encode(PeerModel(sender, "us/00000001", BroadcastId(1, number), 3.0, number, base, payload))


@pytest.fixture
async def peer(start: Start) -> Peer:
    return Peer(await start(peers={"us": NOWHERE}))


async def test_a_peers_model_is_taken_once_and_needed_whole_where_its_base_is_missing(peer: Peer) -> None:
    values = np.full(64, 2.0, np.float32)

    async def answer(body: bytes) -> object:
        status, data = await peer.post("model", body)
        assert status == 200
        return frames.decode(data, PeerModelTaken | PeerModelNeeded, bytes_max=4096)

    assert isinstance(await answer(publication(2, 1, values)), PeerModelNeeded)
    assert await answer(publication(2, None, values)) == PeerModelTaken(2)
    assert await answer(publication(2, None, values)) == PeerModelTaken(2)
    status = await peer.coordinator.json("/v1/admin/status")
    assert status["peers"]["us"]["publication"] == 2


async def test_a_peer_whose_model_is_refused_is_shown_and_admitted(start: Start) -> None:
    first = Peer(await start(peers={"us": NOWHERE}))
    assert (await first.post("model", publication(1, None, np.ones(64, np.float32))))[0] == 200
    metrics = await first.coordinator.metrics()
    assert metrics["skerry_peer_refused{peer=us}"] == 0.0
    await first.coordinator.service.stop()
    store = Store(first.coordinator.config.state_dir)
    store.write(Batch(rules={PeerDistances: PeerDistances(refused={"us": "why \x1b[2J"})}))
    store.close()

    again = Peer(await start(peers={"us": NOWHERE}))
    status = await again.coordinator.json("/v1/admin/status")
    assert status["peers"]["us"]["refused"] == "why \x1b[2J"
    assert ", its model is not merged: why ?[2J" in status_text(status)
    assert (await again.coordinator.metrics())["skerry_peer_refused{peer=us}"] == 1.0
    for answer in (200, 404):
        async with again.coordinator.http.post(f"{again.coordinator.url}/v1/admin/peers/us/admit") as response:
            assert response.status == answer
            assert "us" in await response.text()
    assert (await again.coordinator.json("/v1/admin/status"))["peers"]["us"]["refused"] == ""


async def test_a_sign_of_life_tells_region_version_and_bundle(peer: Peer) -> None:
    async with peer.coordinator.http.get(f"{peer.coordinator.url}/v1/federation/status") as response:
        status = frames.decode(await response.read(), PeerStatus, bytes_max=4096)
    assert (status.coordinator, status.version) == ("eu", 0)
    assert status.bundle == peer.headers["Skerry-Bundle"]


@pytest.mark.parametrize(("of", "status"), [("us", 200), ("mars", 403), ("", 403)])
async def test_what_is_known_of_a_ledger_is_told_to_peers_alone(peer: Peer, of: str, status: int) -> None:
    async with peer.coordinator.http.get(f"{peer.coordinator.url}/v1/federation/ledger?of={of}") as response:
        assert response.status == status


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("model", publication(1, None, np.ones(64, np.float32)), {"Skerry-Bundle": "0" * 64}, 409, "trains bundle"),
        ("model", publication(1, None, np.ones(64, np.float32), sender="mars"), {}, 403, "'mars' is no peer"),
        ("model", publication(1, None, np.ones(65, np.float32)), {}, 400, "values"),
        ("model", publication(1, None, np.full(64, 3e38, np.float32)), {}, 400, "diverged"),
        ("model", b"garbage", {}, 400, "msgpack"),
        ("model", bytes(100_000), {}, 413, ""),
        ("token", frames.encode(TokenPassed("mars", BroadcastId(1, 1), {})), {}, 403, "'mars' is no peer"),
        ("token", publication(1, None, np.ones(64, np.float32)), {}, 400, "message type"),
        ("token", bytes(70_000), {}, 413, ""),
    ],
    ids=[
        "foreign bundle",
        "stranger",
        "wrong size",
        "diverged",
        "garbage",
        "too large",
        "strange token",
        "no token",
        "large token",
    ],
)
async def test_what_a_peer_should_not_send_is_refused(
    peer: Peer, path: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    answered, text = await peer.post(path, body, **headers)
    assert answered == status
    assert words in text.decode()
    assert (await peer.coordinator.json("/v1/admin/status"))["peers"] == {}
