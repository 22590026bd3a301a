"""One run of a comparison with the production services: it learns, counts, ends early, and is the same again."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from skerry.errors import DataError
from skerry.tasks import data
from skerry.tasks.builtin.deal import Deal
from skerry.tasks.builtin.source import DATA_SETS, Kind
from skerry.tasks.bundle import resolve
from skerry.tasks.partition import Owners
from testbed.comparison import scenario_file
from testbed.comparison.plan import Plan, RunKey
from testbed.comparison.run_spec import Place, Progress, RunResult, RunSpec
from testbed.comparison.scenario import Malicious
from testbed.simulation.comparison import simulate
from testbed.simulation.rows import Rows

PLACE = Place(bundle="builtin:activity", data_dir=None)
FAST = {"local_steps": {"rule": "fixed", "steps_per_cycle": 5}}


def spec_of(
    recipe: str, *, servers: str = "regions", overrides: dict[str, Any] | None = None, **changes: Any
) -> RunSpec:
    """Two regions, 100 ms apart, with two devices each that take 5 steps in 100 ms."""
    tables: dict[str, Any] = {
        "name": "small",
        "description": "",
        "duration_s": 3.0,
        "seeds": [1],
        "world": {
            "name": "near",
            "regions": ["north", "south"],
            "latency_ms": [[0, 100], [100, 0]],
            "devices": 4,
            "speed": {"rule": "round", "ms": 100.0, "sd_ms": 5.0, "steps": 5},
            "task": {
                "bundle": "builtin:activity",
                "data": "builtin:activity?part={part}&parts={parts}",
                "held_out": "builtin:activity?split=test",
                "batch_examples": 16,
            },
        },
        "arms": [{"name": "arm", "recipe": recipe, "servers": servers, "overrides": FAST | (overrides or {})}],
    }
    comparison = scenario_file.comparison(tables | changes, "small.toml", smoke=False)
    plan = Plan.of(comparison, Path(), {"builtin:activity": resolve("builtin:activity").sha256})
    return plan.spec(RunKey("near", "arm", "", 1))


def result_of(*args: Any, **changes: Any) -> RunResult:
    return simulate(spec_of(*args, **changes), PLACE, lambda _: None)


@pytest.fixture(scope="module")
def spyker() -> RunResult:
    return result_of("spyker", per_class=True)


def test_a_run_learns_and_is_told_as_it_goes() -> None:
    told: list[Progress] = []
    result = simulate(spec_of("default"), PLACE, told.append)
    first, last = result.curve[0], result.curve[-1]
    assert first.at_s == 0.0
    assert last.at_s == result.elapsed_s == pytest.approx(3.0)
    assert len(result.curve) == len(told) == 7
    for value in (last.regional_accuracy, last.federated_accuracy):
        assert value is not None
        assert first.regional_accuracy is not None
        assert value > first.regional_accuracy + 0.2
    assert told[-1] == Progress(at_s=last.at_s, duration_s=3.0, value=last.regional_accuracy)
    assert result.ended == "duration over"


def test_what_was_sent_is_counted_by_direction(spyker: RunResult) -> None:
    """A dense update of 14,278 parameters takes 57 kB, and its answer as much; models go between the two regions."""
    dense = 4 * 14_278
    assert spyker.parameters == 14_278
    assert spyker.updates > 40
    assert dense * spyker.updates < spyker.bytes_up < 1.2 * dense * (spyker.updates + 4)
    assert 0.8 * dense * spyker.updates < spyker.bytes_down
    assert spyker.bytes_peers > 2 * dense
    sparse = result_of("default")
    assert sparse.bytes_up < spyker.bytes_up / 20
    for one, other in zip(spyker.curve, spyker.curve[1:], strict=False):
        assert other.updates >= one.updates
        assert other.bytes_up >= one.bytes_up
        assert other.bytes_down >= one.bytes_down


def test_staleness_and_idle_time_are_those_of_the_services(spyker: RunResult) -> None:
    assert spyker.staleness_mean is not None
    assert spyker.staleness_p99 is not None
    assert 0.0 < spyker.staleness_mean < spyker.staleness_p99 <= 4.0
    assert 0.05 < spyker.idle_devices < 0.4  # on offer: each waits for its answer, 20 ms of 120
    assert 0.9 < spyker.idle_servers < 1.0  # 2 ms a change


def test_the_accuracy_of_classes_adds_up(spyker: RunResult) -> None:
    assert spyker.per_class is not None
    held_out = data.load("builtin:activity?split=test", resolve("builtin:activity").manifest, held_out=True)
    shares = np.bincount(held_out.y, minlength=6) / len(held_out)
    known = [0.0 if one is None else one for one in spyker.per_class]
    assert float(np.dot(shares, known)) == pytest.approx(spyker.curve[-1].regional_accuracy, abs=0.02)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(spyker: RunResult) -> None:
    def told(result: RunResult) -> RunResult:
        return msgspec.structs.replace(result, wall_s=0.0, training_wall_share=0.0)

    assert told(result_of("spyker", per_class=True)) == told(spyker)
    other = simulate(msgspec.structs.replace(spec_of("spyker"), seed=2), PLACE, lambda _: None)
    assert other.digest != spyker.digest


def test_one_server_for_all_is_far_for_some() -> None:
    """North is 10 ms from the server, south 110: a turn takes its devices 320 ms instead of 120."""
    result = result_of("fedasync", servers="one")
    assert result.bytes_peers == 0
    assert 0.7 < result.updates / (2 * 3.0 / 0.12 + 2 * 3.0 / 0.32) < 1.05
    assert result.updates_rejected == 0
    assert result.curve[-1].regional_accuracy == result.curve[-1].federated_accuracy


def test_a_round_waits_for_everybody_and_is_one_piece_of_work() -> None:
    """A round takes 100 ms of steps, 220 ms of way and 500 ms of work: three at most in 3 s, of four updates each."""
    world = {"aggregate_ms": 500.0}
    spec = spec_of("fedavg", servers="one")
    spec = msgspec.structs.replace(spec, world=msgspec.structs.replace(spec.world, **world))
    result = simulate(spec, PLACE, lambda _: None)
    assert result.updates in {8, 12}
    assert result.staleness_p99 == 0.0
    assert result.idle_servers == pytest.approx(1.0 - 0.5 * (result.updates // 4) / 3.0, abs=0.01)
    assert result.idle_devices > 0.5


def test_regions_that_wait_for_one_another_hold_the_same_model() -> None:
    result = result_of("hierfavg", duration_s=4.0)
    assert result.bytes_peers > 0
    last = result.curve[-1]
    assert last.regional_accuracy is not None
    assert last.regional_accuracy > 0.3


def test_a_slower_server_keeps_its_devices_waiting() -> None:
    spec = spec_of("spyker")
    slow = msgspec.structs.replace(spec, world=msgspec.structs.replace(spec.world, merge_ms=100.0))
    result = simulate(slow, PLACE, lambda _: None)
    assert result.idle_servers < 0.2
    assert result.updates < 3.0 / 0.1 * 2 * 1.1


def test_devices_that_lie_are_told_of_and_found_by_a_guard() -> None:
    guard = {"guard": {"rule": "outliers", "devices_min": 3, "strikes_max": 2}}
    spec = spec_of("default", overrides=guard)
    malicious = Malicious(attack="scaled", factor=100.0, every=4)
    world = msgspec.structs.replace(spec.world, devices=8, malicious=malicious)
    result = simulate(msgspec.structs.replace(spec, world=world), PLACE, lambda _: None)
    assert result.malicious == result.quarantined == ("north-004", "south-004")
    assert result.updates_rejected >= 4
    honest = msgspec.structs.replace(spec, world=msgspec.structs.replace(world, malicious=None))
    result = simulate(honest, PLACE, lambda _: None)
    assert (result.malicious, result.quarantined, result.updates_rejected) == ((), (), 0)


def test_a_run_ends_once_its_targets_are_reached() -> None:
    result = result_of("spyker", targets=[0.3], patience_s=0.5, duration_s=30.0)
    assert result.ended == "targets reached"
    assert result.elapsed_s < 15.0


def test_a_narrow_link_holds_dense_updates_up_and_sparse_ones_hardly() -> None:
    """At 1 Mbit/s a dense update of 57 kB takes 0.46 s up, and its answer as long down."""
    world = msgspec.to_builtins(spec_of("spyker").world) | {"device_mbit_per_s": 1.0}
    dense, sparse = (result_of(recipe, world=world) for recipe in ("spyker", "default"))
    assert dense.updates < 4 * 3.0 / (0.1 + 2 * 0.46)
    assert sparse.updates > 4 * dense.updates


def test_a_narrow_server_is_shared_by_all_its_devices() -> None:
    world = msgspec.to_builtins(spec_of("spyker").world) | {"server_mbit_per_s": 2.0}
    result = result_of("spyker", world=world)
    assert result.bytes_down + result.bytes_peers < 2 * 1.1 * 3.0 * 2e6 / 8


def test_slow_devices_are_as_slow_as_the_world_says() -> None:
    spec = spec_of("spyker")
    speed = msgspec.structs.replace(spec.world.speed, multipliers=(1.0, 4.0))
    result = simulate(
        msgspec.structs.replace(spec, world=msgspec.structs.replace(spec.world, speed=speed)), PLACE, lambda _: None
    )
    assert 3.0 * 2 * (1 / 0.42 + 1 / 0.12) * 0.7 < result.updates < 3.0 * 2 * (1 / 0.42 + 1 / 0.12) * 1.1


def test_devices_may_be_those_of_the_profiles() -> None:
    speed = {"rule": "profile", "step_ms": 5.0, "profiles": ["jetson-orin-nano", "raspberry-pi-4b"]}
    world = spec_of("default").world
    tables = msgspec.to_builtins(world) | {"speed": speed}
    result = result_of("default", world=tables, duration_s=2.0)
    assert result.updates > 10


def test_data_that_cannot_be_used_end_the_run() -> None:
    world = msgspec.to_builtins(spec_of("default").world)
    world["task"]["data"] = "npz:/nowhere/{part}.npz"
    with pytest.raises(DataError, match="nowhere"):
        result_of("default", world=world)


class Digits:
    """A data set of 600 tiny images; counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def owners(self, deal: Deal, *, held_out: bool) -> Owners:
        labels = np.arange(60 if held_out else 600, dtype=np.int64) % 10
        return deal.by_class(np.arange(600, dtype=np.int64) % 10, labels)

    def read(self, rows: npt.NDArray[np.int64], *, held_out: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        self.reads += 1
        images = np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 1, 28, 28))
        return images.copy(), rows % 10


@pytest.mark.parametrize("deal", ["partition=shards&labels=3&groups=2&between=skewed&seed=3", "partition=iid"])
def test_rows_are_read_once_and_dealt_as_a_device_would(deal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, digits = resolve("builtin:mnist-cnn").manifest, Digits()
    monkeypatch.setitem(DATA_SETS, "mnist", Kind("the moon", "iid", lambda _folder, _manifest: digits))
    rows, sources = Rows(), [f"builtin:mnist?part={part}&parts=4&{deal}" for part in range(4)]
    shared = [rows.load(source, manifest) for source in sources]
    held_out = rows.load(sources[1], manifest, held_out=True)
    assert digits.reads == 2
    for one, other in zip(shared, [data.load(source, manifest) for source in sources], strict=True):
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.y, other.y)
    np.testing.assert_array_equal(held_out.y, data.load(sources[1], manifest, held_out=True).y)
    assert 0 < len(held_out) < 60
    assert digits.reads == 2 + 5
