"""Tells systemd how a service is doing, over the socket that it named; says nothing where no systemd asked.

The messages are those of sd_notify(3).
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from skerry.under_way import UnderWay

STATUS_CHARS_MAX = 200
FEEDS_PER_TIMEOUT = 3  # so often in the time after which systemd gives a silent service up

log = logging.getLogger(__name__)

Send = Callable[[bytes], None]


class ServiceManager:
    """What waits for news of this service."""

    def __init__(self, send: Send | None = None, watchdog_s: float | None = None) -> None:
        """`send` takes one datagram, None: nobody listens; `watchdog_s`: the longest silence, None: any is fine."""
        self._send = send
        self.watchdog_s = watchdog_s

    def ready(self, status: str) -> None:
        """The service is up, or done with a reload; `status` is what `systemctl status` shows."""
        self._tell("READY=1", f"STATUS={_one_line(status)}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is on its way out, in good order."""
        self._tell("STOPPING=1", "STATUS=stopping")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell("WATCHDOG=1")

    def status(self, status: str) -> None:
        """Say how things stand, for `systemctl status`."""
        self._tell(f"STATUS={_one_line(status)}")

    async def keep(self, under_way: UnderWay) -> None:
        """Feed the watchdog for as long as nothing in `under_way` is stuck; the event loop itself is what feeds it.

        A loop that hangs feeds nothing, and neither does one whose trainer or disk has hung. Returns at once where
        there is no watchdog.
        """
        if self.watchdog_s is None:
            return
        clock = asyncio.get_running_loop().time
        while True:
            trouble = under_way.stuck(clock())
            if trouble is None:
                self.alive()
            else:
                log.critical("%s; the watchdog will end this process, and systemd starts it again", trouble)
                self.status(trouble)
            await asyncio.sleep(self.watchdog_s / FEEDS_PER_TIMEOUT)

    def _tell(self, *lines: str) -> None:
        if self._send is None:
            return
        try:
            self._send("\n".join(lines).encode())
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", lines[0], error.strerror)


def from_environment(environment: Mapping[str, str], pid: int) -> ServiceManager:
    """Return the service manager that started this process, by NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return ServiceManager()
    return ServiceManager(_sender(address), _watchdog_s(environment, pid))


def of_this_process() -> ServiceManager:
    """Return the service manager that started this process."""
    return from_environment(os.environ, os.getpid())


def _sender(address: str) -> Send:
    """Return what sends a datagram to `address`; @ begins a name outside the file system."""
    target = "\0" + address[1:] if address.startswith("@") else address

    def send(message: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.setblocking(False)  # better a message lost, and said so, than a loop that waits for systemd
            connection.sendto(message, target)

    return send


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None  # meant for another process of the unit
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isascii() and microseconds.isdigit() and int(microseconds) else None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:STATUS_CHARS_MAX]
