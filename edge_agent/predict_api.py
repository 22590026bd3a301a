"""Predictions for other programs on this device: HTTP on the loopback interface, two resources and nothing else.

Every answer but a right one is a map with one key, `error`, in the form that was asked for.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from edge_agent import prediction
from edge_agent.inference import BusyError, Inference, NoModelYetError, TookTooLongError
from edge_agent.prediction import JSON, MSGPACK, BadRequest
from skerry.errors import ConfigError
from skerry.exposure import is_loopback

PREDICT_PATH, MODEL_PATH = "/v1/predict", "/v1/model"
CONNECTIONS_MAX = 64
LINE_BYTES_MAX = 4096  # of the request line, and of one header
HEADERS_MAX = 32
UNSENT_BYTES_MAX = 32 << 20  # of all answers that are being sent; a single one may be larger
IDLE_S = 60.0  # a connection on which nothing is asked for so long is closed

log = logging.getLogger(__name__)

Json = dict[str, Any]


class _Refused(Exception):  # noqa: N818 - an answer
    """What was asked gets this status and reason instead."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers


class PredictApi:
    """The two resources, over one Inference."""

    def __init__(self, inference: Inference, about: Callable[[], Json | None], request_bytes_max: int) -> None:
        """`about` describes the model in use, None where there is none yet."""
        self._inference, self._about, self._request_bytes_max = inference, about, request_bytes_max

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        form = JSON
        try:
            form = _answer_form(request)
            _check_host(request)
            return _response(200, await self._body(request, form), form)
        except _Refused as refused:
            return _failure(refused.status, str(refused), form, refused.headers)
        except BadRequest as error:
            return _failure(400, str(error), form)
        except (NoModelYetError, BusyError, TookTooLongError) as error:
            return _failure(503, str(error), form, {"Retry-After": "1"})

    async def _body(self, request: web.BaseRequest, form: str) -> bytes:
        match request.path, request.method:
            case ("/v1/predict", "POST"):
                return await self._predict(request, form)
            case ("/v1/model", "GET"):
                about = self._about()
                if about is None:
                    raise NoModelYetError("this device has no model yet: it gets one from its coordinator")
                return prediction.encode(about, form)
            case ("/v1/predict" | "/v1/model" as path, _):
                allowed = "POST" if path == PREDICT_PATH else "GET"
                raise _Refused(405, f"{path} takes {allowed} alone", Allow=allowed)
        raise _Refused(404, f"there is POST {PREDICT_PATH} and GET {MODEL_PATH}")

    async def _predict(self, request: web.BaseRequest, answer_form: str) -> bytes:
        form = request.content_type
        if form not in {JSON, MSGPACK}:
            raise _Refused(415, f"Content-Type must be {JSON} or {MSGPACK}")
        if "Content-Encoding" in request.headers:
            raise _Refused(415, "the body must not be compressed")
        if (request.content_length or 0) > self._request_bytes_max:
            raise self._too_large()
        return await self._inference.answer(lambda: self._receive(request), form, answer_form)

    async def _receive(self, request: web.BaseRequest) -> bytes:
        body = bytearray()
        try:
            while not request.content.at_eof():
                body += await request.content.readany()
                if len(body) > self._request_bytes_max:
                    raise self._too_large()
        except ConnectionError as error:
            raise _Refused(400, "the body did not come whole") from error
        return bytes(body)

    def _too_large(self) -> _Refused:
        return _Refused(413, f"at most {self._request_bytes_max} bytes: ask for fewer examples at once")


def _answer_form(request: web.BaseRequest) -> str:
    """Return the media type that the asker wants: what Accept names first of the two, else the request's own."""
    accept = request.headers.get("Accept", "*/*").lower()
    named = sorted((accept.find(form), form) for form in (JSON, MSGPACK) if form in accept)
    if named:
        return named[0][1]
    if "*/*" not in accept and "application/*" not in accept:
        raise _Refused(406, f"answers are {JSON} or {MSGPACK}")
    return MSGPACK if request.content_type == MSGPACK else JSON


def _check_host(request: web.BaseRequest) -> None:
    """Refuse what a web page in a browser on this device asks: by a name made to point here, or across origins."""
    try:
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:  # "[" and the like
        host = ""
    if not is_loopback(host):
        raise _Refused(421, "Host must name the loopback interface")
    if "Origin" in request.headers:
        raise _Refused(403, "web pages may not ask")


def _response(status: int, body: bytes, form: str, headers: dict[str, str] | None = None) -> web.Response:
    # Without a Server header of ours, aiohttp would tell its own version and Python's.
    return web.Response(
        status=status,
        body=body,
        content_type=form,
        headers={"Server": "skerry", "Cache-Control": "no-store"} | (headers or {}),
    )


def _failure(status: int, reason: str, form: str, headers: dict[str, str] | None = None) -> web.Response:
    return _response(status, prediction.encode({"error": reason}, form), form, headers)


def _body_bytes(answer: web.Response) -> int:
    return len(answer.body) if isinstance(answer.body, (bytes, bytearray)) else 0


def _unless_too_much(answer: web.Response, unsent_bytes: int) -> web.Response:
    """Return the answer, or a refusal where it does not fit beside `unsent_bytes` of others; its body is let go."""
    if not unsent_bytes or unsent_bytes + _body_bytes(answer) <= UNSENT_BYTES_MAX:
        return answer
    answer.body = None
    reason = f"{unsent_bytes} bytes of answers wait to be taken by those who asked: ask again later"
    return _failure(503, reason, answer.content_type, {"Retry-After": "1"})


class _Connection(web.RequestHandler):
    """One connection: closed where there are too many, or where no request begins."""

    __slots__ = ("_open_server", "_silence")

    def __init__(self, server: "_Server", *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(server, loop=loop, **options)
        self._open_server = server
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        if len(self._open_server.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        self._silence = asyncio.get_running_loop().call_later(self._open_server.patience_s, transport.abort)

    def began(self) -> None:
        """The first request's head is here."""
        if self._silence is not None:
            self._silence.cancel()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.began()
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer, and forget it. Who does not take it in time loses the connection: it takes memory here.

        An answer that does not fit beside those that others have not taken yet is refused instead.
        """
        assert isinstance(resp, web.Response)
        server = self._open_server
        answer = _unless_too_much(resp, server.unsent_bytes)
        unsent_bytes = _body_bytes(answer)
        server.unsent_bytes += unsent_bytes
        given_up = asyncio.get_running_loop().call_later(self._open_server.patience_s, self._give_up)
        try:
            return await super().finish_response(request, answer, start_time)
        finally:
            given_up.cancel()
            server.unsent_bytes -= unsent_bytes
            answer.body = None  # the connection keeps what it answered last for as long as it is open

    def _give_up(self) -> None:
        if isinstance(self.transport, asyncio.Transport):  # None: whoever asked has left
            self.transport.abort()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is no HTTP without repeating it; our own defects are logged, not told."""
        self.began()
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is on its way already")
        if status >= 500:
            log.error("a request failed", exc_info=exc)
        response = _failure(
            status, "not an HTTP request" if status < 500 else "a defect of the agent: see its log", JSON
        )
        response.force_close()
        return response


class _Server(web.Server):
    """Makes our connections."""

    def __init__(self, api: PredictApi, patience_s: float) -> None:
        super().__init__(self._handle)
        self._api, self.patience_s = api, patience_s
        self.unsent_bytes = 0  # of the answers that are being sent

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=IDLE_S,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
            lingering_time=1.0,
            auto_decompress=False,  # a small body must stay small
        )

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        protocol = request.protocol
        assert isinstance(protocol, _Connection)
        protocol.began()
        return await self._api.handle(request)


@asynccontextmanager
async def serve(api: PredictApi, host: str, port: int, patience_s: float) -> AsyncIterator[None]:
    """Listen for the length of a `with`. A new connection must bring a request within `patience_s`.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    runner = web.ServerRunner(_Server(api, patience_s), shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(f"inference.listen {host}:{port}: cannot listen: {error.strerror}") from error
        yield
    finally:
        await runner.cleanup()
