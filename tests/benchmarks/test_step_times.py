"""Steps against torch: both sides compute the same step, and turns are summed up as the docstring says."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import step_times  # noqa: E402
from benchmarks.step_times import Turn  # noqa: E402
from skerry.tasks.bundle import resolve  # noqa: E402
from skerry.training import made_up  # noqa: E402
from skerry.training.builtin.definitions import builtin_definition  # noqa: E402
from skerry.training.onnx_engine import OnnxTrainer  # noqa: E402

pytestmark = pytest.mark.torch


def test_a_ratio_is_the_median_of_the_turns_own() -> None:
    pairs = [(Turn(9.0, 0.001 * ours), Turn(3.0, 0.001)) for ours in (1, 2, 3, 4, 5)]
    found = step_times.summary(pairs)
    assert (found["ratio_low"], found["ratio"], found["ratio_high"]) == pytest.approx((2.0, 3.0, 4.0))
    assert (found["onnx_ms"], found["torch_ms"], found["wall_ratio"]) == pytest.approx((3.0, 1.0, 3.0))


def test_sides_take_turns_and_each_begins_as_often() -> None:
    order: list[str] = []
    pairs = step_times.alternate(lambda: order.append("ours"), lambda: order.append("theirs"), 0.0, turn_s=0.0)
    assert len(pairs) == step_times.TURNS_MIN
    assert order[2 * step_times.WARM_UP :][:6] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_both_sides_take_the_same_step() -> None:
    bundle = resolve("builtin:activity")
    batch = made_up.batch(bundle.manifest, step_times.EXAMPLES, seed=1)
    parameters = bundle.initial_parameters()
    model = builtin_definition("activity").model
    before = parameters.copy()
    step_times.onnx_step(OnnxTrainer(bundle), parameters, batch)()
    step_times.torch_step(model, step_times.native_loss(bundle.manifest.label), batch)()
    theirs = torch.cat([tensor.detach().reshape(-1) for tensor in model.parameters()]).numpy()
    assert not np.array_equal(parameters, before)
    np.testing.assert_allclose(parameters - before, theirs - before, rtol=1e-3, atol=1e-8)
