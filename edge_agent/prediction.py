"""What is asked of a model and what it answers: bytes to examples, logits to classes, answers to bytes. Pure, no I/O.

A request is a map: `x`, a list of examples as the data source gives them, not normalised, null or NaN where a value
is missing; and `scores`, how much is to be said beside the classes. Requests and answers are JSON or msgpack.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from skerry.errors import DataError
from skerry.tasks.manifest import Label, Manifest
from skerry.tasks.table import Table
from skerry.vector import Float32

JSON, MSGPACK = "application/json", "application/msgpack"
ANSWER_VALUES_MAX = 1 << 20  # scores in one answer: a word model has thousands for every position

Scores = Literal["probabilities", "logits", "none"]
Values = npt.NDArray[Any]

_ENCODE: dict[str, Callable[[Any], bytes]] = {JSON: msgspec.json.encode, MSGPACK: msgspec.msgpack.encode}


class BadRequest(DataError):  # noqa: N818 - whoever asked can mend it
    """What was asked cannot be answered."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A question, checked."""

    x: Values  # (examples, *input shape), not prepared
    scores: Scores


class Reader:
    """Reads the requests of one task."""

    def __init__(self, manifest: Manifest, examples_max: int) -> None:
        """At most `examples_max` examples are taken at once."""
        self._manifest = manifest
        example: Any = int if manifest.input.dtype == "int64" else float | None
        for length in reversed(manifest.input.shape):
            example = Annotated[list[example], Meta(min_length=length, max_length=length)]
        examples = Annotated[list[example], Meta(min_length=1, max_length=examples_max)]
        kind = msgspec.defstruct(
            "Request", [("x", examples), ("scores", Scores, "probabilities")], forbid_unknown_fields=True
        )
        # The lengths stand in the types, so that nothing larger than a right request is ever built.
        self._decoders: dict[str, Any] = {JSON: msgspec.json.Decoder(kind), MSGPACK: msgspec.msgpack.Decoder(kind)}

    def read(self, body: bytes, form: str) -> Request:
        """Parse `body`, of media type JSON or MSGPACK, from whoever can reach this device's loopback interface.

        Raises:
            BadRequest: another shape, a value that is no number or that the task does not take; no other error.
        """
        try:
            decoded = self._decoders[form].decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"{error}; {self._wanted()}") from None
        dtype = np.int64 if self._manifest.input.dtype == "int64" else np.float64
        try:
            x = np.array(decoded.x, dtype)  # None becomes NaN
        except (OverflowError, ValueError) as error:
            raise BadRequest(f"x: {error}; {self._wanted()}") from None
        return Request(checked(x, self._manifest, "x"), decoded.scores)

    def _wanted(self) -> str:
        shape = ", ".join(("examples", *map(str, self._manifest.input.shape)))
        return f"task {self._manifest.name!r} takes {{'x': numbers of shape ({shape})}}"


def checked(x: Values, manifest: Manifest, origin: str) -> Values:
    """Return raw features as `Input.prepare` takes them; `origin` is named in errors.

    Raises:
        BadRequest: a shape, a dtype or a value that the task does not take; names row and column.
    """
    try:
        return Table(origin, x, np.empty(0)).features(manifest)
    except DataError as error:
        raise BadRequest(str(error)) from None


def check_answer_fits(label: Label, examples: int, scores: Scores) -> None:
    """Refuse what would be answered with more numbers than ANSWER_VALUES_MAX.

    Raises:
        BadRequest: naming both numbers and the remedy.
    """
    per_example = int(np.prod(label.logits_shape)) if scores != "none" or not label.countable else 1
    if examples * per_example > ANSWER_VALUES_MAX:
        raise BadRequest(
            f"the answer would hold {examples * per_example} scores, at most {ANSWER_VALUES_MAX}: "
            "ask for fewer examples, or with 'scores': 'none'"
        )


def answer(label: Label, logits: Float32, scores: Scores) -> dict[str, Any]:
    """Return what the logits, float32 of shape (examples, *label.logits_shape), say, as lists.

    Of classes: `classes`, their `names` where the task names them, and the scores asked for, one for each class. Of
    yes-or-no targets (bce_with_logits): `classes`, 1 where the probability is above a half, and the scores. Of values
    (mse): `values`, whatever scores were asked for.
    """
    if not label.countable:
        return {"values": logits.tolist()}
    if label.classes is None:
        said: dict[str, Any] = {"classes": (logits > 0.0).astype(np.int64).tolist()}
    else:
        classes = logits.argmax(-1)
        said = {"classes": classes.tolist()}
        if label.names:
            said["names"] = np.array(label.names, object)[classes].tolist()
    if scores == "logits":
        said["logits"] = logits.tolist()
    elif scores == "probabilities":
        said["probabilities"] = (_sigmoid(logits) if label.classes is None else _softmax(logits)).tolist()
    return said


def encode(content: Any, form: str) -> bytes:
    """Return an answer's bytes in JSON or MSGPACK; JSON has no NaN and says null."""
    return _ENCODE[form](content)


def _softmax(logits: Float32) -> Float32:
    with np.errstate(invalid="ignore"):  # of a model that diverged: infinite minus infinite
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


def _sigmoid(logits: Float32) -> Float32:
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), np.float32)
