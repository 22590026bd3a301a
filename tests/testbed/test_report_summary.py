"""summary.json: the documented numbers, and nothing that is not documented."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from testbed.report import summary
from testbed.report.summary import Summary, summarise
from testbed.run_record import DeviceRecord, RunRecord

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "lab.md"


def test_ratios_are_to_the_slowest_device_of_the_region(record: Callable[..., RunRecord]) -> None:
    fast, slow = summarise(record()).devices
    assert (fast.steps_per_update, slow.steps_per_update) == (40.0, 10.0)
    assert [fast.steps_per_s, slow.steps_per_s] == pytest.approx([100.0, 25.0])
    assert [fast.steps_ratio, fast.speed_ratio] == pytest.approx([4.0, 4.0])
    assert (slow.steps_ratio, slow.speed_ratio) == (1.0, 1.0)


def test_a_region_is_told_by_its_last_evaluations(record: Callable[..., RunRecord]) -> None:
    (region,) = summarise(record()).regions
    assert (region.regional_accuracy, region.federated_accuracy) == (0.82, 0.1)
    assert region.points_below_central == pytest.approx(2.0)
    assert (region.devices, region.updates, region.merges) == (2, 20, 0)


def test_a_task_without_accuracy_is_told_by_its_losses(without_accuracy: Callable[..., RunRecord]) -> None:
    told = summarise(without_accuracy())
    (region,) = told.regions
    assert (region.regional_accuracy, region.federated_accuracy, region.points_below_central) == (None, None, None)
    assert (region.regional_loss, region.federated_loss) == (0.5, 0.5)
    assert told.central is not None
    assert (told.central.accuracy, told.central.loss) == (None, 0.25)


def test_without_a_central_model_nothing_is_below_it(record: Callable[..., RunRecord]) -> None:
    told = summarise(record(central=None))
    assert told.central is None
    assert told.regions[0].points_below_central is None


def test_staleness_is_told_by_its_distribution(
    record: Callable[..., RunRecord], device: Callable[..., DeviceRecord]
) -> None:
    one = device("fast", 40, 0.01, updates=5)
    spread = tuple(
        msgspec.structs.replace(update, staleness=value)
        for update, value in zip(one.updates, (9.0, 0.0, 2.0, 4.0, 1.0), strict=True)
    )
    told = summarise(record(devices=(msgspec.structs.replace(one, updates=spread),))).devices[0].staleness
    assert told is not None
    assert (told.p25, told.median, told.p75, told.max) == (1.0, 2.0, 4.0, 9.0)
    assert [told.p5, told.p95] == pytest.approx([0.2, 8.0])


def test_a_device_without_updates_has_no_ratios(
    record: Callable[..., RunRecord], device: Callable[..., DeviceRecord]
) -> None:
    silent, busy = device("fast", 40, 0.01, updates=0), device("slow", 10, 0.04)
    told, other = summarise(record(devices=(silent, busy))).devices
    assert (told.steps_per_update, told.steps_per_s, told.staleness) == (None, None, None)
    assert (told.steps_ratio, told.speed_ratio) == (None, None)
    assert other.speed_ratio == 1.0


def test_the_saving_counts_everything_sent(record: Callable[..., RunRecord]) -> None:
    traffic = summarise(record()).traffic
    assert traffic.up.saving == pytest.approx(80.0)
    assert traffic.peers.saving == 0.0


def test_the_file_reads_back_as_it_was(record: Callable[..., RunRecord], tmp_path: Path) -> None:
    told = summarise(record())
    path = summary.write(told, tmp_path)
    assert path == tmp_path / "summary.json"
    assert msgspec.json.decode(path.read_bytes(), type=Summary, strict=True) == told
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def field_names(kind: Any) -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        yield field.encode_name
        for part in (field.type, *getattr(field.type, "__args__", ())):
            if isinstance(part, type) and issubclass(part, msgspec.Struct):
                yield from field_names(part)


@pytest.mark.parametrize("name", sorted(set(field_names(Summary))))
def test_every_field_is_documented(name: str) -> None:
    assert f"`{name}`" in DOCUMENT.read_text()
