"""The manifest: what a bundle says about its task. Read from outside, so every field is checked."""

from enum import StrEnum
from math import isfinite, prod
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from skerry.errors import DataError
from skerry.protocol.messages import Name
from skerry.vector import Float32, Layout

MANIFEST_BYTES_MAX = 4 << 20
INPUT_VALUES_MAX = 1 << 24  # of one example
CLASSES_MAX = 1 << 20
NOISE_VALUES_MAX = 1 << 24  # of one example
IGNORED = -100  # the class of a prediction that is not scored, neither by the loss nor by the evaluation

Dimensions = Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(max_length=8)]

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class PartName(StrEnum):
    """The files of a bundle beside its manifest, in the order in which they stand in it."""

    STEP = "step.onnx"  # parameters, x, y (, noise) -> loss, gradient (, buffers)
    EVALUATE = "evaluate.onnx"  # parameters, x, y -> loss_sum, correct, examples
    PREDICT = "predict.onnx"  # parameters, x -> logits
    PARAMETERS = "parameters.safetensors"  # the initial model, one tensor per name


class MalformedBundle(DataError):  # noqa: N818 - the same word as for frames and vectors
    """A bundle whose bytes break its format: a foreign part, a wrong hash, an inconsistent manifest."""


class Normalisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """x -> (x - mean) / scale, along the first axis of an example; one value for all, or one per entry of that axis.

    The loaders apply it once, to every source alike; the graphs take what comes out.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check lengths and values.

        Raises:
            ValueError: lengths differ, a value is not finite, or a scale is not positive.
        """
        if not 1 <= len(self.mean) == len(self.scale):
            raise ValueError(f"{len(self.mean)} means and {len(self.scale)} scales: both need the same length")
        if not all(map(isfinite, (*self.mean, *self.scale))) or min(self.scale) <= 0.0:
            raise ValueError("mean and scale must be finite, scale above zero")

    def arrays(self, dimensions: int) -> tuple[Float32, Float32]:
        """Return mean and scale as float32, shaped for examples with so many dimensions."""
        columns = (-1,) + (1,) * (dimensions - 1)
        return np.asarray(self.mean, np.float32).reshape(columns), np.asarray(self.scale, np.float32).reshape(columns)

    def apply(self, x: Float32) -> Float32:
        """Return the normalised copy of `x`, float32 of shape (examples, *input shape)."""
        mean, scale = self.arrays(x.ndim - 1)
        return np.asarray((x - mean) / scale, np.float32)


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One example's features, as a data source gives them: measured values, or numbers of words and the like."""

    shape: Annotated[Dimensions, Meta(min_length=1)]  # of one example
    dtype: Literal["float32", "int64"] = "float32"  # of what the graphs take
    values_below: Annotated[int, Meta(ge=1, le=CLASSES_MAX)] | None = None  # int64: every entry is in [0, values_below)
    missing_as: float | None = None  # stands in for NaN; None: NaN is refused
    normalisation: Normalisation | None = None
    names: tuple[str, ...] = ()  # of the features, where they have some

    def __post_init__(self) -> None:
        """Check sizes against one another.

        Raises:
            ValueError: an example is too large, names or normalisation do not fit the shape, or a field belongs to
                another dtype.
        """
        if self.values > INPUT_VALUES_MAX:
            raise ValueError(f"an example of {self.values} values, at most {INPUT_VALUES_MAX}")
        if self.names and len(self.names) != self.shape[0]:
            raise ValueError(f"{len(self.names)} names for {self.shape[0]} features")
        if self.normalisation and len(self.normalisation.mean) not in {1, self.shape[0]}:
            raise ValueError(f"{len(self.normalisation.mean)} means for {self.shape[0]} features")
        if self.missing_as is not None and not isfinite(self.missing_as):
            raise ValueError("missing_as must be finite")
        if (self.dtype == "int64") != (self.values_below is not None):
            raise ValueError("values_below belongs to dtype int64, and int64 needs it")
        if self.dtype == "int64" and (self.missing_as is not None or self.normalisation is not None):
            raise ValueError("missing_as and normalisation belong to dtype float32")

    @property
    def values(self) -> int:
        """How many values one example has."""
        return prod(self.shape)

    def prepare(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what the graphs take: of the dtype, missing values filled in, normalised. `x` is left alone.

        `x` may be of any real dtype, of shape (examples, *shape): images stay bytes until they are needed.
        """
        if self.dtype == "int64":
            return np.asarray(x, np.int64)
        x = np.asarray(x, np.float32)
        if self.missing_as is not None:
            x = np.where(np.isnan(x), np.float32(self.missing_as), x)
        return x if self.normalisation is None else self.normalisation.apply(x)


Loss = Literal["cross_entropy", "mse", "bce_with_logits"]


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to be predicted of one example, and by which loss.

    `cross_entropy`: classes, integers in [0, classes) or IGNORED, one for each place of `shape`; the logits have
    `classes` more as last dimension. Predicting the next token is this, with a class for every position.
    `mse`, `bce_with_logits`: float32 values of `shape`, those of the latter in [0, 1]; the logits have the same shape.
    """

    loss: Loss = "cross_entropy"
    classes: Annotated[int, Meta(ge=2, le=CLASSES_MAX)] | None = None  # of cross_entropy
    shape: Dimensions = ()  # of one example's target; (): a single one
    names: tuple[str, ...] = ()  # of the classes, where they have some

    def __post_init__(self) -> None:
        """Check the fields against one another.

        Raises:
            ValueError: an unknown loss, classes without cross_entropy or the other way round, another number of names
                or the same one twice, or too large.
        """
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss {self.loss!r} is none of {', '.join(get_args(Loss))}")
        if (self.loss == "cross_entropy") != (self.classes is not None):
            raise ValueError("classes belongs to loss cross_entropy, and cross_entropy needs it")
        if self.names and len(self.names) != self.classes:
            raise ValueError(f"{len(self.names)} names for {self.classes} classes")
        if len(set(self.names)) != len(self.names):
            twice = next(name for number, name in enumerate(self.names) if name in self.names[:number])
            raise ValueError(f"two classes are named {twice!r}: give each a name of its own")
        if prod(self.logits_shape) > INPUT_VALUES_MAX:
            raise ValueError(f"{prod(self.logits_shape)} logits for one example, at most {INPUT_VALUES_MAX}")

    @property
    def dtype(self) -> Literal["int64", "float32"]:
        """Of the targets."""
        return "float32" if self.classes is None else "int64"

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Of one example's logits."""
        return self.shape if self.classes is None else (*self.shape, self.classes)

    @property
    def countable(self) -> bool:
        """Whether predictions are right or wrong, so that there is an accuracy."""
        return self.loss != "mse"


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What training takes where neither recipe nor device says otherwise."""

    batch_examples: Annotated[int, Meta(ge=1, le=65536)] = 32
    learning_rate: Annotated[float, Meta(gt=0.0)] = 0.05


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A task in words and numbers; stands as `manifest.json` at the head of its bundle."""

    format_version: Literal[1] = 1
    name: Name
    description: Annotated[str, Meta(max_length=4096)] = ""
    input: Input
    label: Label
    layout: Layout
    defaults: Defaults = Defaults()
    noise_values: Annotated[int, Meta(ge=0, le=NOISE_VALUES_MAX)] = 0  # uniform in [0, 1), per example of a step
    parts: dict[PartName, Sha256]

    def __post_init__(self) -> None:
        """Check what one field alone cannot say.

        Raises:
            ValueError: a part is missing, or there is nothing to train.
        """
        if set(self.parts) != set(PartName):
            raise ValueError(f"parts must be exactly {', '.join(PartName)}")
        if self.layout.trainable_size == 0:
            raise ValueError("the layout has no trainable parameter")
        names = [tensor.name for tensor in self.layout.tensors]
        if len(names) != len(set(names)):
            raise ValueError("two tensors of the layout have the same name")


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as JSON text, the same bytes for the same manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def decode(data: bytes, origin: str) -> Manifest:
    """Read a manifest from untrusted JSON; `origin` is named in errors.

    Raises:
        MalformedBundle: not JSON, a field is unknown, missing or out of range, or a newer format.
    """
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedBundle(
            f"{origin}: manifest.json: {error}; rebuild the bundle with this version of skerry-task"
        ) from error
