"""Namespaces on a bridge of their own: several hosts on one machine. Needs root; nothing is left behind."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

WAIT_S = 60.0


class Unavailable(Exception):  # noqa: N818 - not a failure
    """What this machine lacks, and how to get it."""


def need_root() -> None:
    """Refuse to go on as anybody else.

    Raises:
        Unavailable: this is not root.
    """
    if os.geteuid() != 0:
        raise Unavailable("namespaces and containers need root: run make as root")


def run_here(*command: str | Path, check: bool = True) -> str:
    """Run a command on the host; return what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(map(str, command))}\n{done.stdout}"
    return done.stdout


def wait_until(met: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
    """Look until `met` is true."""
    end_s = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < end_s, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.2)


class Network:
    """A bridge, and namespaces that hang on it; all of it goes with `remove`."""

    def __init__(self, name: str) -> None:
        """`name` is short: interfaces have 15 letters."""
        self.name = name
        self.namespaces: list[str] = []
        run_here("ip", "link", "add", self.name, "type", "bridge")
        run_here("ip", "link", "set", self.name, "up")

    def reach(self, address: str) -> None:
        """Give the machine itself an address on the bridge."""
        run_here("ip", "addr", "add", address, "dev", self.name)

    def add(self, name: str, address: str) -> str:
        """Return a new namespace with `address` (with prefix length) on the bridge."""
        namespace, outer = f"{self.name}-{name}", f"{self.name}{len(self.namespaces)}"
        run_here("ip", "netns", "add", namespace)
        self.namespaces.append(namespace)
        run_here("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run_here("ip", "link", "set", outer, "master", self.name, "up")
        for command in (
            ["link", "set", "lo", "up"],
            ["addr", "add", address, "dev", "eth0"],
            ["link", "set", "eth0", "up"],
        ):
            run_here("ip", "-n", namespace, *command)
        return namespace

    def cut(self, namespace: str) -> None:
        """Take a namespace off the network."""
        run_here("ip", "-n", namespace, "link", "set", "eth0", "down")

    def mend(self, namespace: str) -> None:
        """Put it back."""
        run_here("ip", "-n", namespace, "link", "set", "eth0", "up")

    def remove(self) -> None:
        """Take everything down."""
        for namespace in self.namespaces:
            run_here("ip", "netns", "delete", namespace, check=False)
        run_here("ip", "link", "delete", self.name, check=False)

    def shape(self, namespace: str, latency_s: float, bits_per_s: float) -> bool:
        """Let the kernel shape both directions of a namespace's link; False: it has no netem, and nothing was done."""
        outer = f"{self.name}{self.namespaces.index(namespace)}"
        for inside, device in ((["-n", namespace], "eth0"), ([], outer)):
            command = ["tc", *inside, "qdisc", "add", "dev", device, "root", "netem"]
            command += ["delay", f"{1e6 * latency_s:.0f}us", "rate", f"{bits_per_s:.0f}bit"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                assert "kind is unknown" in done.stderr, done.stderr
                return False
        return True

    def part(self, namespace: str, address: str) -> None:
        """Let nothing through from a namespace to an address; what else it reaches stays."""
        run_here("ip", "-n", namespace, "route", "add", "blackhole", f"{address}/32")

    def join(self, namespace: str, address: str) -> None:
        """Undo `part`."""
        run_here("ip", "-n", namespace, "route", "delete", "blackhole", f"{address}/32")
