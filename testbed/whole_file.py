"""Files that a reader finds whole, the old one or the new one, whenever they look."""

from pathlib import Path
from typing import Any

import msgspec


def write(path: Path, content: bytes) -> Path:
    """Write `content` beside `path` and rename it to that; return `path`. Not synced: a power cut may lose it."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(content)
    return beside.replace(path)


def write_json(path: Path, content: Any) -> Path:
    """Write `content`, a Struct or what JSON knows, indented for people."""
    return write(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
