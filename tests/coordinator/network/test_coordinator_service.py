"""The service as a whole: when it refuses to start, what it leaves behind, and how well the model does."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.config import CoordinatorConfig
from coordinator.evaluation import LOSS_MAX
from coordinator.history import read_history
from coordinator.service import Service
from skerry.errors import ConfigError, DataError, StorageError
from skerry.identity.errors import IdentityError
from skerry.protocol import sparse
from skerry.tasks.bundle import Bundle
from skerry.vector import Float32, SparseVector

Start = Callable[..., Awaitable[Any]]
MakeConfig = Callable[..., CoordinatorConfig]


async def refused(config: CoordinatorConfig, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        await Service(config).start()
    assert not (config.state_dir / "port").exists()


async def test_plain_http_must_be_spelt_out(make_config: MakeConfig) -> None:
    await refused(make_config(insecure=False), IdentityError, "join")
    await refused(make_config(insecure=False, peers={"us": "http://127.0.0.1:1"}), ConfigError, "insecure = true")
    await refused(make_config(peers={"us": "https://us.example.org"}), ConfigError, "peers.us.*certificate")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "example.org", "::"])
async def test_plain_http_stays_on_this_machine(make_config: MakeConfig, host: str) -> None:
    await refused(make_config(listen={"host": host, "port": 0}), ConfigError, "loopback")


async def test_plain_http_to_peers_stays_on_this_machine(make_config: MakeConfig) -> None:
    await refused(make_config(peers={"us": "http://us.example.org"}), ConfigError, "peers.us.*loopback")


async def test_a_model_that_no_message_can_carry_is_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.bundle_checks.PAYLOAD_BYTES_MAX", 4 * 64 + 11)  # a real one would take 256 MB
    await refused(make_config(), DataError, "64 parameters")


async def test_a_port_in_use_is_named(start: Start, make_config: MakeConfig) -> None:
    first = await start()
    await refused(make_config("us", listen={"port": first.service.port}), ConfigError, str(first.service.port))


async def test_a_state_serves_one_coordinator_at_a_time(start: Start, make_config: MakeConfig) -> None:
    await start()
    with pytest.raises(StorageError, match="another coordinator"):
        await Service(make_config()).start()


async def test_the_state_of_another_task_is_refused(
    start: Start, make_config: MakeConfig, tmp_path: Path, write_bundle: Callable[[Path, Float32], Path]
) -> None:
    first = await start()
    await first.service.stop()
    other = write_bundle(tmp_path / "other.skerry", np.zeros(64, np.float32))
    await refused(make_config(bundle=str(other)), ConfigError, "bundle")


async def test_a_missing_bundle_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    await refused(make_config(bundle=str(tmp_path / "none.skerry")), DataError, "none.skerry")


async def test_missing_held_out_data_is_named(make_config: MakeConfig) -> None:
    config = make_config(bundle="builtin:activity", evaluation={"source": "npz:/nowhere/held_out.npz"})
    await refused(config, DataError, "held_out.npz")


async def test_the_port_is_written_down_while_it_is_open(start: Start) -> None:
    coordinator = await start()
    path = coordinator.config.state_dir / "port"
    assert int(path.read_text()) == coordinator.service.port
    await coordinator.service.stop()
    assert not path.exists()


async def test_a_stopped_coordinator_goes_on_from_its_last_checkpoint(start: Start) -> None:
    first = await start()
    device = await first.device()
    version, _ = await device.model()
    for sequence in range(1, 11):
        await device.offer(sequence, version, sparse.encode(SparseVector.full(np.full(64, 0.3, np.float32))))
    for _ in range(10):
        await device.accepted()
    model = await first.model()
    await first.service.stop()
    second = await start()
    status = await second.json("/v1/admin/status")
    assert (status["version"], status["checkpoint_version"]) == (10, 10)
    assert np.array_equal(await second.model(), model)


async def test_models_are_evaluated_when_they_change(start: Start) -> None:
    coordinator = await start(bundle="builtin:activity", evaluation={"source": "builtin:activity", "every_s": 0.05})
    size = Bundle.builtin("activity").manifest.layout.size
    await coordinator.until_metric("skerry_model_accuracy{kind=federated}", 0.01)
    device = await coordinator.device()
    version, _ = await device.model()
    await device.offer(1, version, sparse.encode(SparseVector.full(np.full(size, 0.01, np.float32))))
    await device.accepted()
    await coordinator.until(lambda status: all(one["version"] == 1 for one in status["evaluations"].values()))
    await coordinator.service.stop()
    evaluations = read_history(coordinator.config.state_dir).evaluations
    assert {(one.version, one.kind) for one in evaluations} == {
        (version, kind) for version in (0, 1) for kind in ("regional", "federated")
    }
    assert len(evaluations) == 4, "an unchanged model is not evaluated again"
    assert all(one.examples > 1000 and one.correct in range(1, one.examples) for one in evaluations)


async def test_a_model_that_has_diverged_is_evaluated_too(start: Start) -> None:
    """Its loss is no number, which the journal cannot hold: the coordinator would stop, and again after every start."""
    coordinator = await start(bundle="builtin:activity", evaluation={"source": "builtin:activity", "every_s": 0.05})
    size = Bundle.builtin("activity").manifest.layout.size
    device = await coordinator.device()
    version, _ = await device.model()
    values = np.where(np.arange(size) % 2, 1e30, -1e30).astype(np.float32)
    await device.offer(1, version, sparse.encode(SparseVector.full(values)))
    await device.accepted()
    await coordinator.until(lambda status: status["evaluations"].get("federated", {}).get("version") == 1)
    await coordinator.service.stop()
    last = read_history(coordinator.config.state_dir).evaluations[-1]
    assert (last.version, last.loss) == (1, LOSS_MAX)
