"""What a device keeps of its join beside its certificate: its name, whom to stream to, and where its data is."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from skerry.errors import ConfigError
from skerry.protocol.messages import Name, Url

FILE_NAME = "enrolment.json"
FILE_BYTES_MAX = 64 << 10


class Enrolment(msgspec.Struct, frozen=True):
    """`enrolment.json`; what the agent's configuration says goes before it."""

    device: Name
    region: Name
    coordinators: Annotated[tuple[Url, ...], Meta(min_length=1, max_length=16)]  # base URLs, the one of the join first
    data_source: Annotated[str, Meta(max_length=4096)] | None = None  # as data.source; None: the configuration has it


def read(folders: tuple[Path, ...]) -> Enrolment | None:
    """Return what stands in the first of `folders` that has such a file; None: none has, this device did not join.

    Raises:
        ConfigError: it cannot be read.
    """
    for folder in folders:
        path = folder / FILE_NAME
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            if len(data) > FILE_BYTES_MAX:
                raise msgspec.ValidationError(f"larger than {FILE_BYTES_MAX} bytes")
            return msgspec.json.decode(data, type=Enrolment)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is damaged: {error}: join again") from error
    return None


def encode(enrolment: Enrolment) -> bytes:
    """Return the content of the file."""
    return msgspec.json.format(msgspec.json.encode(enrolment), indent=1) + b"\n"
