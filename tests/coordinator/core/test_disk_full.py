"""A disk without room: the engine stops with the reason, acknowledges nothing it could not write, and loses nothing."""

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.engine import Engine
from coordinator.history import read_history
from skerry.algorithms.arrival import Constant
from skerry.algorithms.federation import NoFederation
from skerry.errors import StorageError
from skerry.protocol.messages import ModelVersion
from skerry.recipe import Recipe

RECIPE = Recipe(arrival=Constant(weight=1.0), federation=NoFederation())
ROOM_BYTES = 1 << 20

Disk = tuple[Path, Callable[[], AbstractContextManager[None]]]


@contextmanager
def _no_file_above_the_limit() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES // 4, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@pytest.fixture(params=["small file system", "file size limit"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A folder with room for about a megabyte, and a context in which that holds."""
    if request.param == "file size limit":
        yield tmp_path, _no_file_above_the_limit
        return
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs", str(folder)]
    tried = subprocess.run(mount, check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no tmpfs here: {tried.stderr.strip()}")
    try:
        yield folder, _as_it_is
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_stops_the_engine_and_costs_nothing_that_was_acknowledged(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, small_disk: Disk
) -> None:
    folder, limited = small_disk
    config, outlet = config_of(RECIPE, state_dir=folder / "state"), new_listener()
    with limited():
        with pytest.raises(StorageError, match=r"full|I/O|disk") as refused:
            await _fill(open_engine(config, outlet), outlet, words)
        assert refused.value.exit_code == 3
    acknowledged = outlet.accepted()
    assert 0 < len(acknowledged) < 9_999
    rows = {row.sequence: row for row in read_history(config.state_dir).updates}
    for message in acknowledged:
        assert rows[message.sequence].version == message.version
    expected = words.initial()
    for sequence in sorted(rows):
        words.update("kite", sequence, ModelVersion("", 0)).vector.add_to(expected)

    if folder.name == "small":
        grow = ["mount", "-o", f"remount,size={64 * ROOM_BYTES}", str(folder)]
        subprocess.run(grow, check=True)  # noqa: ASYNC221 - nothing else is going on
    again = new_listener()
    async with open_engine(config, again) as engine:
        assert engine.version.number == len(rows)
        assert np.array_equal(engine.model().values, expected)
        engine.submit(words.update("kite", len(rows) + 1, engine.version))
        await again.until_accepted(1)


async def _fill(opening: AbstractAsyncContextManager[Engine], outlet: Any, words: Any) -> None:
    """Offer updates until the engine stops."""
    async with opening as engine:
        for sequence in range(1, 10_000):
            engine.submit(words.update("kite", sequence, engine.version))
            if sequence % 50 == 0:
                await outlet.until_accepted_or_stopped(sequence)
            if outlet.running.done():
                return
