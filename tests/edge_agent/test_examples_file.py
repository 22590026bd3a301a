"""Examples of a person: every form, from a file or from memory; and what is said of those that do not fit."""

from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from edge_agent.examples_file import Format, read
from skerry.errors import DataError
from skerry.tasks.manifest import Input

IMAGES = Input(shape=(1, 2, 3))
X = np.arange(12, dtype=np.float64).reshape(2, 1, 2, 3)
PIPE = Path("standard input")


def as_npz(x: npt.ArrayLike) -> bytes:
    buffer = BytesIO()
    np.savez(buffer, x=np.asarray(x))
    return buffer.getvalue()


def as_json(x: npt.ArrayLike) -> bytes:
    return msgspec.json.encode(np.asarray(x).tolist())


def as_csv(x: npt.ArrayLike) -> bytes:
    rows = np.asarray(x).reshape(len(X), -1)
    header = [f"p{number}" for number in range(rows.shape[1])]
    return "\n".join([",".join(header), *(",".join(map(str, row)) for row in rows)]).encode()


FORMS: list[tuple[Format, bytes]] = [("npz", as_npz(X)), ("json", as_json(X)), ("csv", as_csv(X))]


@pytest.mark.parametrize(("kind", "content"), FORMS)
def test_a_file_and_the_same_bytes_in_memory_are_the_same_examples(
    kind: Format, content: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    np.testing.assert_array_equal(read(file, kind, IMAGES), X)
    np.testing.assert_array_equal(read(PIPE, kind, IMAGES, content), X)


@pytest.mark.parametrize(
    ("kind", "content", "told"),
    [
        (
            "json",
            as_json(X[:, 0]),
            "x has shape (2, 2, 3), the task takes (examples, 1, 2, 3): reshape it to (2, 1, 2, 3)",
        ),
        (
            "npz",
            as_npz(X[0]),
            "x has shape (1, 2, 3), the task takes (examples, 1, 2, 3): one example by itself goes into",
        ),
        (
            "npz",
            as_npz(X[..., :2]),
            "x has shape (2, 1, 2, 2), the task takes (examples, 1, 2, 3): its examples have 1 x 2 x 2 values, the",
        ),
        (
            "json",
            b"[[[[1, 2, 3], [4, 5]]]]",
            "its lists are of unequal lengths; each example must have shape (1, 2, 3)",
        ),
        ("json", b"3", "x has shape (), the task takes (examples, 1, 2, 3)"),
        ("json", b"[]", "holds no examples"),
        ("npz", as_npz(X[:0]), "holds no examples"),
        ("csv", b"a,b\n1,2", "2 feature columns, the task takes 6, of shape (1, 2, 3), the last index running fastest"),
        ("npz", b"PK", "is no intact npz file"),
        ("json", as_npz(X), "is no JSON, and may be npz: say so with --format npz"),
        ("csv", b"a;b\n1;2", "line 1: its columns stand between semicolons, must stand between commas"),
    ],
)
def test_what_does_not_fit_is_told_with_both_shapes(kind: Format, content: bytes, told: str) -> None:
    with pytest.raises(DataError) as error:
        read(PIPE, kind, IMAGES, content)
    assert str(error.value).startswith(f"standard input: {told}")
