"""Models of several shapes to try the algorithms on."""

from collections.abc import Callable

import pytest

from skerry.vector import Layout, Tensor


def layout_of(trainable: list[int], tail: list[int]) -> Layout:
    tensors, offset = [], 0
    for number, size in enumerate([*trainable, *tail]):
        tensors.append(Tensor(f"t{number}", (size,), offset, trainable=number < len(trainable)))
        offset += size
    return Layout(tuple(tensors))


@pytest.fixture(scope="session")
def make_layout() -> Callable[[list[int], list[int]], Layout]:
    """Return a layout of flat tensors: sizes of the trainable ones, sizes of the others."""
    return layout_of
