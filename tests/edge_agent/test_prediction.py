"""Requests and answers as bytes: shapes, dtypes, limits, and whatever else may come."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_agent import prediction
from edge_agent.prediction import ANSWER_VALUES_MAX, JSON, MSGPACK, BadRequest, Reader
from skerry.tasks.bundle import Bundle
from skerry.tasks.manifest import Input, Label, Manifest

MANIFEST = Bundle.builtin("activity").manifest


def manifest(**fields: Any) -> Manifest:
    return msgspec.structs.replace(MANIFEST, **fields)


TINY = manifest(input=Input(shape=(2, 3)), label=Label(classes=2))
WORDS = manifest(input=Input(shape=(4,), dtype="int64", values_below=10), label=Label(classes=10, shape=(4,)))
GAPS = manifest(input=Input(shape=(2,), missing_as=0.0), label=Label(classes=2))


@pytest.mark.parametrize(("form", "encode"), [(JSON, msgspec.json.encode), (MSGPACK, msgspec.msgpack.encode)])
def test_examples_are_read_as_the_source_gives_them(form: str, encode: Callable[[Any], bytes]) -> None:
    x = [[[1, 2.5, 3], [4, 5, -6e30]], [[0, 0, 0], [0, 0, 0]]]
    request = Reader(TINY, 2).read(encode({"x": x}), form)
    assert request.x.dtype == np.float32
    np.testing.assert_array_equal(request.x, np.array(x, np.float32))
    assert request.scores == "probabilities"
    words = Reader(WORDS, 2).read(encode({"x": [[0, 1, 9, 3]], "scores": "none"}), form)
    assert words.x.dtype == np.int64
    assert words.scores == "none"


def test_missing_values_are_taken_where_the_task_takes_them() -> None:
    found = Reader(GAPS, 2).read(b'{"x": [[null, 1]]}', JSON).x
    np.testing.assert_array_equal(found, np.array([[np.nan, 1]], np.float32))
    found = Reader(GAPS, 2).read(msgspec.msgpack.encode({"x": [[float("nan"), 1.0]]}), MSGPACK).x
    assert np.isnan(found[0, 0])
    with pytest.raises(BadRequest, match=r"row 0 .*nan, must be a finite float32"):
        Reader(TINY, 2).read(b'{"x": [[[1,2,3],[4,null,6]]]}', JSON)


@pytest.mark.parametrize(
    ("task", "body", "told"),
    [
        (TINY, b"", "truncated"),
        (TINY, b"[]", "Expected `object`"),
        (TINY, b"{}", "missing required field `x`"),
        (TINY, b'{"x": 1}', "Expected `array`"),
        (TINY, b'{"x": []}', r"length >= 1 - at `\$\.x`"),
        (TINY, b'{"x": [[[1,2,3],[4,5,6]],[[1,2,3],[4,5,6]],[[1,2,3],[4,5,6]]]}', r"length <= 2 - at `\$\.x`"),
        (TINY, b'{"x": [[[1,2],[4,5]]]}', r"length >= 3 .*numbers of shape \(examples, 2, 3\)"),
        (TINY, b'{"x": [[[1,2,3],[4,5,6,7]]]}', "length <= 3"),
        (TINY, b'{"x": [[[1,2,3],[4,5,"6"]]]}', "got `str`"),
        (TINY, b'{"x": [[[1,2,3],[4,5,true]]]}', "got `bool`"),
        (TINY, b'{"x": [[[1,2,3],[4,5,NaN]]]}', "malformed"),
        (TINY, b'{"x": [[[1,2,3],[4,5,1e999]]]}', "out of range"),
        (TINY, b'{"x": [[[1,2,3],[4,5,1e300]]]}', r"column 1, 2: inf, must be a finite float32"),
        (TINY, b'{"x": [[[1,2,3],[4,5,6]]], "y": 1}', "unknown field `y`"),
        (TINY, b'{"x": [[[1,2,3],[4,5,6]]], "scores": "all"}', "scores"),
        (TINY, b'{"x": \xff}', "malformed|UTF-8|utf-8"),
        (WORDS, b'{"x": [[1,2,3,10]]}', r"column 3: 10, must be an integer in \[0, 10\)"),
        (WORDS, b'{"x": [[1,2,3,-1]]}', "integer in"),
        (WORDS, b'{"x": [[1,2,3,1.5]]}', "Expected `int`"),
        (WORDS, b'{"x": [[1,2,3,null]]}', "Expected `int`"),
        (WORDS, b'{"x": [[1,2,3,99999999999999999999999]]}', "out of range|too large|too big"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(task: Manifest, body: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        Reader(task, 2).read(body, JSON)


def test_a_length_that_is_only_claimed_takes_no_memory() -> None:
    for claim in (
        b"\x81\xa1x\xdd\xff\xff\xff\xff",
        b"\x81\xa1x\x91\xdd\xff\xff\xff\xff",
        b"\x81\xa1x\xc6\xff\xff\xff\xff",
    ):
        with pytest.raises(BadRequest):
            Reader(TINY, 2).read(claim, MSGPACK)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "scores", "y"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("task", [TINY, WORDS, GAPS], ids=["values", "words", "gaps"])
@given(body=st.binary(max_size=64) | anything.map(msgspec.msgpack.encode))
@example(body=b"\x81\xa1x" + b"\x91" * 60)
def test_no_msgpack_breaks_the_reader(task: Manifest, body: bytes) -> None:
    try:
        request = Reader(task, 3).read(body, MSGPACK)
    except BadRequest:
        return
    assert request.x.shape[1:] == task.input.shape
    assert 1 <= len(request.x) <= 3


json_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "scores", "y"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("task", [TINY, WORDS, GAPS], ids=["values", "words", "gaps"])
@given(body=st.binary(max_size=64) | json_anything.map(lambda value: json.dumps(value).encode()))
@example(body=b'{"x":' + b"[" * 100_000)
def test_no_json_breaks_the_reader(task: Manifest, body: bytes) -> None:
    try:
        request = Reader(task, 3).read(body, JSON)
    except BadRequest:
        return
    assert request.x.shape[1:] == task.input.shape
    assert 1 <= len(request.x) <= 3


def test_an_answer_of_classes() -> None:
    label = Label(classes=3, names=("a", "b", "c"))
    logits = np.array([[0.0, 1.0, 0.0], [5.0, -1000.0, 1000.0]], np.float32)
    said = prediction.answer(label, logits, "probabilities")
    assert said["classes"] == [1, 2]
    assert said["names"] == ["b", "c"]
    np.testing.assert_allclose(said["probabilities"][0], np.exp([0, 1, 0]) / np.exp([0, 1, 0]).sum(), rtol=1e-6)
    assert said["probabilities"][1] == [0.0, 0.0, 1.0]
    assert "logits" not in said
    assert prediction.answer(label, logits, "logits")["logits"] == logits.tolist()
    assert set(prediction.answer(Label(classes=3), logits, "none")) == {"classes"}


def test_an_answer_for_every_position() -> None:
    label = Label(classes=2, shape=(3,), names=("no", "yes"))
    logits = np.array([[[0, 1], [1, 0], [0, 1]]], np.float32)
    said = prediction.answer(label, logits, "none")
    assert said == {"classes": [[1, 0, 1]], "names": [["yes", "no", "yes"]]}
    assert np.shape(prediction.answer(label, logits, "probabilities")["probabilities"]) == (1, 3, 2)


def test_an_answer_of_values_and_of_yes_or_no() -> None:
    logits = np.array([[0.5, -2000.0], [-1.0, 2000.0]], np.float32)
    assert prediction.answer(Label(loss="mse", shape=(2,)), logits, "probabilities") == {"values": logits.tolist()}
    said = prediction.answer(Label(loss="bce_with_logits", shape=(2,)), logits, "probabilities")
    assert said["classes"] == [[1, 0], [0, 1]]
    np.testing.assert_allclose(said["probabilities"], 1 / (1 + np.exp([[-0.5, 700.0], [1.0, -2000.0]])), atol=1e-6)


def test_a_model_that_diverged_is_answered_with_null_not_with_an_error() -> None:
    said = prediction.answer(Label(classes=2), np.array([[np.inf, np.inf]], np.float32), "probabilities")
    assert json.loads(prediction.encode(said, JSON)) == {"classes": [0], "probabilities": [[None, None]]}


def test_an_answer_that_would_be_too_large_is_refused_with_the_remedy() -> None:
    words = Label(classes=30_000, shape=(64,))
    with pytest.raises(BadRequest, match="'scores': 'none'"):
        prediction.check_answer_fits(words, 1, "probabilities")
    prediction.check_answer_fits(words, 256, "none")
    prediction.check_answer_fits(Label(classes=2), ANSWER_VALUES_MAX // 2, "logits")
    with pytest.raises(BadRequest, match="fewer examples"):
        prediction.check_answer_fits(Label(loss="mse", shape=(1 << 20,)), 2, "none")
