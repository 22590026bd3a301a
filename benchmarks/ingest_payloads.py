"""The updates that `benchmarks.ingest` streams: made from a seed, so that every process makes the same ones."""

import hashlib

import numpy as np

from skerry.protocol import sparse
from skerry.tasks import bundle as bundles
from skerry.tasks.manifest import Defaults, Input, Label, Manifest, PartName
from skerry.tasks.model_file import to_safetensors
from skerry.vector import Float32, Layout, SparseVector, Tensor

PAYLOADS_PER_AGENT = 32  # an agent's updates repeat after so many: no two in a row touch the same entries


def updates(agent: int, size: int, values: int, seed: int) -> list[SparseVector]:
    """Return what an agent sends in turn: `values` entries of a model of `size`, drawn at random."""
    rng = np.random.default_rng([seed, agent])
    return [
        SparseVector(
            size,
            np.sort(rng.choice(size, values, replace=False)).astype(np.int64),
            rng.normal(0.0, 0.01, values).astype(np.float32),
        )
        for _ in range(PAYLOADS_PER_AGENT)
    ]


def payloads(agent: int, size: int, values: int, seed: int) -> list[bytes]:
    """Return `updates` as they travel."""
    return [sparse.encode(update) for update in updates(agent, size, values, seed)]


def initial_model(size: int, seed: int) -> Float32:
    """Return the model at version 0."""
    return np.random.default_rng([seed, 1 << 20]).normal(0.0, 0.05, size).astype(np.float32)


def task_bundle(size: int, seed: int) -> bytes:
    """Return a bundle of a model of `size` parameters. Its graphs are none: a coordinator never opens one to ingest."""
    layout = Layout((Tensor("weights", (size,), 0),))
    parts = dict.fromkeys(PartName, b"not a graph: this bundle only says how large the model is\n")
    parts[PartName.PARAMETERS] = to_safetensors(layout, initial_model(size, seed))
    manifest = Manifest(
        name="ingest",
        input=Input(shape=(1,)),
        label=Label(classes=2),
        layout=layout,
        defaults=Defaults(),
        parts={name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
    )
    return bundles.pack(manifest, parts)
