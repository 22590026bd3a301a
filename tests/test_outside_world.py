"""What the services take from the world comes in through their composition roots: nothing else reads it by itself.

That is what lets a simulation run them unchanged: the same seed gives the same run, to the last byte.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for package in ("coordinator", "edge_agent", "skerry") for path in (ROOT / package).rglob("*.py"))

# What differs between two runs of the same program: clocks, chance, other threads and processes, this machine.
MODULES = {
    "ctypes",
    "multiprocessing",
    "platform",
    "psutil",
    "random",
    "secrets",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "concurrent.futures",
    "time",
    "uuid",
}
CALLS = {
    "asyncio.create_subprocess_exec",
    "asyncio.create_subprocess_shell",
    "asyncio.to_thread",
    "date.today",
    "datetime.now",
    "datetime.today",
    "datetime.utcnow",
    "email.utils.localtime",
    "hash",
    "id",
    "np.random",
    "os.getloadavg",
    "os.getpid",
    "os.getrandom",
    "os.statvfs",
    "os.times",
    "os.urandom",
    "time.localtime",
}
METHODS = {"getaddrinfo", "run_in_executor", "st_atime", "st_ctime", "st_mtime", "st_mtime_ns", "st_ino"}

# file -> what it may use, and why a simulation need not care
SHELLS = {
    # composition roots: the defaults of their parameters
    "edge_agent/service.py": {"random", "time"},
    "coordinator/service.py": {"random", "time", "concurrent.futures"},
    # what these parameters replace
    "edge_agent/threads.py": {"threading", "time", "concurrent.futures", "run_in_executor"},
    "coordinator/listener.py": {"socket"},
    "coordinator/network.py": {"getaddrinfo", "socket"},
    "coordinator/threads.py": {"concurrent.futures", "run_in_executor"},
    "edge_agent/board.py": {"os.statvfs"},
    "edge_agent/vitals.py": {"ctypes", "os.getpid", "psutil"},
    # commands and what they alone use
    "coordinator/cli.py": {"random", "signal", "time"},
    "coordinator/enrolment/identity_commands.py": {"secrets", "time"},
    "coordinator/enrolment/operator_commands.py": {"secrets"},
    "coordinator/export.py": {"tempfile"},
    "edge_agent/bench.py": {"platform", "psutil", "tempfile", "time"},
    "edge_agent/cli.py": {"signal", "time"},
    "edge_agent/doctor.py": {"platform", "psutil", "tempfile", "time", "time.localtime"},
    "edge_agent/host_checks.py": {"ctypes", "os.statvfs", "socket"},
    "edge_agent/join_command.py": {"subprocess", "time"},
    "edge_agent/network_checks.py": {"getaddrinfo", "socket"},
    "edge_agent/status.py": {"psutil"},  # of another process: `skerry-agent status`
    "edge_agent/task_checks.py": {"st_ino"},
    "skerry/logging_setup.py": {"time"},
    "skerry/restart_delay.py": {"time"},
    "skerry/service_manager.py": {"os.getpid", "socket", "time"},
    # the type, or a generator that was handed in or seeded
    "edge_agent/backoff.py": {"random"},
    "edge_agent/choice_of_coordinator.py": {"random"},
    "edge_agent/bundle_file.py": {"random"},
    "edge_agent/progress.py": {"socket"},  # what the kernel counts
    "edge_agent/stream.py": {"random", "socket"},
    "edge_agent/credentials.py": {"random"},
    "skerry/renewal.py": {"random"},
    "coordinator/engine.py": {"random"},
    "coordinator/peers.py": {"random"},
    "coordinator/restore.py": {"random"},
    "coordinator/stream.py": {"socket"},
    "skerry/training/shuffle.py": {"random"},
    "skerry/training/onnx_engine.py": {"threading"},  # a lock
    # bundles are made on a workstation, before any run
    "skerry/training/check.py": {"np.random"},
    "skerry/training/form_choice.py": {"np.random", "time"},
    "skerry/training/gate.py": {"np.random"},
    "skerry/training/graph_export.py": {"id"},
}


def taken(source: str) -> set[str]:
    """Every name in MODULES, CALLS and METHODS that the source imports, or speaks of."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names} & MODULES
            case ast.ImportFrom(module=module) if module is not None:
                found |= {module} & MODULES
            case ast.Attribute(value=value, attr=attr):
                spoken_of = f".{ast.unparse(value)}.{attr}"
                found |= {call for call in CALLS if spoken_of.endswith(f".{call}")} | {attr} & METHODS
            case ast.Call(func=ast.Name(id=name)):
                found |= {name} & CALLS
    return found


def test_only_named_shells_touch_the_outside_world() -> None:
    found = {str(path.relative_to(ROOT)): taken(path.read_text()) for path in SOURCES}
    assert {name: names for name, names in found.items() if names} == SHELLS


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import time\n", "time"),
        ("def f():\n    from random import Random\n", "random"),
        ("import os\nos.urandom(4)\n", "os.urandom"),
        ("sorted(x, key=id)\nid(x)\n", "id"),
        ("path.stat().st_mtime\n", "st_mtime"),
        ("import datetime\ndatetime.datetime.now()\n", "datetime.now"),
        ("np.random.default_rng()\n", "np.random"),
    ],
)
def test_it_is_seen(source: str, name: str) -> None:
    assert name in taken(source)
