"""The two resources on a real socket: what is answered, and how everything else is refused."""

import asyncio
import json
import random
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession

from edge_agent.inference import Inference, Predictor, Served
from edge_agent.predict_api import CONNECTIONS_MAX, UNSENT_BYTES_MAX, PredictApi, serve
from edge_agent.threads import WorkThreads
from skerry.errors import ConfigError
from skerry.protocol.messages import ModelVersion
from skerry.tasks.bundle import Bundle

ROW = [0.5] * 43
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@dataclass
class Answering:
    port: int
    inference: Inference
    session: ClientSession

    async def post(self, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask("POST", "/v1/predict", data, **headers)

    async def ask(
        self, method: str, path: str, data: bytes | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        named = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        async with self.session.request(
            method, f"http://127.0.0.1:{self.port}{path}", data=data, headers=named
        ) as answer:
            content = await answer.read()
            decode = msgspec.msgpack.decode if answer.content_type == "application/msgpack" else msgspec.json.decode
            return answer.status, decode(content) if content else None, dict(answer.headers)

    async def raw(self, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        """Return all that comes until the connection is closed, or until nothing came for so long."""
        received = b""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            while data := await asyncio.wait_for(reader.read(1 << 16), timeout_s):
                received += data
        except (ConnectionError, TimeoutError):
            pass
        finally:
            writer.close()
        return received


Start = Callable[..., Awaitable[Answering]]


@pytest.fixture
async def answering(activity: Bundle, free_port: int) -> AsyncIterator[Callable[..., Any]]:
    threads = WorkThreads(1, "test-predictions")
    predictor = Predictor(activity)

    @asynccontextmanager
    async def start(*, model: bool = True, bytes_max: int = 20_000, **limits: Any) -> AsyncIterator[Answering]:
        settings = {"examples_max": 20, "concurrent_max": 1, "queue_max": 8, "timeout_s": 2.0} | limits
        inference = Inference(threads, **settings)
        if model:
            version = ModelVersion("r/00000001", 17)
            inference.serve(Served(predictor, version, activity.initial_parameters(), personal=False, since_s=1.0))
        api = PredictApi(inference, lambda: None if inference.served is None else inference.served.names(), bytes_max)
        async with serve(api, "127.0.0.1", free_port, settings["timeout_s"]), ClientSession() as session:
            yield Answering(free_port, inference, session)

    yield start
    threads.close()


async def test_predictions_in_both_forms(answering: Any) -> None:
    async with answering() as api:
        status, content, headers = await api.post({"x": [ROW, ROW]})
        assert status == 200
        assert content["model"] == {
            "task": "activity",
            "bundle": Bundle.builtin("activity").sha256,
            "lineage": "r/00000001",
            "version": 17,
            "personal": False,
        }
        assert len(content["classes"]) == len(content["names"]) == len(content["probabilities"]) == 2
        assert headers["Content-Type"] == "application/json"
        body = msgspec.msgpack.encode({"x": [ROW, ROW]})
        packed = await api.ask("POST", "/v1/predict", body, Content_Type="application/msgpack")
        assert packed[:2] == (200, content)
        assert packed[2]["Content-Type"] == "application/msgpack"
        mixed = await api.ask(
            "POST", "/v1/predict", body, Content_Type="application/msgpack", Accept="application/json"
        )
        assert mixed[1] == content
        assert mixed[2]["Content-Type"] == "application/json"
        assert (await api.ask("GET", "/v1/model"))[1]["version"] == 17


@pytest.mark.parametrize(
    ("body", "headers", "status", "told"),
    [
        ({"x": [[1.0]]}, {}, 400, "length >= 43"),
        ({"x": [[None] * 42 + ["1"]]}, {}, 400, "got `str`"),
        ({"x": [ROW] * 21}, {}, 400, "length <= 20"),
        (b'{"x": [[NaN]]}', {}, 400, "malformed"),
        (b"", {}, 400, "truncated"),
        (b" " * 20_001, {}, 413, "at most 20000 bytes"),
        ({"x": [ROW]}, {"Content_Type": "text/plain"}, 415, "Content-Type must be"),
        ({"x": [ROW]}, {"Content_Encoding": "gzip"}, 415, "compressed"),
        ({"x": [ROW]}, {"Accept": "text/html"}, 406, "answers are"),
        ({"x": [ROW]}, {"Host": "evil.example:80"}, 421, "loopback"),
        ({"x": [ROW]}, {"Host": "["}, 421, "loopback"),
        ({"x": [ROW]}, {"Origin": "http://evil.example"}, 403, "web pages"),
    ],
)
async def test_a_bad_request_is_answered_with_the_reason(
    answering: Any, body: Any, headers: dict[str, str], status: int, told: str
) -> None:
    async with answering() as api:
        found, content, _ = await api.post(body, **headers)
        assert found == status
        assert set(content) == {"error"}
        assert told in content["error"]
        assert (await api.post({"x": [ROW]}))[0] == 200  # the next one is none the worse for it


async def test_an_error_comes_in_the_form_that_was_asked_for(answering: Any) -> None:
    async with answering() as api:
        status, content, headers = await api.post(b"\x80", Content_Type="application/msgpack")
        assert (status, headers["Content-Type"]) == (400, "application/msgpack")
        assert "missing required field `x`" in content["error"]


async def test_there_is_no_other_resource_and_no_other_method(answering: Any) -> None:
    async with answering() as api:
        for path in ("/", "/v1/model/", "/v1/predict/x", "/metrics", "/healthz", "/v1/predict%00"):
            assert (await api.ask("GET", path))[0] == 404
        assert (await api.ask("GET", "/v1/predict"))[0] == 405
        status, _, headers = await api.ask("DELETE", "/v1/model")
        assert (status, headers["Allow"]) == (405, "GET")


async def test_before_the_first_model_and_when_busy_a_later_attempt_is_asked_for(answering: Any) -> None:
    async with answering(model=False) as api:
        for method, path in (("POST", "/v1/predict"), ("GET", "/v1/model")):
            status, content, headers = await api.ask(method, path)
            assert (status, headers["Retry-After"]) == (503, "1")
            assert "no model yet" in content["error"]
    async with answering(queue_max=0, timeout_s=1.0) as api:
        slow = asyncio.create_task(api.raw(HEAD + b"Content-Length: 100\r\n\r\n{"))
        while not api.inference._requests:  # noqa: ASYNC110 - a real socket is waited for
            await asyncio.sleep(0.01)
        status, content, _ = await api.post({"x": [ROW]})
        assert status == 503
        assert "ask again later" in content["error"]
        answer = await slow  # what does not arrive in time is given up
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"the request did not arrive within 1 s" in answer
        assert (await api.post({"x": [ROW]}))[0] == 200


async def test_a_body_without_a_length_is_bounded_as_well(answering: Any) -> None:
    async with answering() as api:
        chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
        answer = await api.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 6)
        assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"])
async def test_whoever_leaves_in_the_middle_of_a_body_is_no_defect(
    answering: Any, framing: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering() as api:
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(HEAD + framing)
        await asyncio.sleep(0.1)
        writer.transport.abort()
        await asyncio.sleep(0.1)
        assert (await api.post({"x": [ROW]}))[0] == 200
    assert not caplog.records


class Body(bytearray):
    """Bytes whose end can be seen: plain ones take no weak references."""


@pytest.mark.parametrize("takes", [True, False])
async def test_no_answer_stays_in_memory_of_a_connection_that_stays(
    takes: bool, answering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither behind an answer that was taken, nor for whoever asks and then takes nothing."""
    held: list[weakref.ref[Body]] = []
    size = 32 << 20  # beyond what the system's own buffers hold

    async def large(_api: PredictApi, _request: Any, _form: str) -> bytearray:
        body = Body(size)
        held.append(weakref.ref(body))
        return body

    monkeypatch.setattr(PredictApi, "_body", large)
    async with answering(timeout_s=60.0 if takes else 0.5) as api:
        asker = socket.create_connection(("127.0.0.1", api.port))  # no StreamReader: it would take some by itself
        with asker:
            asker.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(asker, b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = len(await loop.sock_recv(asker, 1000))
            assert len(held) == 1
            while takes and received < size:
                received += len(await loop.sock_recv(asker, 1 << 20))
            async with asyncio.timeout(30.0):
                while held[0]() is not None:  # noqa: ASYNC110 - a real connection is waited for
                    await asyncio.sleep(0.01)


async def test_answers_that_nobody_takes_are_bounded_together(answering: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four connections might otherwise hold one each, and a device has little memory."""
    size = UNSENT_BYTES_MAX * 2 // 3  # beyond what the system's own buffers hold

    async def large(_api: PredictApi, _request: Any, _form: str) -> bytes:
        return b'"%s"' % (b" " * (size - 2))

    monkeypatch.setattr(PredictApi, "_body", large)
    async with answering(timeout_s=60.0) as api:
        for _ in range(2):  # what was given back counts no more
            with socket.create_connection(("127.0.0.1", api.port)) as asker:
                asker.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(asker, b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert await loop.sock_recv(asker, 1000)
                status, content, headers = await api.ask("GET", "/v1/model")
                assert (status, headers["Retry-After"]) == (503, "1")
                assert (
                    content["error"] == f"{size} bytes of answers wait to be taken by those who asked: ask again later"
                )
            async with asyncio.timeout(30.0):
                while (await api.ask("GET", "/v1/model"))[0] != 200:  # noqa: ASYNC110 - a real connection is waited for
                    await asyncio.sleep(0.01)


async def test_nothing_tells_what_answers(answering: Any) -> None:
    async with answering() as api:
        answers = [
            await api.raw(b"GET /v1/model HTTP/1.0\r\nHost: localhost\r\n\r\n"),
            await api.raw(b"nonsense\r\n\r\n"),
            await api.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 10_000 + b"\r\n\r\n"),
            await api.raw(b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: 1\r\n" % n for n in range(100)) + b"\r\n"),
        ]
    assert [answer.split()[1] for answer in answers] == [b"200", b"400", b"400", b"400"]
    for answer in answers:
        assert b"Server: skerry\r\n" in answer
        assert not any(word in answer.lower() for word in (b"aiohttp", b"python", b"traceback", b"nonsense"))


async def test_a_connection_that_asks_nothing_is_closed(answering: Any) -> None:
    async with answering(timeout_s=0.2) as api:
        assert await api.raw(b"") == b""
        assert await api.raw(b"POST /v1/pre") == b""


async def test_connections_are_bounded(answering: Any) -> None:
    async with answering() as api:
        held = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(CONNECTIONS_MAX)]
        await asyncio.sleep(0.05)
        assert await api.raw(b"GET /v1/model HTTP/1.0\r\nHost: localhost\r\n\r\n") == b""
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.05)
        assert b"200 OK" in await api.raw(b"GET /v1/model HTTP/1.0\r\nHost: localhost\r\n\r\n")


async def test_no_bytes_break_it(answering: Any) -> None:
    rng = random.Random(5)
    body = json.dumps({"x": [ROW]}).encode()
    whole = HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body

    def broken() -> bytes:
        request = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            request[rng.randrange(len(request))] = rng.randrange(256)
        return bytes(request[: rng.randrange(1, len(request)) if rng.random() < 0.3 else len(request)])

    async with answering(timeout_s=0.3, queue_max=CONNECTIONS_MAX) as api:
        assert b"200 OK" in await api.raw(whole)
        for _ in range(3):
            asked = (api.raw(broken(), timeout_s=0.8) for _ in range(CONNECTIONS_MAX))  # at once: many of them wait
            for answer in await asyncio.gather(*asked):
                assert answer == b"" or (answer.startswith(b"HTTP/") and answer[8:13] != b" 500 "), answer[:80]
        assert (await api.post({"x": [ROW]}))[0] == 200


async def test_an_address_in_use_is_told(answering: Any) -> None:
    async with answering() as api:
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{api.port}: cannot listen"):
            async with serve(PredictApi(api.inference, lambda: None, 100), "127.0.0.1", api.port, 1.0):
                pass
