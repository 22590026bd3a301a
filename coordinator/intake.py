"""Updates as they come in: parts put together, payloads read. No I/O; memory is bounded.

What was assembled of an update survives a cut of the stream for a while, so that a device goes on where it was.
"""

from dataclasses import dataclass
from zlib import crc32

from coordinator.events import Malformed
from skerry.protocol.errors import MalformedMessage, MalformedVector
from skerry.protocol.limits import PART_BYTES_MAX
from skerry.protocol.messages import Part, PartialUpdate, UpdateOffered
from skerry.protocol.parts import Assembler
from skerry.protocol.sparse import HEADER_BYTES
from skerry.protocol.sparse import decode as decode_vector
from skerry.vector import SparseVector

PARTIALS_BYTES_MAX = 1 << 30  # of all devices together
DESK_BYTES = 1024  # what one device takes beside its data, so that many devices with little data are bounded too
SPARE_BYTES = 64 << 10  # of an update beyond what its model can take: whoever sends too much is told what is wrong
PIECE_BYTES = 64  # what each part takes beside its data
PARTIAL_KEPT_S = 600.0  # after a device's last part
MAGNITUDE_MAX = 1e30  # of a value: even a hundred million of them leave the model finite


class IntakeFullError(Exception):
    """No memory is left for more unfinished updates: the device must come back later."""


@dataclass(slots=True)
class _Desk:
    """What is in hand for one device."""

    assembler: Assembler
    frame_bytes: int = 0  # of the frames that brought what is in hand
    held_bytes: int = 0
    refused_sequence: int = 0  # its remaining parts are ignored: it has been answered
    last_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Assembled:
    """A whole update, or why it cannot become one."""

    payload: bytes | Malformed
    frame_bytes: int


class Intake:
    """The unfinished updates of every device of a region."""

    def __init__(
        self,
        update_bytes_max: int,
        part_bytes_max: int = PART_BYTES_MAX,
        partials_bytes_max: int = PARTIALS_BYTES_MAX,
    ) -> None:
        self._update_bytes_max = update_bytes_max
        self._part_bytes_max = part_bytes_max
        self._partials_bytes_max = partials_bytes_max
        self._desks: dict[str, _Desk] = {}
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that unfinished updates take."""
        return self._held_bytes

    def partial(self, device: str) -> PartialUpdate | None:
        """Return what has arrived of the update that `device` was sending when its last stream ended."""
        desk = self._desks.get(device)
        if desk is None or desk.assembler.partial is None:
            return None
        sequence, parts, crc32 = desk.assembler.partial
        assert isinstance(sequence, int)
        return PartialUpdate(sequence, crc32, parts)

    def take(self, device: str, offered: UpdateOffered, frame_bytes: int, now_s: float) -> Assembled | None:
        """Take one part; return the update with its last one, None before.

        Raises:
            IntakeFullError: all memory for unfinished updates is in use by others.
        """
        part = offered.part
        desk = self._desks.get(device)
        if desk is None:
            if _is_whole(part) and part.payload_bytes <= min(self._update_bytes_max, self._part_bytes_max):
                return Assembled(part.data, frame_bytes)  # by far the most: nothing needs to be kept
            desk = self._desks[device] = _Desk(Assembler(self._update_bytes_max))
            self._hold(device, desk, DESK_BYTES)
        if part.number == 0:
            desk.refused_sequence = 0
        elif offered.sequence == desk.refused_sequence:
            return None
        desk.last_s = now_s
        desk.frame_bytes = frame_bytes + (desk.frame_bytes if part.number > 0 else 0)
        if part.payload_bytes > self._update_bytes_max:
            detail = f"{part.payload_bytes} bytes, this coordinator takes at most {self._update_bytes_max}"
            return self._refuse(desk, offered.sequence, Malformed("too_large", detail))
        if len(part.data) > self._part_bytes_max:
            detail = f"a part of {len(part.data)} bytes, this coordinator takes at most {self._part_bytes_max} in one"
            return self._refuse(desk, offered.sequence, Malformed("malformed", detail))
        try:
            payload = desk.assembler.add(offered.sequence, part)
        except MalformedMessage as error:
            return self._refuse(desk, offered.sequence, Malformed("malformed", str(error)))
        if payload is None:
            held_bytes = len(part.data) + PIECE_BYTES + (desk.held_bytes if part.number > 0 else DESK_BYTES)
            # A part that is repeated takes no more memory.
            self._hold(device, desk, min(held_bytes, DESK_BYTES + part.payload_bytes + part.of * PIECE_BYTES))
            return None
        self._drop(device)
        return Assembled(payload, desk.frame_bytes)

    def forget(self, now_s: float) -> None:
        """Drop what is too old to be resumed."""
        for device, desk in list(self._desks.items()):
            if now_s - desk.last_s > PARTIAL_KEPT_S:
                self._drop(device)

    def _refuse(self, desk: _Desk, sequence: int, why: Malformed) -> Assembled:
        self._held_bytes += DESK_BYTES - desk.held_bytes
        desk.held_bytes = DESK_BYTES
        desk.assembler = Assembler(self._update_bytes_max)
        desk.refused_sequence = sequence
        return Assembled(why, desk.frame_bytes)

    def _hold(self, device: str, desk: _Desk, held_bytes: int) -> None:
        self._held_bytes += held_bytes - desk.held_bytes
        desk.held_bytes = held_bytes
        if self._held_bytes > self._partials_bytes_max:
            self._drop(device)
            raise IntakeFullError

    def _drop(self, device: str) -> None:
        self._held_bytes -= self._desks.pop(device).held_bytes


def bytes_max(size: int, configured: int) -> int:
    """Return how many bytes an update of a model of `size` entries may have, `configured` at most.

    No encoder needs more than 4 for an entry and the header. A device holds memory here while its update comes in, and
    with a bound by the configuration alone a few devices could hold all that there is for a small model.
    """
    return min(configured, 2 * (HEADER_BYTES + 4 * size) + SPARE_BYTES)


def _is_whole(part: Part) -> bool:
    return part.of == 1 and part.number == 0 and len(part.data) == part.payload_bytes and crc32(part.data) == part.crc32


def read_vector(payload: bytes, size: int) -> SparseVector | Malformed:
    """Decode what a device or a peer adds to a model of `size` entries, or say what is wrong with it."""
    try:
        vector = decode_vector(payload, size=size)
    except MalformedVector as error:
        return Malformed(error.reason, str(error))
    if len(vector) and max(vector.values.max(), -vector.values.min()) > MAGNITUDE_MAX:
        return Malformed("not_finite", f"a value beyond {MAGNITUDE_MAX:g}: training has diverged")
    return vector
