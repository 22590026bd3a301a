"""Messages to bytes and back: msgpack under explicit limits for the bytes, msgspec for the shape. No I/O.

A frame is one msgpack map, the message's fields and its `type`. What a peer can make us allocate for it is bounded by
its length and the limits, whatever it claims; see docs/wire_format.md.
"""

from collections.abc import Hashable, Mapping
from functools import lru_cache
from itertools import count
from math import isfinite
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, get_args

import msgpack
import msgspec

from skerry.protocol.errors import MalformedMessage
from skerry.protocol.limits import CONTAINERS_MAX, MAP_ENTRIES_MAX, TEXT_CHARS_MAX
from skerry.protocol.messages import Enrolling, FromAgent, FromCoordinator, FromPeer, Welcome

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
C = TypeVar("C")
Message = FromAgent | FromCoordinator | FromPeer | Enrolling

_TEXT_BYTES_MAX = 4 * TEXT_CHARS_MAX  # UTF-8


def encode(message: Message) -> bytes:
    """Return the frame of `message`; the receiver checks its fields against the schema, the sender does not."""
    frame: bytes = msgpack.packb(msgspec.to_builtins(message, builtin_types=(bytes,)))
    return frame


def decode(frame: bytes, kind: "TypeForm[T]", *, bytes_max: int) -> T:
    """Parse one frame of at most `bytes_max` bytes from an untrusted peer.

    `kind` is one of the unions FromAgent, FromCoordinator, FromPeer and Enrolling, or one message type. Unknown fields
    are ignored: a newer minor version may add them.

    Raises:
        MalformedMessage: too long, truncated, or of no known shape; no other error.
    """
    if len(frame) > bytes_max:
        raise MalformedMessage(f"frame of {len(frame)} bytes, at most {bytes_max}")
    fields = _unpack(frame)
    if not isinstance(fields, dict):
        raise MalformedMessage("a frame is a map")
    tag = fields.get("type")
    message_type = _types_by_tag(cast("Hashable", kind)).get(tag) if isinstance(tag, str) else None
    if message_type is None:
        raise MalformedMessage(f"no message type {tag!r:.80} here")
    try:
        message: T = msgspec.convert(fields, message_type)
    except msgspec.ValidationError as error:
        raise MalformedMessage(f"{tag}: {error}") from error
    if isinstance(message, Welcome):
        _check_finite(message.recipe)
    return message


def _unpack(frame: bytes) -> Any:
    """Return the one value in `frame`; every limit holds for fields that nobody knows too."""
    containers = count(1)

    def count_container(container: C) -> C:
        """Bound the memory of a frame full of empty maps, 64 bytes of objects for one byte on the wire."""
        if next(containers) > CONTAINERS_MAX:
            raise ValueError(f"more than {CONTAINERS_MAX} maps and lists")
        return container

    try:
        return msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            object_hook=count_container,
            list_hook=count_container,
            ext_hook=_refuse_extension,
            max_str_len=_TEXT_BYTES_MAX,
            max_array_len=MAP_ENTRIES_MAX,
            max_map_len=MAP_ENTRIES_MAX,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:  # every refusal of msgpack is one of the two
        raise MalformedMessage(f"no msgpack within the limits: {error}") from error


@lru_cache
def _types_by_tag(kind: Hashable) -> Mapping[str, Any]:
    """Return the message types of a union; picking one ourselves is three times faster than converting to the union."""
    return {str(member.__struct_config__.tag): member for member in get_args(kind) or (kind,)}


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    """No extension type belongs to the protocol, not even an empty one."""
    raise ValueError(f"extension type {code}")


def _check_finite(untyped: object) -> None:
    """Refuse NaN and infinite numbers where no schema does. A loop, not a recursion: the peer chooses the depth."""
    waiting = [untyped]
    while waiting:
        match waiting.pop():
            case dict() as entries:
                waiting.extend(entries.values())
            case list() as items:
                waiting.extend(items)
            case float() as number if not isfinite(number):
                raise MalformedMessage(f"welcome: {number} in the recipe")
