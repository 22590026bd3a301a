"""A region's model as a file for others: safetensors, or an ONNX model that predicts as it stands.

From a running coordinator, or from the state of one that is stopped.
"""

import json
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coordinator import recovery, remote
from coordinator.config import CoordinatorConfig
from coordinator.store import Store
from skerry.algorithms.age_weighting import federated_model
from skerry.errors import DataError
from skerry.tasks import bundle as bundles
from skerry.tasks.bundle import BUNDLE_BYTES_MAX, Bundle
from skerry.tasks.model_file import from_safetensors, to_safetensors

MODEL_BYTES_MAX = 9 << 30  # the largest model's values, and room for names
STATUS_BYTES_MAX = 64 << 20

Kind = Literal["regional", "federated"]
Format = Literal["safetensors", "onnx"]


@dataclass(frozen=True, slots=True)
class Exported:
    """The file's bytes, and which model it is."""

    data: bytes
    version: str  # lineage@number
    trained: bool  # False: these are the bundle's initial parameters


async def from_running(url: str, kind: Kind, form: Format, context: ssl.SSLContext | None = None) -> Exported:
    """Export from the coordinator at base URL `url`.

    Raises:
        SkerryError: it is not running, its answers cannot be used, or onnx is missing.
    """
    model = await remote.get(url, f"/v1/model?kind={kind}", bytes_max=MODEL_BYTES_MAX, context=context)
    metadata = metadata_of(model)
    version = f"{metadata['lineage']}@{metadata['version']}"
    trained = metadata.get("trained") != "no"
    if form == "safetensors":
        return Exported(model, version, trained)
    wanted = f"/v1/bundles/{metadata['bundle']}"
    bundle_file = await remote.get(url, wanted, bytes_max=BUNDLE_BYTES_MAX, context=context)
    with tempfile.TemporaryDirectory(prefix="skerry-") as folder:
        path = Path(folder) / "task.skerry"
        path.write_bytes(bundle_file)
        bundle = Bundle.open(path)
        if bundle.sha256 != metadata["bundle"]:
            raise DataError(f"{url}: sent bundle {bundle.sha256} instead of {metadata['bundle']}")
        return Exported(_predicting(bundle, model), version, trained)


def from_state(config: CoordinatorConfig, kind: Kind, form: Format) -> Exported:
    """Export from the state folder of a coordinator, which need not run. Nothing is changed.

    Raises:
        SkerryError: state or bundle cannot be used, or onnx is missing.
    """
    bundle = bundles.resolve(config.bundle)
    store = Store(config.state_dir, read_only=True)
    try:
        state = recovery.recover(store, config.state_dir, config.name)
    finally:
        store.close()
    vectors, lineage = state.vectors, state.region.lineage
    layout = bundle.manifest.layout
    if vectors.size != layout.size:
        raise DataError(f"{config.state_dir}: {vectors.size} parameters, the bundle {config.bundle} has {layout.size}")
    values, trained = vectors.model, vectors.trained
    if kind == "federated":
        replicas = vectors.replicas_of(config.peers.keys() - state.region.refused_peers.keys())
        values, trained = federated_model(values, vectors.age, replicas), trained or bool(replicas)
    metadata = {
        "kind": kind,
        "lineage": lineage,
        "version": str(vectors.version),
        "age": repr(vectors.age),
        "trained": "yes" if trained else "no",
        "bundle": bundle.sha256,
    }
    model = to_safetensors(layout, values, metadata)
    data = model if form == "safetensors" else _predicting(bundle, model)
    return Exported(data, f"{lineage}@{vectors.version}", trained)


def _predicting(bundle: Bundle, model: bytes) -> bytes:
    from skerry.training.prediction_model import export_prediction_model

    return export_prediction_model(bundle, from_safetensors(bundle.manifest.layout, model))


def metadata_of(model: bytes) -> dict[str, str]:
    """Return the text beside the tensors of a safetensors file that a coordinator wrote.

    Raises:
        DataError: it is none.
    """
    try:
        header = json.loads(model[8 : 8 + int.from_bytes(model[:8], "little")])
        metadata: dict[str, str] = header["__metadata__"]
        if not {"lineage", "version", "bundle"} <= metadata.keys():
            raise KeyError("lineage, version or bundle")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"no model of a coordinator: {error}") from error
    return metadata
