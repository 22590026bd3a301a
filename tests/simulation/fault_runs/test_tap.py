"""What passes on a wire is put together again, however it is cut, and told apart from what is no message of ours."""

import random

import pytest

from skerry.protocol import frames
from skerry.protocol.messages import BroadcastId, Heartbeat, Hello, PeerStatus, TokenPassed, TokenTaken
from tests.simulation.fault_runs.tap import Said, Tap

UPGRADE = b"GET /v1/agents/stream HTTP/1.1\r\nHost: c1\r\nUpgrade: websocket\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
HELLO = Hello(
    protocol_major=1,
    protocol_minor=0,
    device="d1",
    agent_version="x" * 200,  # longer than the short form of a frame
    profile="",
    bundle=None,
    base=None,
    last_sequence=3,
    seconds_per_step=None,
)
TOKEN = TokenPassed("c1", BroadcastId(1, 2), {"c1": 3.0})
TAKEN = TokenTaken(BroadcastId(1, 2))


def websocket(payload: bytes, key: bytes | None, opcode: int = 2) -> bytes:
    """One frame, as RFC 6455 says."""
    size = bytes([len(payload)]) if len(payload) < 126 else bytes([126]) + len(payload).to_bytes(2, "big")
    if key is None:
        return bytes([0x80 | opcode]) + size + payload
    masked = bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))
    return bytes([0x80 | opcode, 0x80 | size[0]]) + size[1:] + key + masked


def http(head: str, body: bytes) -> bytes:
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def heard(pieces: list[tuple[str, bytes]]) -> list[Said]:
    found: list[Said] = []
    tap = Tap(found.append)
    for flow, data in pieces:
        tap(flow, data)
    return found


def cut(data: bytes, draws: random.Random) -> list[bytes]:
    ends = sorted({draws.randrange(1, len(data)) for _ in range(draws.randrange(6))} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("seed", range(50))
def test_a_stream_is_heard_both_ways_however_it_is_cut(seed: int) -> None:
    draws = random.Random(seed)
    there = UPGRADE + websocket(frames.encode(HELLO), b"abcd") + websocket(b"are you there?", b"efgh", opcode=9)
    there += websocket(frames.encode(Heartbeat(1.0)), b"\0\1\2\3")
    back = UPGRADED + websocket(frames.encode(Heartbeat(1.0)), None)
    pieces = [("d1>c1#4 there", piece) for piece in cut(there, draws)]
    pieces += [("d1>c1#4 back", piece) for piece in cut(back, draws)]
    found = heard(pieces)
    assert [one.message for one in found] == [HELLO, Heartbeat(1.0), Heartbeat(1.0)]
    assert [one.to_server for one in found] == [True, True, False]
    assert found[0].frame == frames.encode(HELLO)
    assert {(one.client, one.server) for one in found} == {("d1", "c1")}


@pytest.mark.parametrize("seed", range(50))
def test_peers_are_heard_and_error_pages_and_bundles_are_not(seed: int) -> None:
    draws = random.Random(seed)
    status = PeerStatus("c2", "r", "r/00000000", 1, 1.0, "0" * 64, BroadcastId(0, 0), 2)
    conversation = [
        ("there", http("POST /v1/federation/token HTTP/1.1", frames.encode(TOKEN))),
        ("back", http("HTTP/1.1 503 Service Unavailable", b"stopping")),
        ("there", b"GET /v1/federation/status HTTP/1.1\r\nHost: c2\r\n\r\n"),
        ("back", http("HTTP/1.1 200 OK", frames.encode(status))),
        ("there", b"GET /v1/bundles/00 HTTP/1.1\r\n\r\n"),
        ("back", http("HTTP/1.1 200 OK", b"PK a bundle")),
        ("there", http("POST /v1/federation/token HTTP/1.1", frames.encode(TOKEN))),
        ("back", http("HTTP/1.1 200 OK", frames.encode(TAKEN))),
    ]
    pieces = [(f"c1>c2#1 {way}", piece) for way, data in conversation for piece in cut(data, draws)]
    assert [one.message for one in heard(pieces)] == [TOKEN, status, TOKEN, TAKEN]


def test_an_answer_that_refuses_a_stream_is_no_frame_of_it() -> None:
    page = b"\x82\x05an error page, which looks like a frame"
    answer = http("HTTP/1.1 503 Service Unavailable", page)
    assert heard([("d1>c1#1 there", UPGRADE), ("d1>c1#1 back", answer)]) == []


def test_connections_are_kept_apart() -> None:
    first, second = websocket(frames.encode(HELLO), b"abcd"), websocket(frames.encode(Heartbeat(2.0)), b"abcd")
    found = heard(
        [
            ("d1>c1#1 there", UPGRADE + first[:9]),
            ("d2>c1#1 there", UPGRADE + second),
            ("d1>c1#1 there", first[9:]),
        ]
    )
    assert [(one.connection, one.message) for one in found] == [("d2>c1#1", Heartbeat(2.0)), ("d1>c1#1", HELLO)]
