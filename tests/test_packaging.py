"""The Debian packages: scripts that a shell understands, files that there are. `make test-systemd` installs them."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "packaging" / "scripts").iterdir())


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_deb", ROOT / "packaging" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / "systemd" / "skerry-agent-limits"], ids=lambda path: path.name)
def test_a_shell_understands_each_script(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", script], check=True)


def test_there_is_a_script_for_each_moment() -> None:
    assert [script.name for script in SCRIPTS] == ["postinst", "postrm", "prerm"]


def test_what_a_package_takes_is_there(recipe: ModuleType) -> None:
    for package in recipe.PACKAGES.values():
        files = [ROOT / "systemd" / f"{package.name}.service", ROOT / "packaging" / package.config]
        files += [ROOT / "docs" / name for name in package.docs]
        assert [file for file in files if not file.is_file()] == []
        assert set(package.linked) <= set(package.commands)
        assert set(package.without) < set(recipe.SOURCES)
        for module in package.commands.values():
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
            assert module.partition(".")[0] not in package.without


def test_a_package_has_every_page_that_its_own_page_links_to(recipe: ModuleType) -> None:
    for package in recipe.PACKAGES.values():
        page = (ROOT / "docs" / f"{package.name.removeprefix('skerry-')}.md").read_text()
        linked = set(re.findall(r"\]\(([a-z_]+\.md)", page))
        assert linked
        assert linked <= set(package.docs)


def test_two_packages_never_own_the_same_file(recipe: ModuleType, tmp_path: Path) -> None:
    owned: list[set[Path]] = []
    for package in recipe.PACKAGES.values():
        root = tmp_path / package.name
        recipe.files(package, root)
        owned.append({path.relative_to(root) for path in root.rglob("*") if path.is_file()})
    assert owned[0] & owned[1] == set()


def test_the_control_file_and_the_scripts_speak_of_the_package(recipe: ModuleType, tmp_path: Path) -> None:
    package = recipe.PACKAGES["skerry-coordinator"]
    recipe.files(package, tmp_path)
    recipe.normalise(tmp_path)
    recipe.control(package, "arm64", "1.2", tmp_path)
    control = (tmp_path / "DEBIAN" / "control").read_text()
    assert "Package: skerry-coordinator\nVersion: 1.2\nArchitecture: arm64\n" in control
    assert "systemd (>= 249)" in control  # Ubuntu 22.04's; tests/test_units.py holds the units to it
    assert (tmp_path / "DEBIAN" / "conffiles").read_text() == "/etc/skerry/coordinator.toml\n"
    for script in SCRIPTS:
        assert "@" not in (tmp_path / "DEBIAN" / script.name).read_text()
    assert "/var/lib/skerry/coordinator" in (tmp_path / "DEBIAN" / "postrm").read_text()
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert (modes["coordinator.toml"], modes["postinst"]) == (0o644, 0o755)


@pytest.mark.parametrize("name", ["agent.toml", "coordinator.toml"])
def test_the_configuration_that_is_installed_can_be_read(name: str) -> None:
    text = (ROOT / "packaging" / name).read_text()
    tomllib.loads(text)
    tomllib.loads("\n".join(line.removeprefix("# ") for line in text.splitlines()[3:]))
