"""The root of every error that Skerry raises on purpose."""


class SkerryError(Exception):
    """Something a person or a peer can act on; its text names the cause and the remedy.

    Command lines print the text alone and exit with `exit_code`; anything that is not a SkerryError is a defect
    and keeps its traceback.
    """

    exit_code = 1


class ConfigError(SkerryError):
    """A file or an option that cannot be used; names file and key."""

    exit_code = 2


class StorageError(SkerryError):
    """The disk refused a read or a write. The process stops: it never goes on as if it had written."""

    exit_code = 3


class StateDamagedError(StorageError):
    """What is on disk is not what was written there: going on could mean a wrong model, silently."""

    exit_code = 6


class SchemaTooNewError(StorageError):
    """The database was written by a newer Skerry; opening it could lose data."""

    exit_code = 4


class DataError(SkerryError):
    """Training data or a bundle that does not fit; names file, column and row where there is one."""

    exit_code = 5
