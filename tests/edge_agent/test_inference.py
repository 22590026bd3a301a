"""The model in use: swapped under load, bounded, and never two models in one answer."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_agent.inference import BusyError, Inference, NoModelYetError, Predictor, Served, TookTooLongError
from edge_agent.prediction import JSON, BadRequest
from edge_agent.threads import WorkThreads
from skerry.protocol.messages import ModelVersion
from skerry.tasks.bundle import Bundle
from skerry.training.onnx_engine import OnnxTrainer
from skerry.vector import Float32


@pytest.fixture(scope="module")
def predictor(activity: Bundle) -> Predictor:
    return Predictor(activity)


@pytest.fixture
def threads() -> Iterator[WorkThreads]:
    work = WorkThreads(2, "test-predictions")
    yield work
    work.close()


def new_inference(threads: WorkThreads, **limits: Any) -> Inference:
    return Inference(
        threads, **({"examples_max": 256, "concurrent_max": 2, "queue_max": 30, "timeout_s": 20.0} | limits)
    )


def parameters_of(number: int, size: int) -> Float32:
    """A model whose every answer tells its number."""
    return np.full(size, np.float32(1e-3 * (number % 1000 + 1)))


def serve(inference: Inference, predictor: Predictor, number: int) -> None:
    size = predictor.manifest.layout.size
    version = ModelVersion("r/00000001", number)
    inference.serve(Served(predictor, version, parameters_of(number, size), personal=False, since_s=0.0))


def receiving(body: bytes) -> Any:
    async def receive() -> bytes:
        return body

    return receive


BODY = msgspec.json.encode({"x": [[0.5] * 43] * 100, "scores": "logits"})  # four calls of the graph


def test_predictions_are_those_of_the_trainer(activity: Bundle, predictor: Predictor) -> None:
    raw = np.random.default_rng(1).normal(size=(70, 43)).astype(np.float32)
    raw[3, 4] = np.nan
    parameters = activity.initial_parameters()
    expected = OnnxTrainer(activity).predict(parameters, activity.manifest.input.prepare(raw))
    np.testing.assert_allclose(predictor.logits(parameters, raw), expected, rtol=1e-5, atol=1e-6)


async def test_no_answer_mixes_models_while_they_are_swapped(predictor: Predictor, threads: WorkThreads) -> None:
    inference = new_inference(threads)
    size = predictor.manifest.layout.size
    raw = np.full((1, 43), 0.5, np.float32)
    expected = {number: predictor.logits(parameters_of(number, size), raw)[0] for number in range(1000)}
    assert len({tuple(logits) for logits in expected.values()}) == 1000
    number = 0
    serve(inference, predictor, number)
    seen: set[int] = set()

    async def ask() -> None:
        for _ in range(40):
            answer = msgspec.json.decode(await inference.answer(receiving(BODY), JSON, JSON))
            told = answer["model"]["version"]
            seen.add(told)
            np.testing.assert_allclose(  # two models differ by a thousandth at least
                answer["logits"], np.tile(expected[told], (100, 1)), rtol=1e-5, err_msg=f"model {told}"
            )

    asking = asyncio.gather(*(ask() for _ in range(8)))
    while not asking.done():
        number = (number + 1) % 1000
        serve(inference, predictor, number)
        await asyncio.sleep(0)
    await asking
    assert len(seen) > 20  # models really were replaced meanwhile


async def test_before_the_first_model(threads: WorkThreads) -> None:
    with pytest.raises(NoModelYetError, match="no model yet"):
        await new_inference(threads).answer(receiving(b"{}"), JSON, JSON)


class Blocked:
    """Threads that compute when the test says so."""

    def __init__(self, threads: WorkThreads) -> None:
        self.threads, self.go, self.calls = threads, threading.Event(), 0

    def __call__(self, work: Any) -> Any:
        def wait() -> Any:
            self.go.wait()
            self.calls += 1
            return work()

        return self.threads(wait)


async def test_more_requests_than_allowed_are_refused_unread_and_places_come_free(
    predictor: Predictor, threads: WorkThreads
) -> None:
    blocked = Blocked(threads)
    inference = new_inference(blocked, concurrent_max=2, queue_max=1)  # type: ignore[arg-type]
    serve(inference, predictor, 1)
    waiting = [asyncio.create_task(inference.answer(receiving(BODY), JSON, JSON)) for _ in range(3)]
    await asyncio.sleep(0)

    async def unread() -> bytes:
        raise AssertionError("was read")

    with pytest.raises(BusyError, match="3 requests"):
        await inference.answer(unread, JSON, JSON)
    blocked.go.set()
    await asyncio.gather(*waiting)
    assert await inference.answer(receiving(BODY), JSON, JSON)


async def test_an_answer_that_comes_too_late_keeps_its_place_until_then(
    predictor: Predictor, threads: WorkThreads
) -> None:
    blocked = Blocked(threads)
    inference = new_inference(blocked, concurrent_max=1, queue_max=0, timeout_s=0.05)  # type: ignore[arg-type]
    serve(inference, predictor, 1)
    with pytest.raises(TookTooLongError, match=r"no answer was ready within 0\.05 s"):
        await inference.answer(receiving(BODY), JSON, JSON)
    with pytest.raises(BusyError):
        await inference.answer(receiving(BODY), JSON, JSON)
    blocked.go.set()
    async with asyncio.timeout(10):
        while inference._requests:  # noqa: ASYNC110 - another thread is waited for
            await asyncio.sleep(0.01)
    inference._timeout_s = 10.0
    assert await inference.answer(receiving(BODY), JSON, JSON)


async def test_a_request_that_never_arrives_gives_its_place_back(predictor: Predictor, threads: WorkThreads) -> None:
    inference = new_inference(threads, concurrent_max=1, queue_max=0, timeout_s=0.05)
    serve(inference, predictor, 1)
    with pytest.raises(TookTooLongError, match="did not arrive"):
        await inference.answer(asyncio.Event().wait, JSON, JSON)  # type: ignore[arg-type]
    with pytest.raises(BadRequest):
        await inference.answer(receiving(b"{"), JSON, JSON)
    assert inference._requests == 0
