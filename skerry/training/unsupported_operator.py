"""What the torch engine says of an operator that it does not run."""

from skerry.errors import DataError


class UnsupportedOperator(DataError):  # noqa: N818 - says what it is
    """A graph with an operator, or a form of one, that the torch engine does not know; the onnx engine runs it."""


def require(known: bool, what: str) -> None:
    """Refuse `what` unless it is known.

    Raises:
        UnsupportedOperator: naming it and the remedy.
    """
    if not known:
        raise UnsupportedOperator(f"the torch engine does not know {what}: use the onnx engine")
