"""What the device's programs touch beside their own folders and their coordinator: nothing. The kernel is the witness.

Every process runs under strace, without ORT_DISABLE_TELEMETRY in its environment, as a person's shell would start it:
onnxruntime's wheel would write a device identity to the home folder and speak to its maker's server.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.history import read_history
from skerry import toml_file
from skerry.recipe import Recipe
from testbed.processes.federation import Federation
from testbed.scenario import Scenario

ROOT = Path(__file__).resolve().parents[2]
WORLD = """
name = "one-device"
description = "one region, one device at full speed"
central = {}

[[regions]]
name = "here"
coordinator = "here-1"
devices = [{ name = "device", profile = "jetson-orin-nano", link = {} }]
"""
QUICK = """
[local_steps]
rule = "fixed"
steps_per_cycle = 20
"""
DEVICES = {"/dev/null", "/dev/tty"}
# Every call that names a file or an address, and the ones that get round naming it to the kernel in a call of its own.
CALLS = "%file,connect,bind,sendto,sendmsg,sendmmsg,io_uring_setup"
READ_ONLY = re.compile(
    r"(access|faccessat2?|stat|lstat|newfstatat|statx|statfs|readlink|readlinkat|getcwd|chdir|execve|getxattr|lgetxattr"
    r"|inotify_add_watch)\("
)
OPENED_TO_READ = re.compile(r"open(at)?\(.*O_RDONLY(?!.*\b(O_CREAT|O_TRUNC)\b)")
NAMED = re.compile(r'(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, "(?P<inside>[^"]*)"|"(?P<path>[^"]*)"')
ADDRESS = re.compile(r'sa_family=AF_INET6?, sin6?_port=htons\((?P<port>\d+)\).*?"(?P<host>[0-9a-f.:]+)"')
FAMILY = re.compile(r"sa_family=(?P<family>\w+)")

pytestmark = pytest.mark.end_to_end


class Tracer:
    """Runs programs under strace with their home, caches and temporary files in an empty `home`."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self._calls = folder / "calls"
        self._calls.mkdir()
        self.prefix = (
            "strace",
            "-ff",
            "-qq",
            "-y",
            "-s",
            "4096",
            "-o",
            str(self._calls / "of"),
            "-e",
            f"trace={CALLS}",
        )

    def run(self, *command: str) -> None:
        """Run a program to its end, in the home folder."""
        done = subprocess.run([*self.prefix, *command], cwd=self.home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def written(self) -> set[str]:
        """Return every path that was opened for writing, made, renamed, removed or changed, also in vain."""
        return {
            path
            for call in self._traced()
            if not (
                READ_ONLY.match(call) or OPENED_TO_READ.match(call) or call.startswith(("connect(", "bind(", "send"))
            )
            for path in _paths(call, self.home)
        }

    def reached(self) -> set[str]:
        """Return every address that was named to a socket, `host:port` or the family of what is no internet address."""
        found = set()
        for call in self._traced():
            if (address := ADDRESS.search(call)) is not None:
                found.add(f"{address['host']}:{address['port']}")
            elif (family := FAMILY.search(call)) is not None:
                found.add(family["family"])
        return found

    def _traced(self) -> Iterator[str]:
        for file in self._calls.iterdir():
            for line in file.read_text(errors="replace").splitlines():
                if not line.startswith(("---", "+++")):
                    yield line


def _paths(call: str, cwd: Path) -> Iterator[str]:
    arguments = call.rpartition(" = ")[0]  # what a call returned may name a file, too
    for match in NAMED.finditer(arguments):
        named = match["path"] if match["path"] is not None else match["inside"]
        yield os.path.normpath(Path(match["folder"] or cwd) / named)


@pytest.fixture
def tracer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracer:
    if shutil.which("strace") is None:
        pytest.skip("strace is missing: apt-get install strace")
    tracer = Tracer(tmp_path)
    if subprocess.run([*tracer.prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("strace may not trace here: it needs the right to ptrace")
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tracer.home))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # a checkout's bytecode; an installation has its own already
    return tracer


def test_the_tracer_sees_what_it_is_there_for(tracer: Tracer) -> None:
    """Files by every way of writing, in a child process and in the runtime; connections and single datagrams."""
    code = f"""
import os, pathlib, socket, subprocess, sys
pathlib.Path("made").mkdir()
folder = os.open("made", os.O_RDONLY)
os.close(os.open("inside", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
pathlib.Path("made/inside").rename("renamed")
subprocess.run([sys.executable, "-c", "open('child', 'w')"], check=True)
pathlib.Path({str(ROOT / "README.md")!r}).read_text()
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("127.0.0.2", 9))
socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).connect_ex(("::1", 10))
socket.socket(socket.AF_UNIX).connect_ex("/nowhere")
"""
    tracer.run(sys.executable, "-c", code)
    home = tracer.home
    assert tracer.written() == {f"{home}/{path}" for path in ("made", "made/inside", "renamed", "child")}
    assert tracer.reached() == {"127.0.0.2:9", "::1:10", "AF_UNIX"}


async def test_an_agent_touches_its_own_folder_and_its_coordinator_only(tracer: Tracer, tmp_path: Path) -> None:
    federation = Federation(
        toml_file.parse(WORLD, Scenario, "world"),
        toml_file.parse(QUICK, Recipe, "recipe"),
        tmp_path / "lab",
        seed=1,
        agent_python=("env", "-u", "ORT_DISABLE_TELEMETRY", *tracer.prefix, sys.executable),
    )
    try:
        await federation.start()
        async with asyncio.timeout(40):
            while len(read_history(federation.state_dir("here-1")).updates) < 3:  # noqa: ASYNC110 - a real process
                await asyncio.sleep(0.05)
        port = federation.device_relays["device"].port
    finally:
        await federation.stop()
    state = str(federation.state_dir("device"))
    written = {path for path in tracer.written() - DEVICES if path != state and not path.startswith(f"{state}/")}
    assert not written
    assert tracer.reached() == {f"127.0.0.1:{port}"}
    assert f"{state}/state.db" in tracer.written()


def test_a_benchmark_touches_the_folder_whose_disk_it_times_only(tracer: Tracer, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    main = "from edge_agent.cli import main; main()"
    tracer.run(sys.executable, "-c", main, "bench", "--steps", "5", "--disk", str(disk))
    assert {path for path in tracer.written() if not path.startswith(str(disk))} == set()
    assert tracer.reached() == set()
    assert not list(disk.iterdir())


@pytest.mark.parametrize("arguments", [("show", "builtin:activity"), ("check", "builtin:activity")])
def test_a_look_at_a_bundle_touches_nothing(tracer: Tracer, arguments: tuple[str, ...]) -> None:
    tracer.run(sys.executable, "-c", "from skerry.cli import main; main()", *arguments)
    assert tracer.written() == set()
    assert tracer.reached() == set()
