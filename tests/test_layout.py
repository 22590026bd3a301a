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
    "skerry.identity": ("skerry.identity", "skerry.errors", "skerry.ownership"),
    "skerry.ownership": (),
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


def users_of(packages: set[str]) -> list[str]:
    """Every module of ours that imports one of `packages`, or something in it."""
    return [
        module_name(path)
        for path in SOURCES
        if not packages.isdisjoint(name.split(".")[0] for name in imported_modules(path))
    ]


def allowed_for(module: str) -> tuple[str, ...]:
    owner = max((name for name in MAY_IMPORT if module == name or module.startswith(f"{name}.")), key=len)
    return MAY_IMPORT[owner]


def is_allowed(name: str, module: str) -> bool:
    return any(
        name == package or name.startswith(f"{package}.") or package.startswith(f"{name}.")
        for package in allowed_for(module)
    )


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module} imports {name}"
        for path in SOURCES
        for module in [module_name(path)]
        for name in imported_modules(path)
        if name.split(".")[0] in OURS and not is_allowed(name, module)
    ]
    assert wrong == []


def test_torch_lives_in_training_only() -> None:
    users = users_of({"torch", "onnxscript"})
    assert users
    assert [module for module in users if not module.startswith("skerry.training")] == []


def test_protocol_and_algorithms_do_no_io() -> None:
    pure = ("skerry.protocol", "skerry.algorithms", "skerry.vector", "skerry.values")
    assert [module for module in users_of(FORBIDDEN_IN_PURE_CODE) if module.startswith(pure)] == []


@pytest.mark.parametrize("module", ["attempt", "connection", "flow", "host", "network", "path", "route", "wire"])
def test_the_model_of_the_network_knows_no_event_loop(module: str) -> None:
    used = {name.split(".")[0] for name in imported_modules(ROOT / "testbed" / "simulation" / f"{module}.py")}
    assert not used & (FORBIDDEN_IN_PURE_CODE - {"random", "socket"})  # draws from what it is seeded with; error codes


def test_nothing_unpickles() -> None:
    assert users_of({"pickle", "marshal", "shelve", "dill", "cloudpickle"}) == []


def test_one_module_imports_the_runtime() -> None:
    """The one that switches the runtime's telemetry off first; so every command does, and every test."""
    assert users_of({"onnxruntime"}) == ["skerry.training.onnx_engine"]


def test_the_runtime_is_silenced_before_it_is_imported() -> None:
    code = "import os, sys, skerry.training.onnx_engine as _; print(os.environ['ORT_DISABLE_TELEMETRY'], *sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    switch, *modules = result.stdout.split()
    assert switch == "1"
    assert "onnxruntime" not in modules


def test_a_file_is_one_noun() -> None:
    for path in SOURCES:
        assert path.stem not in {"utils", "helpers", "common", "manager", "misc"}, path
        assert len(path.read_text().splitlines()) <= 500, path


@pytest.mark.parametrize("service", ["edge_agent.service", "coordinator.service"])
def test_a_service_imports_neither_torch_nor_the_runtime(service: str) -> None:
    """Both are heavy: the runtime is loaded when there is something to run, torch only where it is asked for."""
    code = f"import sys, {service}; print(sorted({{'torch', 'onnxruntime', 'matplotlib', 'rich'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
