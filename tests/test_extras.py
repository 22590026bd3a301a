"""A plain installation, as a device has it: commands that need more say what, and do not break."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from skerry.errors import ConfigError
from skerry.extras import MODULES, Extra, require

ROOT = Path(__file__).resolve().parent.parent
ALL = sorted({module for modules in MODULES.values() for module in modules})


def plain(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command where no optional package can be imported."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules.update(dict.fromkeys({ALL}));"
        f"from {module} import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("coordinator.cli", ["run"], "this command needs onnx, prometheus-client: pip install '.[coordinator]'"),
        ("coordinator.cli", ["config", "check"], "this command needs onnx, prometheus-client: pip install '.["),
        ("coordinator.cli", ["status", "-c", "coordinator.toml"], "this command needs onnx, prometheus-client: "),
        (
            "testbed.cli",
            ["run", "quickstart"],
            "this command needs onnx, prometheus-client, matplotlib, rich: pip install '.[lab]' in a checkout",
        ),
        (
            "testbed.cli",
            ["report", "gone"],
            "this command needs onnx, prometheus-client, matplotlib, rich: pip install",
        ),
        (
            "skerry.cli",
            ["build", "builtin:mnist-fc", "-o", "x"],
            "building a bundle needs onnx, onnxscript, torch: pip",
        ),
    ],
)
def test_a_command_that_needs_more_says_what_to_install(
    module: str, arguments: list[str], said: str, tmp_path: Path
) -> None:
    (tmp_path / "coordinator.toml").write_text(
        'name = "a"\nregion = "r"\nbundle = "builtin:activity"\ninsecure = true\n'
    )
    result = plain(module, *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "lab-results").exists()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("coordinator.cli", ["run", "--help"]), ("testbed.cli", ["list"]), ("skerry.cli", ["list"])],
)
def test_what_needs_no_more_works(module: str, arguments: list[str], tmp_path: Path) -> None:
    result = plain(module, *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("extra", MODULES)
def test_the_packages_are_those_of_the_project(extra: Extra) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [re.split(r"[^a-z[\]-]", line)[0] for line in wanted[extra]]
    told = list(MODULES[extra].values())
    assert sorted(told) == sorted(name for one in names for name in _expanded(one))


def _expanded(name: str) -> list[str]:
    return list(MODULES["coordinator"].values()) if name == "skerry[coordinator]" else [name]


def test_only_what_is_needed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    require("coordinator", "exporting", modules=["onnx"])
    with pytest.raises(ConfigError, match="the service needs prometheus-client: pip"):
        require("coordinator", "the service")


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_pages_install_from_a_checkout(page: Path) -> None:
    """The product is on no package index yet: pip would find nothing, or what somebody else put there."""
    assert not re.search(r"pip install (-\S+ )*'?skerry\b", page.read_text())
