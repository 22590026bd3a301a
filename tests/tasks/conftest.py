"""A task small enough to read: three features, two classes, a model of eight numbers. Its graphs are not run here."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skerry.tasks.bundle import pack
from skerry.tasks.manifest import Input, Label, Manifest, PartName
from skerry.tasks.model_file import to_safetensors
from skerry.vector import Layout, Tensor

LAYOUT = Layout((Tensor("weight", (2, 3), 0), Tensor("bias", (2,), 6)))


def parts_of(layout: Layout) -> dict[PartName, bytes]:
    parameters = to_safetensors(layout, np.arange(layout.size, dtype=np.float32))
    return {
        PartName.STEP: b"step",
        PartName.EVALUATE: b"evaluate",
        PartName.PREDICT: b"predict",
        PartName.PARAMETERS: parameters,
    }


@pytest.fixture
def parts() -> dict[PartName, bytes]:
    return parts_of(LAYOUT)


@pytest.fixture
def make_manifest(parts: dict[PartName, bytes]) -> Callable[..., Manifest]:
    def make(**changes: object) -> Manifest:
        settings = {
            "name": "tiny",
            "input": Input(shape=(3,)),
            "label": Label(classes=2),
            "layout": LAYOUT,
            "parts": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
        }
        return Manifest(**(settings | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def manifest(make_manifest: Callable[..., Manifest]) -> Manifest:
    return make_manifest()


@pytest.fixture
def bundle_file(tmp_path: Path, manifest: Manifest, parts: dict[PartName, bytes]) -> Path:
    path = tmp_path / "tiny.skerry"
    path.write_bytes(pack(manifest, parts))
    return path
