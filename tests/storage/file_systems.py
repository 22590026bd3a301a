"""Real file systems that are too small, or that the kernel has made read-only. They need root; without it, a skip."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _mount(*arguments: str) -> None:
    tried = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"cannot mount here: {tried.stderr.strip()}")


@contextmanager
def _mounted(folder: Path, *arguments: str) -> Iterator[None]:
    folder.mkdir()
    _mount(*arguments, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class FullFileSystem:
    """One of a megabyte, in memory."""

    failure = "full: free space"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "small"
        self.mounted = _mounted(self.folder, "-t", "tmpfs", "-o", "size=1m", "tmpfs")

    def fail(self) -> None:
        """Nothing: it fills up by itself."""

    def mend(self) -> None:
        """Make room."""
        _mount("-o", "remount,size=64m", str(self.folder))


class ReadOnlyFileSystem:
    """An ext4 that the kernel takes away from writers in mid-work, as it does with a card that fails."""

    failure = "disk I/O error: the disk fails|readonly database|read-only|unable to open"

    def __init__(self, folder: Path) -> None:
        self.folder, image = folder / "ext4", folder / "ext4.img"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        try:
            subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"cannot make an ext4 here: {error}")
        self._image = image
        self.mounted = _mounted(self.folder, "-o", "loop", str(image))

    def fail(self) -> None:
        """Have the kernel give the file system up, open files and all."""
        _mount("-o", "remount,abort", str(self.folder))

    def mend(self) -> None:
        """Replay its journal, as a reboot does; nobody may have a file open."""
        subprocess.run(["umount", str(self.folder)], check=True)
        subprocess.run(["e2fsck", "-fp", str(self._image)], check=False, capture_output=True)
        _mount("-o", "loop", str(self._image), str(self.folder))


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder of a file system that is mounted read-only, with what `folder` holds."""
    place = folder.with_name(f"{folder.name}-read-only")
    with _mounted(place, "--bind", str(folder)):
        _mount("-o", "remount,ro,bind", str(place))
        yield place
