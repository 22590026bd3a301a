"""Small files of `/sys` and `/proc` below a root, read so that nothing they hold can raise."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

TEXT_BYTES_MAX = 64 << 10  # of one file; all that is read here is far smaller

T = TypeVar("T")

log = logging.getLogger(__name__)


def whole(text: str) -> int:
    """Return a decimal number as the kernel writes it.

    Raises:
        ValueError: it is none, or has more than 64 bits.
    """
    number = int(text)
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError("too large")
    return number


class KernelFiles:
    """Reads by path relative to `root`. What makes no sense is None, and one warning per file."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._warned: set[str] = set()

    def text(self, path: str) -> str | None:
        """Return the file without surrounding white space; None: it is not there, or the driver gives none now."""
        try:
            with (self._root / path).open("rb") as file:
                return file.read(TEXT_BYTES_MAX).decode(errors="replace").strip()
        except (OSError, ValueError):
            return None

    def parse(self, path: str, parse: Callable[[str], T]) -> T | None:
        """Return what `parse` makes of the file; None: it is not there, or `parse` raised ValueError or LookupError."""
        text = self.text(path)
        if text is None:
            return None
        try:
            return parse(text)
        except (ValueError, LookupError):
            if path not in self._warned:
                self._warned.add(path)
                log.warning("%s: makes no sense and is ignored: %.80r", self._root / path, text)
            return None

    def number(self, path: str) -> int | None:
        """Return the file's decimal number."""
        return self.parse(path, whole)

    def entries(self, folder: str, prefix: str = "") -> list[str]:
        """Return the paths of what is in `folder` and starts with `prefix`, sorted."""
        try:
            names = sorted(entry.name for entry in (self._root / folder).iterdir() if entry.name.startswith(prefix))
        except (OSError, ValueError):
            return []
        return [f"{folder}/{name}" for name in names]
