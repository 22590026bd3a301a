"""What holds for every test."""

import gc
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from skerry import database
from tests.secrets_in_output import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]

MEMORY, ROOM_BYTES = Path("/dev/shm"), 1 << 30

# How long an example takes, and to make one, is the machine's affair: it may run other tests beside.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure() -> None:
    """Keep the tests' folders in memory where there is room: nearly all the time of many tests is syncs of a disk.

    What a sync is there for, a test cannot see: what is written outlives every process. Power cuts are simulated.
    """
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
        system = os.statvfs(MEMORY)
        if system.f_bavail * system.f_frsize >= ROOM_BYTES and not system.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while thousands of tests are made, nor ever among what lasts as long as they do."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of real processes: they take longest, and wait while others compute."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is None)


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """Return an empty folder that is no memory, as far as the system's folder for temporary files is not."""
    with tempfile.TemporaryDirectory(prefix="skerry-test-") as folder:
        yield Path(folder)


@pytest.fixture
def later_schema(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets services find one schema more than there is: what they opened before is migrated by this script."""

    def add(script: str) -> None:
        schema = database._schema
        monkeypatch.setattr(database, "_schema", lambda package: [*schema(package), script])

    return add
