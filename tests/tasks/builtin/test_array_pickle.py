"""Pickles are read as data: what CIFAR-10's batches hold comes out, and nothing that a pickle could do is done."""

import contextlib
import os
import pickle
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.tasks.builtin import array_pickle
from skerry.tasks.builtin.array_pickle import MalformedPickle, read


def text(content: bytes) -> bytes:
    """Python 2's str, as its pickler writes it."""
    if len(content) < 256:
        return b"U" + bytes((len(content),)) + content
    return b"T" + struct.pack("<i", len(content)) + content


def integer(number: int) -> bytes:
    if 0 <= number < 256:
        return b"K" + bytes((number,))
    return b"M" + struct.pack("<H", number) if 0 <= number < 65536 else b"J" + struct.pack("<i", number)


def array(content: npt.NDArray[np.uint8], dtype: bytes = b"u1", fortran: bytes = b"\x89") -> bytes:
    shape = b"".join(integer(size) for size in content.shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09"
        b"(K\x01(" + shape + b"t"
        b"cnumpy\ndtype\nq\x0a"
        + text(dtype)
        + b"K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + fortran
        + text(content.tobytes())
        + b"tb"
    )


def batch(images: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    """Return what the authors' program wrote: protocol 2, memoised, the labels in one piece, long memos at the end."""
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
        b"U\x06labelsq\x04]q\x05(" + b"".join(map(integer, labels)) + b"e"
        b"U\x04dataq\x06"
        + array(images)
        + b"U\x09filenamesr\x00\x01\x00\x00]("
        + text(b"a.png")
        + b"q\x10h\x10" * 2
        + b"eu."
    )


IMAGES = np.arange(5 * 3072, dtype=np.uint32).astype(np.uint8).reshape(5, 3072)
BATCH = batch(IMAGES, [6, 9, 300, 70000, -1])


def test_a_batch_is_read_as_python_would_unpickle_it() -> None:
    theirs = pickle.loads(BATCH, encoding="bytes")
    ours = read(memoryview(BATCH))
    assert set(ours) == set(theirs) == {b"batch_label", b"labels", b"data", b"filenames"}
    assert ours[b"labels"] == theirs[b"labels"] == [6, 9, 300, 70000, -1]
    assert ours[b"batch_label"] == theirs[b"batch_label"]
    assert ours[b"filenames"] == theirs[b"filenames"]
    assert (ours[b"data"] == theirs[b"data"]).all()
    assert (ours[b"data"] == IMAGES).all()
    assert ours[b"data"].dtype == np.uint8


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/skerry-was-here",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Harmful(), protocol=0),
        pickle.dumps(Harmful(), protocol=2),
        pickle.dumps(Harmful()),
        b"\x80\x02cposix\nsystem\nU\x04true\x85R.",
        b"\x80\x02}(U\x01acnumpy\nload\nU\x01x\x85Ru.",
        b"\x80\x02cnumpy\nndarray\n(U\x01xt\x81.",  # NEWOBJ
        b"\x80\x02(U\x04trueios\nsystem\n.",  # INST
        b"\x80\x02P1\n.",  # a persistent object
        b"\x80\x02\x82\x01.",  # a registered class
    ],
    ids=range(9),
)
def test_nothing_that_is_named_is_run(content: bytes) -> None:
    with pytest.raises(MalformedPickle):
        read(memoryview(content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends too early"),
        (BATCH[:-1], "ends too early"),
        (BATCH[:4000], "ends too early"),
        (b"\x80\x04}.", "newer pickle protocol"),
        (b"\x80\x02].", "no dictionary"),
        (b"\x80\x02.", "no intact pickle"),
        (b"\x80\x02h\x07.", "refers to 7"),
        (b"\x80\x02t.", "did not open"),
        (b"\x80\x02NK\x01R.", "calls something"),
        (b"\x80\x02NK\x01b.", "gives a state"),
        (b"\x80\x02NK\x01a.", "appends to something"),
        (b"\x80\x02}K\x01K\x01s.", "key that is no text"),
        (b"\x80\x02(\x85.", "takes more than there is"),
        (b"\x80\x02T\xff\xff\xff\xffx.", "ends too early"),
        (b"\x80\x02" + b"N" * array_pickle.OPCODES_MAX, "more than 262144 opcodes"),
        (b"\x80\x02}U\x01a" + array(IMAGES, dtype=b"f4") + b"s.", "not of unsigned bytes"),
        (b"\x80\x02}U\x01a" + array(IMAGES, fortran=b"\x88") + b"s.", "not of unsigned bytes"),
        (b"\x80\x02}U\x01a" + array(IMAGES).replace(b"M\x00\x0c", b"M\x01\x0c") + b"s.", "another number of bytes"),
        (b"\x80\x02}U\x01acnumpy\ndtype\nU\x02u1\x85Rs.", "unknown form"),
    ],
)
def test_what_is_malformed_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(MalformedPickle) as caught:
        read(memoryview(content))
    assert said in str(caught.value)


def test_huge_shapes_do_not_overflow() -> None:
    huge = array(np.zeros((0, 0), np.uint8)).replace(b"(K\x00K\x00t", b"(" + b"J\xff\xff\xff\x7f" * 3 + b"t")
    with pytest.raises(MalformedPickle, match="another number of bytes"):
        read(memoryview(b"\x80\x02}U\x01a" + huge + b"s."))


@given(st.data())
def test_no_damage_does_more_than_be_refused(data: st.DataObject) -> None:
    small = batch(IMAGES[:1, :8], [1])
    content = bytearray(small)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedPickle):
        read(memoryview(bytes(content)))


@given(
    st.lists(
        st.sampled_from([bytes((code,)) for code in b"(}])NKMJUTcqrhj\x85\x86\x87tRbaesu.\x88\x89"])
        | st.binary(max_size=4)
    )
)
def test_no_program_does_more_than_be_refused(opcodes: list[bytes]) -> None:
    with contextlib.suppress(MalformedPickle):
        read(memoryview(b"\x80\x02" + b"".join(opcodes) + b"."))
