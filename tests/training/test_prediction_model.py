import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from skerry.errors import ConfigError
from skerry.tasks.activity import people
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import load
from skerry.training.onnx_engine import OnnxTrainer
from skerry.training.prediction_model import export_prediction_model


def test_the_exported_model_takes_features_as_they_come(activity: Bundle, trainer: OnnxTrainer) -> None:
    """Missing values and all: what it says of raw rows is what the engine says of prepared ones."""
    parameters = activity.initial_parameters() * np.float32(1.5)
    session = onnxruntime.InferenceSession(export_prediction_model(activity, parameters))
    assert [value.name for value in session.get_inputs()] == ["x"]
    raw = people.table().x[:200]
    assert np.isnan(raw).any()
    (logits,) = session.run(None, {"x": raw})
    prepared = load("builtin:activity?split=all", activity.manifest).x[:200]
    np.testing.assert_allclose(logits, trainer.predict(parameters, prepared), atol=1e-5)
    assert session.run(None, {"x": raw[:1]})[0].shape == (1, 6)


def test_the_exported_model_says_what_its_outputs_mean(activity: Bundle) -> None:
    model = onnx.ModelProto.FromString(export_prediction_model(activity, activity.initial_parameters()))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["task"] == "activity"
    assert properties["classes"].split(",") == list(people.CLASSES)
    assert properties["features"].split(",") == people.feature_names()


def test_the_same_model_is_the_same_file(activity: Bundle) -> None:
    parameters = activity.initial_parameters()
    assert export_prediction_model(activity, parameters) == export_prediction_model(activity, parameters)


def test_without_onnx_the_remedy_is_named(activity: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[coordinator\]'"):
        export_prediction_model(activity, activity.initial_parameters())
