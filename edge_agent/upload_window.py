"""How much of a large update may be on its way at once. Pure arithmetic.

Buffers along a slow link swallow megabytes in an instant and then seem dead for minutes. So a heartbeat follows every
part of a large update, and only so many parts may be ahead of its echo: what is under way stays small, echoes keep
coming, and a dead link is told from a slow one.
"""

from collections import deque

PARTS_MAX = 16  # 1 MiB in parts of 64 KiB: 3 MB/s at a round trip of 300 ms
QUICK_S = 1.0  # an echo that takes no longer lets the window grow
PART_BYTES_MIN = 8 << 10  # of a part that is worth it


class UploadWindow:
    """Starts with one part; doubles with every quick echo, starts again with a slow one."""

    def __init__(self) -> None:
        self._parts = 1
        self._under_way: deque[tuple[float, int]] = deque()  # the heartbeat's stamp behind each part, ascending; bytes

    @property
    def is_open(self) -> bool:
        """Whether one more part may be written."""
        return len(self._under_way) < self._parts

    def sent(self, stamp_s: float, part_bytes: int) -> None:
        """A part was written, and behind it a heartbeat with this stamp."""
        self._under_way.append((stamp_s, part_bytes))

    def echoed(self, stamp_s: float, now_s: float) -> float | None:
        """A heartbeat came back: whatever was written before it has arrived.

        Returns the bytes per second of the parts that arrived, their echo included; None: there were none.
        """
        arrived: list[tuple[float, int]] = []
        while self._under_way and self._under_way[0][0] <= stamp_s:
            arrived.append(self._under_way.popleft())
        if arrived:
            self._parts = min(2 * self._parts, PARTS_MAX) if now_s - stamp_s <= QUICK_S else 1
        if not arrived or now_s <= arrived[0][0]:
            return None
        return sum(part_bytes for _, part_bytes in arrived) / (now_s - arrived[0][0])
