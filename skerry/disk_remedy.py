"""What to do about a disk that refused a read or a write: it depends on why it did."""

import errno
import sqlite3

_FREE = "free space"
_PERMIT = "let the user that this runs as write there, files included"
_MOUNT = "mount it writable; a worn card turns read-only and must be replaced"
_IN_THE_WAY = "a file stands where a folder must: move it away, or name another folder"
_AFRESH = "it is damaged or no database: move it away to start afresh"
_REPLACE = "the disk fails: replace it"

_OF_ERRNO = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EACCES: _PERMIT,
    errno.EPERM: _PERMIT,
    errno.EROFS: _MOUNT,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EIO: _REPLACE,
}
_OF_SQLITE = {
    sqlite3.SQLITE_FULL: _FREE,
    sqlite3.SQLITE_PERM: _PERMIT,
    sqlite3.SQLITE_READONLY: _PERMIT,
    sqlite3.SQLITE_CANTOPEN: _PERMIT,
    sqlite3.SQLITE_CORRUPT: _AFRESH,
    sqlite3.SQLITE_NOTADB: _AFRESH,
    sqlite3.SQLITE_IOERR: _REPLACE,
}


def disk_remedy(error: OSError | sqlite3.Error) -> str:
    """Return the remedy as the end of a message, with its colon; "" where the error is of no known kind."""
    if isinstance(error, OSError):
        remedy = _OF_ERRNO.get(error.errno or 0)
    else:
        remedy = _OF_SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)  # the low byte is the kind
    return "" if remedy is None else f": {remedy}"
