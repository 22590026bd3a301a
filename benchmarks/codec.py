"""How small and how fast: sparse vectors against the entropy bound and against raw indices; frames in microseconds.

    python -m benchmarks.codec [--json FILE]

Indices are a uniformly random choice, the hardest to write down; values are normal. Times are medians.
"""

import argparse
from collections.abc import Callable
from math import lgamma, log
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import result
from skerry.protocol import frames, sparse
from skerry.protocol.limits import FRAME_BYTES_MAX
from skerry.protocol.messages import (
    FromAgent,
    FromCoordinator,
    Heartbeat,
    ModelVersion,
    Plan,
    UpdateAccepted,
    UpdateOffered,
)
from skerry.protocol.parts import split
from skerry.values import ValueEncoding
from skerry.vector import SparseVector

SEED = 20
CASES = [(1_000_000, 1_000), (1_000_000, 10_000), (11_200_000, 11_200), (11_200_000, 112_000)]
MEASURE_S = 0.2  # for each time in the table
HEADER_BYTES = 12
SCALE_BYTES = 4  # of int8


def main() -> None:
    """Measure, print, and write what `--json` names."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = arguments.parse_args()
    rng = np.random.default_rng(SEED)
    vectors = [row for size, count in CASES for row in measure_vector(random_vector(rng, size, count))]
    messages = [measure_message(message, kind) for message, kind in hot_messages(rng)]
    print_table(vectors)
    print()
    print_table(messages)
    if options.json:
        result.write(options.json, "codec", {"vectors": vectors, "messages": messages}, seed=SEED)


def random_vector(rng: np.random.Generator, size: int, count: int) -> SparseVector:
    indices = np.sort(rng.choice(size, count, replace=False, shuffle=False))
    return SparseVector(size, indices, rng.standard_normal(count).astype(np.float32))


def index_bits_bound(size: int, count: int) -> float:
    """Return log2 C(size, count) / count: what no code for all choices of that many indices can go below on average."""
    return (lgamma(size + 1) - lgamma(count + 1) - lgamma(size - count + 1)) / log(2) / count


def measure_vector(vector: SparseVector) -> list[dict[str, Any]]:
    """Return a row for each value encoding, and one for int32 indices and float32 values as they lie in memory."""
    size, count = vector.size, len(vector)
    bound = index_bits_bound(size, count)
    rows = [
        measure_encoding(vector, encoding, bytes_each, bound)
        for encoding, bytes_each in ((ValueEncoding.FLOAT32, 4), (ValueEncoding.FLOAT16, 2), (ValueEncoding.INT8, 1))
    ]
    raw = raw_encode(vector)
    row = vector_row(vector, "raw", len(raw), 32.0, bound)
    return [*rows, row | times(lambda: raw_encode(vector), lambda: raw_decode(raw))]


def measure_encoding(vector: SparseVector, encoding: ValueEncoding, bytes_each: int, bound: float) -> dict[str, Any]:
    size, count = vector.size, len(vector)
    data = sparse.encode(vector, encoding)
    scale_bytes = SCALE_BYTES if encoding is ValueEncoding.INT8 else 0
    index_bits = 8 * (len(data) - HEADER_BYTES - scale_bytes - bytes_each * count) / count
    row = vector_row(vector, str(encoding), len(data), index_bits, bound)
    return row | times(lambda: sparse.encode(vector, encoding), lambda: sparse.decode(data, size=size))


def vector_row(vector: SparseVector, form: str, data_bytes: int, index_bits: float, bound: float) -> dict[str, Any]:
    return {
        "size": vector.size,
        "count": len(vector),
        "values": form,
        "bytes": data_bytes,
        "index_bits": round(index_bits, 3),
        "bound_bits": round(bound, 3),
        "above_bound_percent": round(100 * (index_bits / bound - 1), 2),
        "dense_float32_ratio": round(4 * vector.size / data_bytes, 1),
    }


def raw_encode(vector: SparseVector) -> bytes:
    return vector.indices.astype("<i4").tobytes() + vector.values.tobytes()


def raw_decode(data: bytes) -> tuple[Any, Any]:
    count = len(data) // 8
    return np.frombuffer(data, "<i4", count).astype(np.int64), np.frombuffer(data, "<f4", count, 4 * count).copy()


def hot_messages(rng: np.random.Generator) -> list[tuple[frames.Message, Any]]:
    """Return the messages of which there are many, the update with 1,000 values of a million."""
    payload = sparse.encode(random_vector(rng, 1_000_000, 1_000))
    (part,) = split(payload, FRAME_BYTES_MAX)
    return [
        (UpdateOffered(17, ModelVersion("north/0a1b2c3d", 1234), 12, 480, 0.7, 0.0125, part), FromAgent),
        (UpdateAccepted(17, 1235, 0.6, Plan(2.5, 0.05)), FromCoordinator),
        (Heartbeat(12.5), FromAgent),
    ]


def measure_message(message: frames.Message, kind: Any) -> dict[str, Any]:
    frame = frames.encode(message)
    row = {"message": type(message).__name__, "bytes": len(frame)}
    return row | times(lambda: frames.encode(message), lambda: frames.decode(frame, kind, bytes_max=FRAME_BYTES_MAX))


def times(encode: Callable[[], object], decode: Callable[[], object]) -> dict[str, float]:
    return {"encode_us": round(median_us(encode), 1), "decode_us": round(median_us(decode), 1)}


def median_us(work: Callable[[], object]) -> float:
    """Return the median of single runs within MEASURE_S, ten at least, after one for warm-up."""
    work()
    runs: list[float] = []
    end = perf_counter() + MEASURE_S
    while len(runs) < 10 or perf_counter() < end:
        start = perf_counter()
        work()
        runs.append(perf_counter() - start)
    return 1e6 * median(runs)


def print_table(rows: list[dict[str, Any]]) -> None:
    cells = [
        list(rows[0]),
        *([f"{value:,}" if isinstance(value, (int, float)) else value for value in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    main()
