"""What root writes into a service's state belongs to the service, which is somebody else. Synchronous."""

import os
from pathlib import Path

Owner = tuple[int, int]  # user and group


def owner_of_the_nearest(folder: Path) -> Owner:
    """Return user and group of `folder`, or of the first above it that is there."""
    found = next(one for one in (folder, *folder.absolute().parents) if one.exists()).stat()
    return found.st_uid, found.st_gid


def give(file: int | Path, owner: Owner) -> None:
    """Give a file or a folder to its owner, where this is root; of a link the link itself.

    Raises:
        OSError: the disk refused.
    """
    if os.geteuid() == 0:
        os.chown(file, *owner, follow_symlinks=isinstance(file, int))
