import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skerry.algorithms.optimizer import Sgd
from skerry.errors import ConfigError
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import MalformedBundle, PartName
from skerry.training.batches import Batches
from skerry.training.onnx_engine import OnnxTrainer, check_signature, open_session
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import open_trainer


def train(trainer: OnnxTrainer, start: np.ndarray, rows: Dataset, steps: int, seed: int = 0) -> np.ndarray:
    parameters = start.copy()
    state = Sgd(momentum=0.9, weight_decay=0.0).start(len(parameters))
    batches = Batches(rows, 32, Shuffle(seed))
    for _ in range(steps):
        state.step(parameters, trainer.step(parameters, *next(batches)).gradient, 0.05)
    return parameters


def test_training_reaches_the_accuracy_that_the_documentation_states(
    activity: Bundle, trainer: OnnxTrainer, training_rows: Dataset, held_out_rows: Dataset
) -> None:
    """Five epochs of plain SGD: docs/data.md says 80 to 82 %."""
    parameters = train(trainer, activity.initial_parameters(), training_rows, 5 * len(training_rows) // 32)
    evaluation = trainer.evaluate(parameters, held_out_rows)
    assert evaluation.examples == 1086
    assert evaluation.accuracy is not None
    assert evaluation.accuracy > 0.78
    assert evaluation.loss < 0.6


def test_a_step_leaves_the_parameters_alone(activity: Bundle, trainer: OnnxTrainer, training_rows: Dataset) -> None:
    parameters = activity.initial_parameters()
    before = parameters.copy()
    result = trainer.step(parameters, *training_rows.rows(slice(0, 5)))
    np.testing.assert_array_equal(parameters, before)
    assert result.gradient.shape == (trainer.layout.trainable_size,)
    assert result.gradient.dtype == np.float32
    assert result.buffers is None


def test_the_gradient_of_a_batch_is_the_mean_of_its_examples_gradients(
    activity: Bundle, trainer: OnnxTrainer, training_rows: Dataset
) -> None:
    parameters = activity.initial_parameters()
    whole = trainer.step(parameters, *training_rows.rows(slice(0, 4)))
    single = [trainer.step(parameters, *training_rows.rows(slice(row, row + 1))) for row in range(4)]
    np.testing.assert_allclose(whole.gradient, np.mean([one.gradient for one in single], axis=0), atol=1e-6)
    assert whole.loss == pytest.approx(np.mean([one.loss for one in single]), rel=1e-6)


def test_evaluation_agrees_with_prediction_whatever_the_slices(
    activity: Bundle, trainer: OnnxTrainer, training_rows: Dataset
) -> None:
    parameters = activity.initial_parameters()
    rows = Dataset(*training_rows.rows(slice(0, 1100)))
    logits = trainer.predict(parameters, rows.x).astype(np.float64)
    assert logits.shape == (1100, 6)
    evaluation = trainer.evaluate(parameters, rows)
    log_likelihood = logits[np.arange(1100), rows.y] - np.log(np.exp(logits).sum(axis=1))
    assert evaluation.examples == 1100
    assert evaluation.correct == int((logits.argmax(axis=1) == rows.y).sum())
    assert evaluation.loss == pytest.approx(-log_likelihood.mean(), rel=1e-5)


def test_more_threads_give_the_same_training(activity: Bundle, training_rows: Dataset) -> None:
    results = [
        train(OnnxTrainer(activity, threads), activity.initial_parameters(), training_rows, 20) for threads in (1, 2)
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def graph(inputs: dict[str, int], output: str, weights: onnx.TensorProto | None = None) -> bytes:
    """Return a graph whose output is its first input, or else `weights`."""

    def value(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [size])

    name, size = (weights.name, weights.dims[0]) if weights else next(iter(inputs.items()))
    nodes = [helper.make_node("Identity", [name], [output])]
    values = [value(name, size) for name, size in inputs.items()]
    made = helper.make_graph(nodes, "g", values, [value(output, size)], [weights] if weights else [])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def test_a_graph_with_other_inputs_is_refused() -> None:
    session = open_session(graph({"parameters": 2}, "logits"), 1, "x")
    with pytest.raises(MalformedBundle, match=r"takes \('parameters',\) .* must take \('parameters', 'x'\)"):
        check_signature(session, PartName.PREDICT, has_noise=False, has_buffers=False, origin="x.skerry")


def test_what_is_no_graph_is_refused_by_name() -> None:
    with pytest.raises(MalformedBundle, match=r"^x\.skerry: step\.onnx: onnxruntime refuses the graph"):
        open_session(b"no graph", 1, "x.skerry: step.onnx")


def test_a_graph_cannot_read_files_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX lets a graph name files that hold its constants; what they hold could leave the device in an update."""
    (tmp_path / "secret").write_bytes(bytes(4000))
    monkeypatch.chdir(tmp_path)
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1000], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="secret")
    with pytest.raises(MalformedBundle, match="refuses the graph"):
        open_session(graph({}, "y", weights), 1, "x")


def test_the_engine_runs_without_what_only_workstations_have(activity: Bundle) -> None:
    """A device has neither torch nor onnx, and no memory to waste."""
    code = (
        "import sys\n"
        "from skerry.tasks.bundle import Bundle\n"
        "from skerry.tasks.data import load\n"
        "from skerry.training.trainer import open_trainer\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "bundle = Bundle.builtin('activity')\n"
        "rows = load('builtin:activity?part=0&parts=6', bundle.manifest)\n"
        "open_trainer(bundle).step(bundle.initial_parameters(), *rows.rows(slice(0, 32)))\n"
        "print(sorted({'torch', 'onnx', 'onnxscript', 'google.protobuf'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_engine_whose_package_is_missing_names_the_remedy(activity: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skerry.extras.find_spec", lambda name: None if name == "torch" else find_spec("numpy"))
    with pytest.raises(
        ConfigError,
        match=r"the torch engine needs torch: pip install '\.\[torch\]' in a checkout of Skerry, or use the onnx",
    ):
        open_trainer(activity, "torch")


def test_a_provider_that_is_not_there_is_said_and_left_out(activity: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    trainer = OnnxTrainer(activity, providers=("TensorrtExecutionProvider", "CUDAExecutionProvider"))
    assert trainer.runs_on == (
        "onnx: CPUExecutionProvider (TensorrtExecutionProvider, CUDAExecutionProvider cannot be used here)"
    )
    assert "does not offer TensorrtExecutionProvider; it offers" in caplog.text
    assert OnnxTrainer(activity).runs_on == "onnx: CPUExecutionProvider"
