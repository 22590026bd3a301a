import hashlib
from collections.abc import Callable
from math import nan
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from skerry.tasks.bundle import Bundle, pack
from skerry.tasks.manifest import MalformedBundle, PartName
from skerry.training.check import check_bundle


@pytest.fixture
def with_step(activity: Bundle, tmp_path: Path) -> Callable[[Callable[[onnx.GraphProto], None]], Bundle]:
    """The built-in bundle with its step graph changed, all hashes right: what no hash can find."""

    def make(change: Callable[[onnx.GraphProto], None]) -> Bundle:
        model = onnx.ModelProto.FromString(activity.part(PartName.STEP))
        change(model.graph)
        parts = {name: activity.part(name) for name in PartName} | {PartName.STEP: model.SerializeToString()}
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
        path = tmp_path / "changed.skerry"
        path.write_bytes(pack(msgspec.structs.replace(activity.manifest, parts=hashes), parts))
        return Bundle.open(path)

    return make


def times(output: str, factor: float) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.output[:] = ["before" if name == output else name for name in node.output]
        graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))
        graph.node.append(onnx.helper.make_node("Mul", ["before", "factor"], [output]))

    return change


def test_an_intact_bundle_passes(activity: Bundle) -> None:
    report = check_bundle(activity)
    assert report.gradient_error < 0.05
    assert report.initial_loss == pytest.approx(np.log(6), abs=0.2)


@pytest.mark.parametrize("factor", [-1.0, 0.7, 1.3])
def test_a_gradient_that_is_not_the_slope_of_the_loss_is_found(with_step: Callable[..., Bundle], factor: float) -> None:
    with pytest.raises(MalformedBundle, match=r"the gradient of \S+ is off by \d+% from .*, or the loss jumps"):
        check_bundle(with_step(times("gradient", factor)))


def test_one_slope_that_is_no_number_is_not_outvoted(activity: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    slopes = iter([nan])
    monkeypatch.setattr(
        "skerry.training.check._gradient_errors",
        lambda trainer, *_: {tensor.name: next(slopes, 0.0) for tensor in trainer.layout.tensors},
    )
    with pytest.raises(MalformedBundle, match=r"the gradient of 0\.weight is off by nan%"):
        check_bundle(activity)


def test_a_gradient_of_nothing_is_found(with_step: Callable[..., Bundle]) -> None:
    with pytest.raises(MalformedBundle, match=r"the gradient of 0\.weight, .* is zero on all examples"):
        check_bundle(with_step(times("gradient", 0.0)))


def test_values_that_are_not_finite_are_found(with_step: Callable[..., Bundle]) -> None:
    with pytest.raises(MalformedBundle, match="gradient is not finite on ordinary input"):
        check_bundle(with_step(times("gradient", float("inf"))))


def test_a_graph_that_is_none_of_a_step_is_found(with_step: Callable[..., Bundle]) -> None:
    def swap(graph: onnx.GraphProto) -> None:
        first, second = list(graph.output)
        del graph.output[:]
        graph.output.extend([second, first])

    with pytest.raises(MalformedBundle, match=r"gives \('gradient', 'loss'\)"):
        check_bundle(with_step(swap))
