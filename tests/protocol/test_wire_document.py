"""docs/wire_format.md names every message, field and limit that the code has."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from skerry.protocol import limits
from skerry.protocol.messages import (
    BroadcastId,
    BundleReference,
    Enrolling,
    FromAgent,
    FromCoordinator,
    FromPeer,
    ModelVersion,
    Part,
    PartialUpdate,
    Plan,
)

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire_format.md").read_text()
MESSAGES = sorted(
    {*get_args(FromAgent), *get_args(FromCoordinator), *get_args(FromPeer), *get_args(Enrolling)}, key=str
)


def row(name: str) -> str:
    """Return the table row that describes `name`."""
    found = re.search(rf"^\| `{name}`.*$", DOCUMENT, re.MULTILINE)
    assert found, f"docs/wire_format.md has no row for {name}"
    return found.group()


@pytest.mark.parametrize("message_type", MESSAGES)
def test_a_message_is_described_with_all_its_fields(message_type: Any) -> None:
    described = row(str(message_type.__struct_config__.tag))
    assert [field.name for field in msgspec.structs.fields(message_type) if f"`{field.name}`" not in described] == []


@pytest.mark.parametrize("nested", [ModelVersion, Part, Plan, BundleReference, PartialUpdate, BroadcastId])
def test_a_type_inside_messages_is_described_with_all_its_fields(nested: Any) -> None:
    described = row(nested.__name__)
    assert [field.name for field in msgspec.structs.fields(nested) if f"`{field.name}`" not in described] == []


def test_the_version_is_the_codes() -> None:
    assert DOCUMENT.startswith(f"# The wire format, version {limits.PROTOCOL_MAJOR}.{limits.PROTOCOL_MINOR}\n")
