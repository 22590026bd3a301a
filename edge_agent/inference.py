"""The model in use: one reference to session, parameters and version, replaced in one piece when a newer one comes.

Whoever asks takes the reference once and is answered by that model alone. The parameters are an input of the prediction
graph, so a newer model of the same task costs one assignment; the graph reads numpy's own memory.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_agent import prediction
from edge_agent.prediction import Reader, Scores, Values
from edge_agent.threads import RunInThread
from skerry.errors import SkerryError
from skerry.protocol.messages import ModelVersion
from skerry.tasks.bundle import Bundle
from skerry.tasks.manifest import Manifest, PartName
from skerry.training.onnx_engine import check_signature, open_session
from skerry.vector import Float32

CALL_EXAMPLES_MAX = 32  # in one call of the graph: bounds the memory of activations


class NoModelYetError(SkerryError):
    """Nothing can be predicted so far; coming back later helps."""


class BusyError(SkerryError):
    """As many are being answered or wait as the configuration allows; coming back later helps."""


class TookTooLongError(SkerryError):
    """The answer was not ready in time."""


class Predictor:
    """A bundle's prediction graph, loaded into a session of its own. May be called from several threads at once."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        """Load it.

        Raises:
            MalformedBundle: the graph does not load, or has other inputs and outputs than it must have.
        """
        self.sha256 = bundle.sha256
        self.manifest: Manifest = bundle.manifest
        origin = f"{bundle.path}: {PartName.PREDICT}"
        self._session = open_session(bundle.part(PartName.PREDICT), threads, origin)
        check_signature(self._session, PartName.PREDICT, has_noise=False, has_buffers=False, origin=origin)

    def logits(self, parameters: Float32, x: Values) -> Float32:
        """Return float32 of shape (examples, *label.logits_shape) for raw, checked features."""
        return np.concatenate(
            [
                self._session.run(None, {"parameters": parameters, "x": self._prepared(x, start)})[0]
                for start in range(0, len(x), CALL_EXAMPLES_MAX)
            ]
        )

    def _prepared(self, x: Values, start: int) -> Values:
        return self.manifest.input.prepare(x[start : start + CALL_EXAMPLES_MAX])


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One model in use. Nothing in it ever changes."""

    predictor: Predictor
    version: ModelVersion  # of the regional model; of the one whose body it has, if personal
    parameters: Float32
    personal: bool  # has this device's own head
    since_s: float  # Unix time

    def names(self) -> dict[str, Any]:
        """Return what tells this model from any other."""
        return {
            "task": self.predictor.manifest.name,
            "bundle": self.predictor.sha256,
            "lineage": self.version.lineage,
            "version": self.version.number,
            "personal": self.personal,
        }

    def answer(self, x: Values, scores: Scores) -> dict[str, Any]:
        """Return the answer for raw, checked features.

        Raises:
            BadRequest: it would be too large.
        """
        label = self.predictor.manifest.label
        prediction.check_answer_fits(label, len(x), scores)
        return {"model": self.names(), **prediction.answer(label, self.predictor.logits(self.parameters, x), scores)}


@dataclass(slots=True)
class _Asker:
    """Whether somebody still waits for an answer; written by the loop, read by the predicting thread."""

    waits: bool = True


class Inference:
    """Answers with the newest model, so many at a time; bounds how many may wait."""

    def __init__(
        self, run_in_thread: RunInThread, *, examples_max: int, concurrent_max: int, queue_max: int, timeout_s: float
    ) -> None:
        """`run_in_thread` computes `concurrent_max` predictions at a time, in threads that do nothing else."""
        self._run_in_thread = run_in_thread
        self._examples_max, self._requests_max, self._timeout_s = examples_max, concurrent_max + queue_max, timeout_s
        self._requests = 0
        self._served: tuple[Served, Reader] | None = None

    @property
    def served(self) -> Served | None:
        """The model in use; None: there is none yet."""
        return None if self._served is None else self._served[0]

    def serve(self, served: Served) -> None:
        """Answer with this model from the next request on; those under way keep theirs."""
        same_task = self._served is not None and self._served[0].predictor is served.predictor
        reader = (
            self._served[1] if same_task and self._served else Reader(served.predictor.manifest, self._examples_max)
        )
        self._served = served, reader

    async def answer(self, receive: Callable[[], Awaitable[bytes]], form: str, answer_form: str) -> bytes:
        """Return the encoded answer to the request that `receive` brings in.

        Raises:
            NoModelYetError: see there.
            BusyError: see there; nothing was received.
            TookTooLongError: see there.
            BadRequest: what was asked cannot be answered.
        """
        if self._served is None:
            raise NoModelYetError("this device has no model yet: it gets one from its coordinator")
        if self._requests >= self._requests_max:
            raise BusyError(f"{self._requests} requests are being answered or wait: ask again later")
        self._requests += 1
        computing: asyncio.Future[bytes] | None = None
        asker = _Asker()
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await receive()
                computing = asyncio.ensure_future(
                    self._run_in_thread(lambda: self._compute(asker, body, form, answer_form))
                )
                return await asyncio.shield(computing)
        except TimeoutError:
            what = "the request did not arrive" if computing is None else "no answer was ready"
            raise TookTooLongError(f"{what} within {self._timeout_s:g} s") from None
        finally:
            asker.waits = False
            if computing is None or computing.done():
                self._requests -= 1
            else:
                computing.add_done_callback(self._late)

    def _late(self, computing: "asyncio.Future[bytes]") -> None:
        """Nobody waits for this answer any more, but until now it took a place."""
        self._requests -= 1
        if not computing.cancelled():
            computing.exception()

    def _compute(self, asker: _Asker, body: bytes, form: str, answer_form: str) -> bytes:
        if not asker.waits:
            return b""  # gave up before its turn came
        assert self._served is not None
        served, reader = self._served  # one reference, taken once: the model may be replaced meanwhile
        request = reader.read(body, form)
        return prediction.encode(served.answer(request.x, request.scores), answer_form)
