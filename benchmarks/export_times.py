"""How long a built-in task takes to build, stage by stage, and how far its gradient is from torch's.

    python -m benchmarks.export_times mnist-cnn --output /tmp/mnist-cnn.skerry

One real build, as `skerry-task build` does it; its stages are timed where it calls them.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.builtin_task import data_dir_by_default
from skerry.training import build as building
from skerry.training.builtin.definitions import builtin_definition

STAGES = {"measured_forms": "measure_s", "export_graphs": "export_s", "check_graphs": "gate_s"}


@contextmanager
def stages_timed(found: dict[str, float]) -> Iterator[None]:
    """Add to `found` the wall seconds of each stage of a build."""

    def timed(function: Callable[..., Any], figure: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start_s = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                found[figure] = time.perf_counter() - start_s

        return call

    with ExitStack() as stack:
        for name, figure in STAGES.items():
            stack.enter_context(mock.patch.object(building, name, timed(getattr(building, name), figure)))
        yield


def measure(name: str, data_dir: Path | None, output: Path) -> dict[str, float]:
    """Build the task, write its bundle to `output`; return seconds, bytes and errors."""
    start_s = time.perf_counter()
    definition = builtin_definition(name, data_dir)
    defined_s = time.perf_counter()
    found: dict[str, float] = {}
    with stages_timed(found):
        built = building.build(definition)
    done_s = time.perf_counter()
    beside = output.with_suffix(".new")
    beside.write_bytes(built.file)
    beside.replace(output)
    return {
        "parameters": built.manifest.layout.trainable_size,
        "statistics": built.manifest.layout.size - built.manifest.layout.trainable_size,
        "definition_s": defined_s - start_s,
        "build_s": done_s - defined_s,
        **found,
        "build_cpu_s": time.process_time(),
        "build_mb_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "bundle_bytes": len(built.file),
        "gradient_error": built.gate.gradient_error,
        "loss_error": built.gate.loss_error,
        "logits_error": built.gate.logits_error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a built-in task: see skerry-task list")
    parser.add_argument("--output", type=Path, required=True, help="write the bundle to this file")
    parser.add_argument("--data-dir", type=Path, default=data_dir_by_default(), help="of data sets (SKERRY_DATA)")
    options = parser.parse_args()
    print(json.dumps(measure(options.task, options.data_dir, options.output)))


if __name__ == "__main__":
    main()
