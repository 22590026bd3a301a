"""`skerry-agent predict`: asks the agent that runs on this device, or else the model that it wrote down last."""

import http.client
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from edge_agent import prediction
from edge_agent.bundle_file import FOLDER, SUFFIX
from edge_agent.config import AgentConfig
from edge_agent.inference import Predictor, Served
from edge_agent.personal import OwnTensors
from edge_agent.prediction import MSGPACK, BadRequest, Scores, Values
from edge_agent.store import FILE_NAME, Store
from skerry.database import NotMadeError
from skerry.errors import DataError, SkerryError
from skerry.tasks.bundle import Bundle
from skerry.tasks.manifest import Input

REPLACED_MAX = 5  # models, while one file is being answered; then the one on disk answers

Read = Callable[[Input], Values]


class CannotPredictError(SkerryError):
    """There is no model, or the agent does not answer."""


def predict(config: AgentConfig, read: Read, scores: Scores) -> dict[str, Any]:
    """Return one answer, of one model, for the examples that `read` gives for the task's input.

    Nothing is written, neither by the agent nor here.

    Raises:
        CannotPredictError: no agent answers and no model is on disk, or the agent is too busy.
        BadRequest: the examples do not fit the task.
        StorageError: the state cannot be read.
    """
    if config.inference.enabled:
        try:
            found = _ask(config, read, scores)
        except OSError:
            found = None  # it does not run, or this machine has no such address
        if found is not None:
            return found
    served = _on_disk(config)
    manifest = served.predictor.manifest
    x = prediction.checked(read(manifest.input), manifest, "x")
    pieces = [
        x[start : start + config.inference.examples_max] for start in range(0, len(x), config.inference.examples_max)
    ]
    return _joined([served.answer(piece, scores) for piece in pieces])


# --- the agent that runs ---


def _ask(config: AgentConfig, read: Read, scores: Scores) -> dict[str, Any] | None:
    """Return what the agent's API answers; None: its model was replaced again and again between two pieces."""
    agent = http.client.HTTPConnection(*config.inference.address, timeout=config.inference.timeout_s + 5.0)
    try:
        about = _request(agent, "GET", "/v1/model")
        features = msgspec.convert(about["input"], Input)
        x = read(features)
        for _ in range(REPLACED_MAX):
            answers = [_request(agent, "POST", "/v1/predict", body) for body in _bodies(x, features, scores, config)]
            if all(answer["model"] == answers[0]["model"] for answer in answers):
                return _joined(answers)
    except (http.client.HTTPException, TimeoutError, msgspec.ValidationError, KeyError) as error:
        raise CannotPredictError(
            f"http://{config.inference.listen} does not answer as an agent does: {str(error) or type(error).__name__}"
        ) from error
    finally:
        agent.close()
    return None


def _bodies(x: Values, features: Input, scores: Scores, config: AgentConfig) -> Iterator[bytes]:
    """Yield requests that keep within the agent's limits."""
    limits = config.inference
    value_bytes = 9  # of a number in msgpack, at most
    fitting = max(1, (limits.request_bytes_max - 64) // (value_bytes * features.values + 8))
    step = min(limits.examples_max, fitting)
    for start in range(0, max(len(x), 1), step):
        yield msgspec.msgpack.encode({"x": x[start : start + step].tolist(), "scores": scores})


def _request(agent: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    agent.request(method, path, body, {"Content-Type": MSGPACK, "Accept": MSGPACK})
    response = agent.getresponse()
    try:
        content = msgspec.msgpack.decode(response.read(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise http.client.HTTPException(f"status {response.status}") from error
    match response.status:
        case 200:
            return content
        case 400 | 413:
            raise BadRequest(str(content.get("error")))
        case status:
            raise CannotPredictError(f"the agent answers {status}: {content.get('error')}")


# --- what it left on disk ---


def _on_disk(config: AgentConfig) -> Served:
    try:
        store = Store(config.state_dir / FILE_NAME, look_only=True)
    except NotMadeError as error:
        raise CannotPredictError(str(error)) from error
    try:
        stored = store.load()
    finally:
        store.close()
    if stored.model is None or stored.welcome is None:
        raise CannotPredictError(
            f"{config.state_dir}: no model yet: the agent writes it every limits.model_save_s and when it is stopped"
        )
    try:
        bundle = Bundle.open(config.state_dir / FOLDER / f"{stored.welcome.bundle.sha256}{SUFFIX}")
    except DataError as error:
        raise CannotPredictError(f"the model's task is not here: {error}") from error
    predictor, parameters, personal = Predictor(bundle), stored.model.parameters, False
    layout = bundle.manifest.layout
    if len(parameters) != layout.size:
        raise CannotPredictError(f"{config.state_dir}: the model is of another task than {bundle.path.name}")
    if config.personal.layers and stored.head is not None:
        own = OwnTensors(layout, config.personal.layers, bundle.manifest.name)
        if own.names == stored.head.tensors:
            parameters, personal = own.with_head(parameters, stored.head.values), True
    return Served(predictor, stored.model.version, parameters, personal, 0.0)


def _joined(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the answers for consecutive examples as one."""
    if not answers:
        raise BadRequest("no examples")
    lists = [name for name in answers[0] if name != "model"]
    return {"model": answers[0]["model"]} | {
        name: [entry for answer in answers for entry in answer[name]] for name in lists
    }


def lines(answer: dict[str, Any]) -> Iterator[str]:
    """Yield one line for each example: its class's name, else its number; several with spaces between them."""
    said = next(answer[key] for key in ("names", "classes", "values") if key in answer)
    for entry in said:
        yield entry if isinstance(entry, str) else " ".join(map(str, np.ravel(np.array(entry, object))))
