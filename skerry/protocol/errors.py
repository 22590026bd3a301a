"""What can be wrong with bytes from outside. The peer's fault, never ours: answered and counted, not a crash."""

from typing import Literal

from skerry.errors import SkerryError

VectorFault = Literal["malformed", "not_finite", "wrong_size"]  # three of the reasons of UpdateRejected


class MalformedMessage(SkerryError):  # noqa: N818 - the wire format's own word
    """A frame that is too long, truncated, or of no known shape."""


class MalformedVector(MalformedMessage):
    """A sparse vector whose bytes break a bound: lengths, indices, finite values."""

    def __init__(self, text: str, reason: VectorFault = "malformed") -> None:
        super().__init__(text)
        self.reason = reason
