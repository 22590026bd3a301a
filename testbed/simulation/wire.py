"""One direction of a host's access to the network, shared by all of its connections. Pure arithmetic."""


class Wire:
    """Carries one segment after the other at its rate, in the order in which they come."""

    __slots__ = ("_free_at_s", "bytes_per_s", "carried_bytes")

    def __init__(self, bytes_per_s: float | None) -> None:
        """`bytes_per_s`: payload that TCP carries, > 0; None: without limit."""
        if bytes_per_s is not None and not bytes_per_s > 0.0:
            raise ValueError(f"bytes_per_s must be > 0, not {bytes_per_s}")
        self.bytes_per_s = bytes_per_s
        self.carried_bytes = 0  # so far, repeats of what was lost aside
        self._free_at_s = 0.0

    def carry(self, size: int, now_s: float) -> float:
        """Return when the last of `size` bytes, queued now, has passed."""
        self.carried_bytes += size
        if self.bytes_per_s is None:
            return now_s
        self._free_at_s = max(self._free_at_s, now_s) + size / self.bytes_per_s
        return self._free_at_s
