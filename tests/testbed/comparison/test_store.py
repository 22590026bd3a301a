"""Results are kept one file each, and used again only where they were made from the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skerry.errors import StorageError
from testbed.comparison import store
from testbed.comparison.plan import Plan, RunKey
from testbed.comparison.run_spec import RunResult, RunSpec
from testbed.comparison.store import Stored

PlanOf = Callable[..., Plan]
Simulated = Callable[[RunSpec], RunResult]
VERSIONS = {"skerry": "1", "source": "abc"}


def keep(folder: Path, plan: Plan, key: RunKey, simulated: Simulated) -> RunResult:
    spec = plan.spec(key)
    result = simulated(spec)
    stored = Stored(fingerprint=store.fingerprint(spec, VERSIONS), spec=spec, result=result)
    store.write(store.path_of(folder, key), stored)
    return result


def test_what_was_kept_is_found_with_what_it_leads_to(tmp_path: Path, plan_of: PlanOf, simulated: Simulated) -> None:
    plan = plan_of()
    kept: dict[RunKey, RunResult] = {}
    while left := [key for key in plan.due(kept) if key not in kept]:
        kept[left[0]] = keep(tmp_path, plan, left[0], simulated)
    assert store.finished(tmp_path, plan, VERSIONS) == kept
    assert len(kept) == 5
    assert sorted(path.name for path in (tmp_path / "runs/near/tuned").iterdir()) == [
        "arrival.server_rate=0.3-seed-1.json",
        "arrival.server_rate=0.6-seed-1.json",
        "arrival.server_rate=0.6-seed-2.json",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"duration_s": 11.0},
        {"targets": [0.8]},
        {"evaluate_every_s": 0.25},
        {"arms": [{"name": "plain", "overrides": {"arrival": {"server_rate": 0.5}}}]},
    ],
)
def test_a_run_of_a_changed_scenario_is_not_used(
    tmp_path: Path, plan_of: PlanOf, simulated: Simulated, changes: dict[str, Any]
) -> None:
    keep(tmp_path, plan_of(), RunKey("near", "plain", "", 1), simulated)
    assert store.finished(tmp_path, plan_of(**changes), VERSIONS) == {}


def test_a_run_of_other_versions_or_another_bundle_is_not_used(
    tmp_path: Path, plan_of: PlanOf, simulated: Simulated
) -> None:
    plan, key = plan_of(), RunKey("near", "plain", "", 1)
    keep(tmp_path, plan, key, simulated)
    assert list(store.finished(tmp_path, plan, VERSIONS)) == [key]
    assert store.finished(tmp_path, plan, VERSIONS | {"source": "abd"}) == {}
    other = Plan(plan.comparison, plan.recipes, {plan.comparison.worlds[0].task.bundle: "1" * 64})
    assert store.finished(tmp_path, other, VERSIONS) == {}


def test_what_does_not_decide_over_a_run_does_not_touch_it(
    tmp_path: Path, plan_of: PlanOf, simulated: Simulated
) -> None:
    keep(tmp_path, plan_of(), RunKey("near", "plain", "", 1), simulated)
    described = plan_of(description="other words", notes="new", seeds=[1, 2, 3], reference="tuned")
    assert len(store.finished(tmp_path, described, VERSIONS)) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"fingerprint": 3}', b"\xff"])
def test_a_damaged_file_is_as_good_as_none(
    tmp_path: Path, plan_of: PlanOf, simulated: Simulated, content: bytes
) -> None:
    plan, key = plan_of(), RunKey("near", "plain", "", 1)
    keep(tmp_path, plan, key, simulated)
    store.path_of(tmp_path, key).write_bytes(content)
    assert store.finished(tmp_path, plan, VERSIONS) == {}


def test_a_write_that_was_cut_short_leaves_what_was_there(
    tmp_path: Path, plan_of: PlanOf, simulated: Simulated
) -> None:
    plan, key = plan_of(), RunKey("near", "plain", "", 1)
    result = keep(tmp_path, plan, key, simulated)
    store.path_of(tmp_path, key).with_name("seed-1.json.new").write_bytes(b'{"finger')
    assert store.finished(tmp_path, plan, VERSIONS) == {key: result}


def test_a_disk_that_refuses_is_named(tmp_path: Path, plan_of: PlanOf, simulated: Simulated) -> None:
    plan, key = plan_of(), RunKey("near", "plain", "", 1)
    path = store.path_of(tmp_path, key)
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot be read: Is a directory"):
        store.finished(tmp_path, plan, VERSIONS)
    with pytest.raises(StorageError, match="cannot be written"):
        keep(tmp_path, plan, key, simulated)


def test_a_points_text_stays_inside_its_folder(tmp_path: Path) -> None:
    path = store.path_of(tmp_path, RunKey("w", "a", "uplink.values=../../x", 1))
    assert path.parent == tmp_path / "runs" / "w" / "a"


def test_a_result_comes_back_as_it_was(plan_of: PlanOf, simulated: Simulated) -> None:
    spec = plan_of(per_class=True).spec(RunKey("near", "plain", "", 1))
    stored = Stored(fingerprint="f", spec=spec, result=simulated(spec))
    assert msgspec.json.decode(msgspec.json.encode(stored), type=Stored) == stored
