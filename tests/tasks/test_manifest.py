from collections.abc import Callable

import numpy as np
import pytest

from skerry.tasks import manifest as manifest_module
from skerry.tasks.manifest import Input, Label, MalformedBundle, Manifest, Normalisation
from skerry.vector import Layout, Tensor


def test_a_manifest_reads_back_as_it_was_written(make_manifest: Callable[..., Manifest]) -> None:
    written = make_manifest(
        description="ünïcode",
        input=Input(shape=(3,), missing_as=0.5, normalisation=Normalisation((1.0,), (2.0,)), names=("a", "b", "c")),
        label=Label(classes=2, names=("no", "yes")),
    )
    assert manifest_module.decode(manifest_module.encode(written), "here") == written


def test_the_same_manifest_is_the_same_bytes(manifest: Manifest, make_manifest: Callable[..., Manifest]) -> None:
    reordered = make_manifest(parts=dict(reversed(manifest.parts.items())))
    assert manifest_module.encode(reordered) == manifest_module.encode(manifest)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-20],
        lambda text: text.replace(b'"format_version": 1', b'"format_version": 2'),
        lambda text: text.replace(b'"name": "tiny"', b'"name": "../tiny"'),
        lambda text: text.replace(b'"classes": 2', b'"classes": 1'),
        lambda text: text.replace(b'"name": "tiny"', b'"name": "tiny", "code": "import os"'),
        lambda text: text.replace(b'"offset": 6', b'"offset": 5'),
        lambda text: text.replace(b"predict.onnx", b"run.py"),
        lambda text: b"\xff" + text,
        lambda text: b"[" * 100_000,
    ],
    ids=["truncated", "newer", "path", "classes", "unknown", "gap", "part", "utf8", "deep"],
)
def test_a_manifest_that_breaks_the_format_is_refused(manifest: Manifest, spoil: Callable[[bytes], bytes]) -> None:
    text = manifest_module.encode(manifest)
    assert spoil(text) != text
    with pytest.raises(MalformedBundle, match=r"^here: manifest\.json: "):
        manifest_module.decode(spoil(text), "here")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Normalisation((0.0,), (0.0,)),
        lambda: Normalisation((0.0, 1.0), (1.0,)),
        lambda: Normalisation((), ()),
        lambda: Normalisation((float("nan"),), (1.0,)),
        lambda: Input(shape=(3,), normalisation=Normalisation((0.0, 0.0), (1.0, 1.0))),
        lambda: Input(shape=(3,), names=("a",)),
        lambda: Input(shape=(1 << 20, 1 << 20)),
        lambda: Input(shape=(3,), missing_as=float("inf")),
        lambda: Label(classes=3, names=("a", "b")),
    ],
)
def test_what_contradicts_itself_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        wrong()


@pytest.mark.parametrize(
    "layout", [Layout((Tensor("a", (2,), 0, trainable=False),)), Layout((Tensor("a", (2,), 0), Tensor("a", (1,), 2)))]
)
def test_a_layout_without_parameters_or_with_doubled_names_is_refused(
    make_manifest: Callable[..., Manifest], layout: Layout
) -> None:
    with pytest.raises(ValueError, match=r"."):
        make_manifest(layout=layout)


def test_features_are_filled_in_and_then_normalised() -> None:
    features = Input(shape=(2,), missing_as=10.0, normalisation=Normalisation((10.0, 0.0), (2.0, 4.0)))
    x = np.array([[np.nan, 4.0], [14.0, np.nan]], np.float32)
    prepared = features.prepare(x)
    np.testing.assert_array_equal(prepared, np.array([[0.0, 1.0], [2.0, 2.5]], np.float32))
    assert prepared.dtype == np.float32
    assert np.isnan(x[0, 0])


def test_one_mean_per_channel_holds_for_the_whole_image() -> None:
    features = Input(shape=(2, 1, 2), normalisation=Normalisation((1.0, 2.0), (1.0, 2.0)))
    x = np.array([[[[1.0, 2.0]], [[2.0, 4.0]]]], np.float32)
    np.testing.assert_array_equal(features.prepare(x), np.array([[[[0.0, 1.0]], [[0.0, 1.0]]]], np.float32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Input(shape=(3,), dtype="int64"), "int64 needs it"),
        (lambda: Input(shape=(3,), values_below=5), "belongs to dtype int64"),
        (lambda: Input(shape=(3,), dtype="int64", values_below=5, missing_as=0.0), "belong to dtype float32"),
        (Label, "cross_entropy needs it"),
        (lambda: Label(loss="mse", classes=3), "belongs to loss cross_entropy"),
        (
            lambda: Label(loss="crossentropy", classes=3),  # type: ignore[arg-type]
            "^loss 'crossentropy' is none of cross_entropy, mse, bce_with_logits$",
        ),
        (lambda: Label(classes=3, names=("a", "b", "a")), "two classes are named 'a': give each a name of its own"),
        (lambda: Label(classes=1 << 20, shape=(1 << 10,)), "logits for one example"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_shape_of_logits_follows_from_label_and_loss() -> None:
    assert Label(classes=6).logits_shape == (6,)
    assert Label(classes=50, shape=(35,)).logits_shape == (35, 50)
    assert Label(loss="mse", shape=(2,)).logits_shape == (2,)
    assert Label(loss="bce_with_logits", shape=(4,)).logits_shape == (4,)
    assert not Label(loss="mse").countable
