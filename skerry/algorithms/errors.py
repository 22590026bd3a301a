"""What can go wrong in the arithmetic of training and is not a defect of the program."""

from skerry.errors import SkerryError


class DivergedError(SkerryError):
    """Training left the finite numbers: there is nothing to send, and a lower learning rate is the cure."""
