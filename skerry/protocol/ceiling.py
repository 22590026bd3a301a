"""How high a device's numbers may jump: a word of 2**62 must not use up those that a name has. Pure."""

from math import inf

NEAR = 1 << 16  # numbers above the highest known one that count as its successors
STEP = 1 << 32  # what a jump may leave out: more updates than a device makes in its life, three a second for 45 years
STEP_S = 60.0  # between two steps: at that pace all numbers would last for two thousand years


class Ceiling:
    """Up to which number one device's next update is believed, by whoever hears of it.

    What is near the highest number that is known always is. For what is above, the ceiling rises by one step, a step a
    minute at most. So whoever knows nothing of an honest device believes it at once; a name that was made to jump is
    believed again within as many minutes as it was made to jump times; and nobody uses its numbers up.
    """

    __slots__ = ("_number", "_risen_at_s")

    def __init__(self) -> None:
        self._number, self._risen_at_s = 0, -inf

    def admits(self, sequence: int, known: int, now_s: float) -> bool:
        """Say whether `sequence` is believed, `known` being the highest number that is known. Ask by a steady clock."""
        believed = max(known + NEAR, self._number)
        if sequence > believed and now_s - self._risen_at_s >= STEP_S:
            believed = self._number = believed + STEP
            self._risen_at_s = now_s
        return sequence <= believed
