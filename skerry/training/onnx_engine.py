"""The engine of devices: plain onnxruntime on the bundle's graphs, no torch.

onnxruntime is imported when a trainer is made, not before.
"""

import logging
import os
from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import MalformedBundle, PartName
from skerry.training.trainer import EVALUATION_EXAMPLES_MAX, Evaluation, StepResult, evaluation_of, slices
from skerry.vector import Float32, Layout

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is loaded

CPU = "CPUExecutionProvider"
ONE_AT_A_TIME = Lock()  # to make the arena

log = logging.getLogger(__name__)


class OnnxTrainer:
    """Runs the step, evaluation and prediction graphs; the last two are loaded on first use."""

    def __init__(self, bundle: Bundle, threads: int = 1, providers: Sequence[str] = ()) -> None:
        """Load the step graph of `bundle`; `providers` are tried in order, the CPU's last.

        Raises:
            MalformedBundle: a graph does not load, or has other inputs and outputs than its part must have.
        """
        self._bundle = bundle
        self._threads = threads
        self._providers = tuple(providers)
        self._sessions: dict[PartName, Any] = {}
        self._has_buffers = bundle.manifest.layout.size > bundle.manifest.layout.trainable_size
        self._session(PartName.STEP)

    @property
    def layout(self) -> Layout:
        """How the model lies in its vector."""
        return self._bundle.manifest.layout

    @property
    def runs_on(self) -> str:
        """Engine and execution provider, with the reason where it is not the first that was asked for."""
        first = self._session(PartName.STEP).get_providers()[0]
        absent = [name for name in self._providers[: _place(first, self._providers)] if name != first]
        return f"onnx: {first}" + (f" ({', '.join(absent)} cannot be used here)" if absent else "")

    def step(
        self, parameters: Float32, x: npt.NDArray[Any], y: npt.NDArray[Any], noise: Float32 | None = None
    ) -> StepResult:
        """Return loss and gradient of one batch."""
        inputs = {"parameters": parameters, "x": x, "y": y}
        if noise is not None:
            inputs["noise"] = noise
        outputs = self._session(PartName.STEP).run(None, inputs)
        return StepResult(float(outputs[0]), outputs[1], outputs[2] if self._has_buffers else None)

    def evaluate(self, parameters: Float32, dataset: Dataset) -> Evaluation:
        """Return accuracy and loss on `dataset`, a slice at a time."""
        session = self._session(PartName.EVALUATE)
        return evaluation_of(
            [session.run(None, {"parameters": parameters, "x": x, "y": y}) for x, y in slices(dataset)],
            self._bundle.manifest.label,
        )

    def predict(self, parameters: Float32, x: npt.NDArray[Any]) -> Float32:
        """Return logits of shape (examples, *label.logits_shape)."""
        session = self._session(PartName.PREDICT)
        return np.concatenate(
            [
                session.run(None, {"parameters": parameters, "x": x[start : start + EVALUATION_EXAMPLES_MAX]})[0]
                for start in range(0, len(x), EVALUATION_EXAMPLES_MAX)
            ]
        )

    def _session(self, part: PartName) -> Any:
        if part not in self._sessions:
            origin = f"{self._bundle.path}: {part}"
            session = open_session(self._bundle.part(part), self._threads, origin, self._providers)
            check_signature(
                session,
                part,
                has_noise=self._bundle.manifest.noise_values > 0,
                has_buffers=self._has_buffers,
                origin=str(self._bundle.path),
            )
            self._sessions[part] = session
        return self._sessions[part]


def open_session(graph: bytes, threads: int, origin: str, providers: Sequence[str] = ()) -> Any:
    """Return an onnxruntime session for `graph` on `threads` CPU threads; `origin` is named in errors.

    `providers` are tried in order, the CPU's last. One that this onnxruntime does not offer, or that does not start
    on this machine, is left out with a warning.

    Raises:
        MalformedBundle: onnxruntime refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors; they are raised as well
    # Threads that spin while they wait would burn a device's battery between steps.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # One arena for all sessions, and no second block of memory laid out for a pattern beside the one that a first run
    # has filled: together they take a third to a half off a process, and no time (docs/results/tasks.md).
    with ONE_AT_A_TIME:
        _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False
    # A graph may name files that hold its constants, by default below the working directory; below this lies nothing.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    offered = onnxruntime.get_available_providers()
    for name in providers:
        if name not in offered:
            log.warning("%s: this onnxruntime does not offer %s; it offers %s", origin, name, ", ".join(offered))
    wanted = [name for name in providers if name in offered and name != CPU]
    while True:
        try:
            return onnxruntime.InferenceSession(graph, options, providers=[*wanted, CPU])
        except Exception as error:  # onnxruntime's own errors have no common base but this
            if not wanted:
                raise MalformedBundle(f"{origin}: onnxruntime refuses the graph: {error}") from error
            log.warning("%s: %s does not start, going on without it: %s", origin, wanted[0], error)
            del wanted[0]


@cache
def _share_arena() -> None:
    """Make the arena that the process's sessions share; onnxruntime takes it once."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg({}))


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else len(names)


SIGNATURES: dict[PartName, tuple[tuple[str, ...], tuple[str, ...]]] = {
    PartName.STEP: (("parameters", "x", "y"), ("loss", "gradient")),
    PartName.EVALUATE: (("parameters", "x", "y"), ("loss_sum", "correct", "examples")),
    PartName.PREDICT: (("parameters", "x"), ("logits",)),
}


def signature(part: PartName, *, has_noise: bool, has_buffers: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of inputs and outputs that the graph of `part` must have."""
    inputs, outputs = SIGNATURES[part]
    if part is PartName.STEP:
        inputs = (*inputs, "noise") if has_noise else inputs
        outputs = (*outputs, "buffers") if has_buffers else outputs
    return inputs, outputs


def check_signature(session: Any, part: PartName, *, has_noise: bool, has_buffers: bool, origin: str) -> None:
    """Refuse a graph whose inputs and outputs are not those of its part.

    Raises:
        MalformedBundle: naming both.
    """
    inputs, outputs = signature(part, has_noise=has_noise, has_buffers=has_buffers)
    found_inputs = tuple(value.name for value in session.get_inputs())
    found_outputs = tuple(value.name for value in session.get_outputs())
    if (found_inputs, found_outputs) != (inputs, outputs):
        raise MalformedBundle(
            f"{origin}: {part}: takes {found_inputs} and gives {found_outputs}, must take {inputs} and give {outputs}"
        )
