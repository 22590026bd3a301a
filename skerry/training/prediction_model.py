"""A trained model as one ONNX file that any onnxruntime runs: features as they come from the source in, logits out."""

from typing import Any

import numpy as np

from skerry.extras import require
from skerry.tasks.bundle import Bundle
from skerry.tasks.manifest import Input, Manifest, PartName
from skerry.vector import Float32


def export_prediction_model(bundle: Bundle, parameters: Float32) -> bytes:
    """Return the bundle's prediction graph with `parameters` and the preparation of features baked in.

    Its one input `x` is float32 of shape (examples, *input shape), not normalised yet, missing values as NaN where the
    task takes them; its output `logits` has shape (examples, classes). Names stand in the model's metadata.

    Args:
        bundle: of the task.
        parameters: float32 of shape (layout.size,).

    Raises:
        ConfigError: the package onnx is not installed.
    """
    require("coordinator", "exporting a prediction model", modules=["onnx"])
    import onnx

    manifest = bundle.manifest
    assert parameters.shape == (manifest.layout.size,)
    model = onnx.ModelProto.FromString(bundle.part(PartName.PREDICT))
    nodes, constants, prepared = _preparation(manifest.input)
    constants["parameters"] = np.ascontiguousarray(parameters, np.float32)
    for node in model.graph.node:
        node.input[:] = [prepared if name == "x" else name for name in node.input]
    nodes.extend(model.graph.node)  # an operator stands behind those whose outputs it takes
    inputs = [value for value in model.graph.input if value.name == "x"]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.helper.set_model_props(model, _properties(manifest))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _preparation(features: Input) -> tuple[list[Any], dict[str, Any], str]:
    """Return `Input.prepare` as ONNX operators, the constants they take, and the name of what comes out."""
    from onnx.helper import make_node

    nodes: list[Any] = []
    constants: dict[str, Any] = {}
    name = "x"
    if features.missing_as is not None:
        constants["missing_as"] = np.float32(features.missing_as)
        nodes += [
            make_node("IsNaN", [name], ["is_missing"]),
            make_node("Where", ["is_missing", "missing_as", name], ["x.filled"]),
        ]
        name = "x.filled"
    if features.normalisation is not None:
        constants["mean"], constants["scale"] = features.normalisation.arrays(len(features.shape))
        nodes += [
            make_node("Sub", [name, "mean"], ["x.centred"]),
            make_node("Div", ["x.centred", "scale"], ["x.normalised"]),
        ]
        name = "x.normalised"
    return nodes, constants, name


def _properties(manifest: Manifest) -> dict[str, str]:
    properties = {"task": manifest.name, "description": manifest.description}
    if manifest.label.names:
        properties["classes"] = ",".join(manifest.label.names)
    if manifest.input.names:
        properties["features"] = ",".join(manifest.input.names)
    return properties
