"""A whole federation over mutual TLS, by real commands and processes: made, joined, trained, renewed, one shut out."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from coordinator.history import read_history
from skerry.identity.certificate import der_of, identify
from skerry.identity.key_file import CERTIFICATE, ROOT, IdentityFolder

pytestmark = pytest.mark.end_to_end
CERTIFICATE_S = {"eu": 30.0, "us": 60.0}  # of a device, by who signs it: renewed when half of it is over
PATIENCE_S = 60.0
COORDINATOR = """
name = "{name}"
region = "{name}"
bundle = "builtin:activity"
state_dir = "{folder}/{name}"
peers_wait_s = 1.0  # the first of them has no peer yet

[peers]
{peer} = "https://localhost:{peer_port}"

[listen]
port = {port}

[enrolment]
device_certificate_s = {certificate_s}

[recipe.local_steps]
rule = "cycle"
steps_median = 20
cycle_min_s = 0.2
"""
AGENT = """
state_dir = "{folder}/{name}"
roam = false  # both are as near here: which region a device is in would be chance

[training]
duty_cycle = 0.2

[policy]
enabled = false
"""


class World:
    """A folder, the processes that run in it, and all that they and the commands have said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.said: list[str] = []
        self.ports: dict[str, int] = {}
        self.tokens: list[str] = []
        with contextlib.ExitStack() as sockets:  # held open together, so that the two differ
            for name in ("eu", "us"):
                one = sockets.enter_context(socket.socket())
                one.bind(("127.0.0.1", 0))
                self.ports[name] = one.getsockname()[1]

    def configure(self) -> None:
        for name, peer in (("eu", "us"), ("us", "eu")):
            text = COORDINATOR.format(
                name=name,
                folder=self.folder,
                port=self.ports[name],
                peer=peer,
                peer_port=self.ports[peer],
                certificate_s=CERTIFICATE_S[name],
            )
            (self.folder / f"{name}.toml").write_text(text)
        for name in ("pi-1", "pi-2"):
            (self.folder / f"{name}.toml").write_text(AGENT.format(folder=self.folder, name=name))

    def url(self, name: str) -> str:
        return f"https://localhost:{self.ports[name]}"

    def command(self, module: str, *arguments: object, code: int = 0) -> str:
        """Run one command to its end; return its standard output."""
        done = subprocess.run(
            [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
            env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
        )
        told = done.stdout + done.stderr
        assert done.returncode == code, told
        # The one place where a join token belongs.
        self.said.append(done.stderr if "create" in arguments else told)
        return done.stdout if code == 0 else told

    def config(self, name: str) -> tuple[str, Path]:
        return "--config", self.folder / f"{name}.toml"

    def token(self, name: str, *options: object) -> Path:
        """Make a join token at a coordinator; return its file."""
        path = self.folder / f"token-{len(self.tokens)}.txt"
        text = self.command("coordinator.cli", "token", "create", *options, *self.config(name)).strip()
        path.write_text(text)
        self.tokens.append(text)
        return path

    def start(self, module: str, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", f"from {module} import main; main()", "run", *map(str, self.config(name))],
                stdout=log,
                stderr=log,
                env=os.environ | {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("coordinator.cli", "status", "--json", *self.config(name)))
        return found

    def updates(self, device: str) -> int:
        """Return how many there are in the journals: a stream that ends with its certificate may go on elsewhere."""
        rows = chain.from_iterable(read_history(self.folder / name).updates for name in self.ports)
        return sum(row.device == device for row in rows)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            logs = "\n".join(f"{name}: {self.log(name)[-1500:]}" for name in self.processes)
            assert time.monotonic() < deadline, logs
            time.sleep(0.1)

    def serial(self, name: str) -> str:
        folder = IdentityFolder(self.folder / name / "identity")
        root = folder.certificates(ROOT)[0]
        return identify(der_of(folder.certificates(CERTIFICATE)[0]), root).serial

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    found.configure()
    yield found
    found.stop()


def secrets_of(world: World) -> list[str]:
    """Return what must appear nowhere but in its own file: join tokens, and the body of every private key."""
    keys = [path.read_text() for path in world.folder.rglob("*key.pem")]
    assert len(keys) >= 8  # eu: own, issuer, root, operator; us: own, issuer; two devices
    return world.tokens + [line for key in keys for line in key.splitlines()[1:-1]]


@pytest.mark.timeout(600)
def test_a_federation_from_nothing_to_a_device_that_is_thrown_out(world: World) -> None:
    world.command("coordinator.cli", "init", *world.config("eu"))
    assert "has no identity" in world.command("coordinator.cli", "config", "check", *world.config("us"), code=7)
    world.start("coordinator.cli", "eu")
    world.until(lambda: "listening" in world.log("eu"))

    token = world.token("eu", "--role", "coordinator")
    world.command("coordinator.cli", "join", world.url("eu"), "--token-file", token, *world.config("us"))
    world.start("coordinator.cli", "us")
    world.until(lambda: world.status("eu")["peer_troubles"]["us"] is None)

    assert "join" in world.command("edge_agent.cli", "run", *world.config("pi-1"), code=7)
    for device, region in (("pi-1", "eu"), ("pi-2", "us")):
        token = world.token(region)
        join = ["join", world.url(region), "--token-file", token, *world.config(device)]
        join += ["--data", "builtin:activity?part=0&parts=6", "--device", device]
        world.command("edge_agent.cli", *join)
        world.start("edge_agent.cli", device)
    first = world.serial("pi-1")
    world.command("edge_agent.cli", *join)  # as if the answer had been lost
    world.until(lambda: world.updates("pi-1") >= 2)
    world.until(lambda: world.updates("pi-2") >= 2)
    world.command("edge_agent.cli", "doctor", *world.config("pi-1"))

    world.command("coordinator.cli", "devices", "revoke", "pi-2", "--yes", *world.config("us"))
    world.until(lambda: world.processes["pi-2"].poll() is not None)
    assert world.processes["pi-2"].poll() == 7
    assert "revoked" in world.log("pi-2")
    elsewhere = world.folder / "pi-2.toml"  # the other region has heard of it
    elsewhere.write_text(f'coordinators = ["{world.url("eu")}"]\n' + elsewhere.read_text())
    assert "revoked" in world.command("edge_agent.cli", "run", *world.config("pi-2"), code=7)

    world.until(lambda: world.serial("pi-1") != first)  # behind all else: it takes a while
    renewed_at = world.updates("pi-1")
    world.until(lambda: world.updates("pi-1") > renewed_at + 2)
    assert world.processes["pi-1"].poll() is None
    world.stop()
    told = "\n".join([*world.said, *(world.log(name) for name in world.processes)])
    assert len(told) > 1000
    for secret in secrets_of(world):
        assert secret not in told
    assert not re.search("PRIVATE KEY", told)
