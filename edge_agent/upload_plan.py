"""How an update is cut into parts, and with which one it goes on. Pure arithmetic."""

import msgspec

from edge_agent.events import UpdateStored
from skerry.protocol.limits import PARTS_MAX, PAYLOAD_BYTES_MAX
from skerry.protocol.messages import PartialUpdate

UPLOAD_PART_BYTES = 64 << 10  # small enough that a slow radio loses little when it is cut


class UpdateTooLarge(Exception):  # noqa: N818 - the world's fault, and answered
    """No coordinator, or not this one, takes an update of this size."""


class WaitingUpdate(msgspec.Struct, frozen=True):
    """A stored update without an answer."""

    payload_bytes: int
    crc32: int
    lineage: str = ""  # of its base
    moves: int = 0  # how often the device had changed coordinators when it was stored; 0 also after a restart

    @classmethod
    def of(cls, stored: UpdateStored, moves: int) -> "WaitingUpdate":
        """Return it as it was stored."""
        return cls(stored.payload_bytes, stored.crc32, stored.lineage, moves)


def part_bytes(payload_bytes: int, part_bytes_max: int) -> int:
    """Return the length of every part but the last, for a coordinator that takes `part_bytes_max` in one.

    Raises:
        UpdateTooLarge: the protocol carries no payload of that size, or not in parts that small.
    """
    if payload_bytes > PAYLOAD_BYTES_MAX:
        raise UpdateTooLarge(
            f"{payload_bytes} bytes, at most {PAYLOAD_BYTES_MAX} can be sent: the recipe needs a sparser uplink"
        )
    if payload_bytes > PARTS_MAX * part_bytes_max:
        raise UpdateTooLarge(
            f"{payload_bytes} bytes make more than {PARTS_MAX} parts of {part_bytes_max}: the coordinator needs a "
            "larger limits.part_bytes_max, or the recipe a sparser uplink"
        )
    return min(part_bytes_max, max(UPLOAD_PART_BYTES, -(-payload_bytes // PARTS_MAX)))


def first_part(sequence: int, update: WaitingUpdate, part_bytes: int, partial: PartialUpdate | None) -> int:
    """Return the number of the part to go on with, where the coordinator holds `partial` in parts of that length."""
    parts = max(1, -(-update.payload_bytes // part_bytes))
    if partial is None or (partial.sequence, partial.crc32) != (sequence, update.crc32) or partial.parts >= parts:
        return 0
    return partial.parts
