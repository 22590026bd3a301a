"""What systemd hears of a service: by a real socket, and by the messages themselves."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from skerry.service_manager import STATUS_CHARS_MAX, ServiceManager, from_environment
from skerry.under_way import UnderWay

PID = 4711


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(tmp_path / "notify"))
    receiver.settimeout(5.0)
    return receiver


def test_messages_arrive_at_the_socket_that_systemd_names(listener: socket.socket, tmp_path: Path) -> None:
    with listener:
        manager = from_environment({"NOTIFY_SOCKET": str(tmp_path / "notify")}, PID)
        manager.ready("region eu")
        assert listener.recv(4096) == b"READY=1\nSTATUS=region eu"
        manager.alive()
        assert listener.recv(4096) == b"WATCHDOG=1"
        manager.reloading()
        first, second = listener.recv(4096).decode().split("\n")
        assert first == "RELOADING=1"
        assert int(second.removeprefix("MONOTONIC_USEC=")) > 0
        manager.stopping()
        assert listener.recv(4096) == b"STOPPING=1\nSTATUS=stopping"


def test_a_socket_outside_the_file_system_is_reached_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5.0)
        receiver.bind("")  # the kernel picks an abstract name
        address = receiver.getsockname()
        from_environment({"NOTIFY_SOCKET": "@" + address[1:].decode()}, PID).status("fine")
        assert receiver.recv(4096) == b"STATUS=fine"


def test_without_systemd_nothing_is_said() -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}):
        manager = from_environment(environment, PID)
        manager.ready("fine")
        assert manager.watchdog_s is None


def test_a_socket_that_is_gone_ends_no_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")}, PID).ready("fine")
    assert "systemd cannot be told READY=1" in caplog.text


@pytest.mark.parametrize(
    ("more", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(PID)}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),  # of another process
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_only_if_systemd_says_so(more: dict[str, str], watchdog_s: float | None) -> None:
    assert from_environment({"NOTIFY_SOCKET": "@x", **more}, PID).watchdog_s == watchdog_s


def test_a_status_cannot_smuggle_in_another_message() -> None:
    sent: list[bytes] = []
    ServiceManager(sent.append).status("fine\nWATCHDOG=1\n" + "x" * 1000)
    assert sent == [b"STATUS=" + ("fine WATCHDOG=1 " + "x" * 1000)[:STATUS_CHARS_MAX].encode()]


class Loop:
    """Messages with what the test's own work looked like when each was sent."""

    def __init__(self, watchdog_s: float | None) -> None:
        self.sent: list[bytes] = []
        self.heard = asyncio.Event()
        self.manager = ServiceManager(self._take, watchdog_s)

    def _take(self, message: bytes) -> None:
        self.sent.append(message)
        self.heard.set()

    async def next(self) -> bytes:
        self.heard.clear()
        await asyncio.wait_for(self.heard.wait(), 5.0)
        return self.sent[-1]


async def test_the_watchdog_is_fed_until_something_is_stuck_and_again_once_it_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = asyncio.get_running_loop().time
    under_way = UnderWay(clock, stuck_s=0.0)
    world = Loop(watchdog_s=0.003)
    keeping = asyncio.create_task(world.manager.keep(under_way))
    assert await world.next() == b"WATCHDOG=1"
    assert await world.next() == b"WATCHDOG=1"
    with under_way.doing("a local step"):
        while (await world.next()).startswith(b"WATCHDOG"):
            pass
        fed = world.sent.count(b"WATCHDOG=1")
        assert (await world.next()).startswith(b"STATUS=a local step has not ended for")
        assert world.sent.count(b"WATCHDOG=1") == fed
    assert "a local step has not ended" in caplog.text
    while await world.next() != b"WATCHDOG=1":
        pass
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping


async def test_without_a_watchdog_there_is_nothing_to_feed() -> None:
    world = Loop(watchdog_s=None)
    await world.manager.keep(UnderWay(asyncio.get_running_loop().time))
    assert world.sent == []
