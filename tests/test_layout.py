"""The tree's layers hold: imports point one way, and heavy modules stay where they belong."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# package -> the project's packages that it may import; the longest matching name counts
MAY_IMPORT = {
    "skerry": ("skerry",),
    "skerry.protocol": ("skerry.protocol", "skerry.errors", "skerry.vector", "skerry.values"),
    "skerry.algorithms": ("skerry.algorithms", "skerry.errors", "skerry.vector", "skerry.values"),
    "skerry.errors": (),
    "skerry.vector": (),
    "skerry.identity": ("skerry.identity", "skerry.errors"),
    "skerry.values": ("skerry.vector",),
    "skerry.refusal": (),
    "skerry.extras": ("skerry.errors",),
    "skerry.tasks": (
        "skerry.tasks",
        "skerry.algorithms",
        "skerry.protocol",
        "skerry.errors",
        "skerry.extras",
        "skerry.vector",
    ),
    "skerry.training": (
        "skerry.training",
        "skerry.tasks",
        "skerry.algorithms",
        "skerry.protocol",
        "skerry.errors",
        "skerry.extras",
        "skerry.refusal",
        "skerry.vector",
    ),
    "profiles": (),
    "coordinator": ("coordinator", "skerry"),
    "edge_agent": ("edge_agent", "skerry", "profiles"),
    "testbed": ("testbed", "coordinator", "edge_agent", "skerry", "profiles"),
}
OURS = ("coordinator", "edge_agent", "skerry", "testbed", "profiles", "benchmarks", "tests")
FORBIDDEN_IN_PURE_CODE = {"asyncio", "aiohttp", "sqlite3", "socket", "time", "threading", "subprocess", "random", "os"}
SOURCES = sorted(
    path
    for package in ("coordinator", "edge_agent", "skerry", "testbed", "profiles")
    for path in (ROOT / package).rglob("*.py")
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imported_modules(path: Path) -> frozenset[str]:
    """Every module that the file imports, anywhere in it: also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            if node.module in OURS or (node.module or "").startswith("skerry"):
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def allowed_for(module: str) -> tuple[str, ...]:
    owner = max((name for name in MAY_IMPORT if module == name or module.startswith(f"{name}.")), key=len)
    return MAY_IMPORT[owner]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    allowed = allowed_for(module_name(path))
    for name in imported_modules(path):
        if name.split(".")[0] in OURS:
            ours = any(
                name == package or name.startswith(f"{package}.") or package.startswith(f"{name}.")
                for package in allowed
            )
            assert ours, f"{module_name(path)} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_torch_lives_in_training_only(path: Path) -> None:
    if not module_name(path).startswith("skerry.training"):
        assert not any(name.split(".")[0] in {"torch", "onnxscript"} for name in imported_modules(path))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_protocol_and_algorithms_do_no_io(path: Path) -> None:
    if module_name(path).startswith(("skerry.protocol", "skerry.algorithms", "skerry.vector", "skerry.values")):
        used = {name.split(".")[0] for name in imported_modules(path)}
        assert not used & FORBIDDEN_IN_PURE_CODE


@pytest.mark.parametrize("module", ["attempt", "connection", "flow", "host", "network", "path", "route", "wire"])
def test_the_model_of_the_network_knows_no_event_loop(module: str) -> None:
    used = {name.split(".")[0] for name in imported_modules(ROOT / "testbed" / "simulation" / f"{module}.py")}
    assert not used & (FORBIDDEN_IN_PURE_CODE - {"random", "socket"})  # draws from what it is seeded with; error codes


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nothing_unpickles(path: Path) -> None:
    assert not imported_modules(path) & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_one_module_imports_the_runtime(path: Path) -> None:
    """The one that switches the runtime's telemetry off first; so every command does, and every test."""
    if module_name(path) != "skerry.training.onnx_engine":
        assert not any(name.split(".")[0] == "onnxruntime" for name in imported_modules(path))


def test_the_runtime_is_silenced_before_it_is_imported() -> None:
    code = "import os, sys, skerry.training.onnx_engine as _; print(os.environ['ORT_DISABLE_TELEMETRY'], *sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    switch, *modules = result.stdout.split()
    assert switch == "1"
    assert "onnxruntime" not in modules


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_file_is_one_noun(path: Path) -> None:
    assert path.stem not in {"utils", "helpers", "common", "manager", "misc"}
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize("service", ["edge_agent.service", "coordinator.service"])
def test_a_service_imports_neither_torch_nor_the_runtime(service: str) -> None:
    """Both are heavy: the runtime is loaded when there is something to run, torch only where it is asked for."""
    code = f"import sys, {service}; print(sorted({{'torch', 'onnxruntime', 'matplotlib', 'rich'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
