"""Machines with a systemd, or a skip that says what is missing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.network import Network, Unavailable
from tests.systemd import packages
from tests.systemd.machine import Machine, base, machine

FOLDER = Path(__file__).resolve().parents[2] / "build" / "systemd"


@pytest.fixture(scope="session")
def debian() -> Path:
    """Return the root of a fresh Debian 12."""
    try:
        return base(FOLDER)
    except Unavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def debs(debian: Path) -> dict[str, Path]:
    """Return the packages by name."""
    return packages.build()


@pytest.fixture(scope="module")
def network(debian: Path) -> Iterator[Network]:
    """Return a network of the module's own."""
    made = Network("sk")
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def board(debian: Path, network: Network) -> Iterator[Machine]:
    """Return one running machine; nothing of ours is installed."""
    with machine("skerry-board", debian, FOLDER, network.add("board", "10.77.0.2/24")) as running:
        yield running
