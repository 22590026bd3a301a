"""The emulated interpreter, or a skip that says what is missing."""

from pathlib import Path

import pytest

from tests.arm64 import environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def emulated_python() -> Path:
    """Return an aarch64 interpreter that can be started like any other."""
    try:
        return environment.prepare(ROOT / "build" / "arm64", ROOT / "pyproject.toml")
    except environment.Unavailable as missing:
        pytest.skip(str(missing))
