"""The disk of a simulated machine: syncs take virtual time, it may be full, a crash may tear what was being written.

Below it are real SQLite databases and files, in a folder of this machine; memory (`/dev/shm`) serves best. They are
opened without syncs, since what survives is decided here:

- A transaction that was committed and whose time has passed is on disk, and survives everything.
- A transaction that is being committed when the machine, or the process alone, stops: with equal chances it is whole,
  or its tail in the write-ahead log is torn at a random byte, and behind that is nothing, zeros, or garbage. A log that
  was being copied into the database is left alone: SQLite has synced it before.
- A file that is being written with a sync and a rename (checkpoints) is whole, or not there, with some of it under its
  temporary name. What was removed stays removed.
- A power cut tears files that nobody syncs (status.json, a partial download); the end of a process alone loses nothing
  that was written.
- A full disk refuses, with SQLite's own SQLITE_FULL, what would make a database longer. Other files still find room.

Writes of one disk queue: each sync waits for those before it.

A disk may also hold its databases in this process's memory, for worlds of thousands of devices: they then take no open
files. A crash loses nothing of them.
"""

import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from skerry.database import PAGE_BYTES, WAL_BYTES, Database, Repair

SYNCS_PER_FILE = 2  # itself, and its folder
PAGES_MAX = 0xFFFFFFFE  # SQLite's own limit
WAL_HEADER_BYTES, WAL_FRAME_BYTES = 32, 24 + PAGE_BYTES  # https://www.sqlite.org/fileformat2.html#walformat
INDEX = struct.Struct("=16xI12x8s56xI")  # https://www.sqlite.org/walformat.html: mxFrame, aSalt, nBackfill
SYNCED = {".safetensors", ".skerry", ".db", ".db-wal"}
NOT_ON_DISK = ("*.db-shm", "lock")  # shared memory of whoever has the database open; a lock dies with its holder


class Log(NamedTuple):
    """How far a database's write-ahead log is written."""

    frames: int  # valid ones in it
    salt: bytes  # changes when it begins anew
    copied: int  # frames that are in the database, too

    @property
    def end(self) -> int:
        """Offset in the file."""
        return WAL_HEADER_BYTES + self.frames * WAL_FRAME_BYTES


NO_LOG = Log(0, b"", 0)


class Write:
    """What one piece of work writes, until the disk has it."""

    def __init__(self, files: frozenset[str]) -> None:
        """`files` that are synced one by one are there before it."""
        self.files = files
        self.made: list[str] = []  # further such files
        self.logs: dict[_SimulatedDatabase, Log] = {}  # before it, of each database in which it has committed
        self.syncs = 0

    def __bool__(self) -> bool:
        """Whether it has written anything."""
        return self.syncs > 0


class Disk:
    """One machine's, with the state of one service in `folder`."""

    def __init__(
        self,
        folder: Path,
        sync_s: Callable[[], float],
        rng: random.Random,
        files: str | None = None,
        *,
        in_memory: bool = False,
    ) -> None:
        """Make the disk of a service whose state is in `folder`, which need not exist yet.

        `sync_s` draws what a sync takes, in seconds >= 0; `rng` draws what a crash leaves. `files` is the folder in
        `folder` whose files are synced one by one, as checkpoints are. `in_memory`: databases lie there.
        """
        self.folder = folder
        self.sync_s = sync_s
        self.syncs = 0
        self._files = files
        self._listed = "" if files is None else str(folder / files)
        self._known: frozenset[str] | None = None  # its files behind the newest piece of work; None: look
        self._rng = rng
        self._full = False
        self._free_at_s = 0.0
        self._images: dict[str, bytes] | None = {} if in_memory else None  # by name: databases that are not open
        self._open: list[_SimulatedDatabase] = []
        self._write: Write | None = None  # that is being done
        self._under_way: list[Write] = []

    # --- what a service does ---

    def open_database(
        self,
        path: Path,
        package: str,
        *,
        wal_bytes: int = WAL_BYTES,
        read_only: bool = False,
        leave_no_trace: bool = False,
        repair: Repair | None = None,
    ) -> Database:
        """See `skerry.database.OpenDatabase`."""
        kind = _SimulatedDatabase if self._images is None else _DatabaseInMemory
        return kind(
            self,
            path,
            package,
            wal_bytes=wal_bytes,
            read_only=read_only,
            leave_no_trace=leave_no_trace,
            repair=repair,
        )

    def begin(self) -> Write:
        """Something that may write is about to be done; call `done` behind it."""
        if self._known is None:
            self._known = self._synced_files()
        self._write = Write(self._known)
        return self._write

    def done(self, write: Write, now_s: float) -> float:
        """It was done; return when the disk has it, and call `finish` then."""
        self._write = None
        if self._files is not None:
            self._known = self._synced_files()
            write.made = sorted(self._known - write.files)
            write.syncs += SYNCS_PER_FILE * len(write.made)
        if not write:
            return now_s
        self.syncs += write.syncs
        self._under_way.append(write)
        self._free_at_s = max(self._free_at_s, now_s) + sum(self.sync_s() for _ in range(write.syncs))
        return self._free_at_s

    def finish(self, write: Write) -> None:
        """The disk has it now."""
        if write:
            self._under_way.remove(write)

    # --- what happens to it ---

    @property
    def busy(self) -> bool:
        """Whether something was written that is not on disk yet."""
        return bool(self._under_way)

    @property
    def full(self) -> bool:
        """Whether databases find no room to grow."""
        return self._full

    @full.setter
    def full(self, full: bool) -> None:
        self._full = full
        for database in self._open:
            database.limit()

    def crash(self, successor: Path, *, power: bool) -> "Disk":
        """Return the disk as the next process will find it, in the folder `successor`.

        This one is the dead process's: whatever it still does happens here. `power`: the whole machine stopped.
        """
        shutil.copytree(self.folder, successor, ignore=shutil.ignore_patterns(*NOT_ON_DISK))
        for write in self._under_way:
            for database, before in write.logs.items():
                if self._rng.random() < 0.5:
                    self._tear_log(database, before, successor)
            for name in write.made:
                if self._rng.random() < 0.5:
                    whole = successor / (self._files or "") / name
                    self._tear(whole, 0, whole.stat().st_size)
                    whole.rename(whole.with_suffix(".tmp"))
        if power:
            for path in sorted(successor.rglob("*")):
                if path.is_file() and path.suffix not in SYNCED and self._rng.random() < 0.5:
                    self._tear(path, 0, path.stat().st_size)
        found = Disk(successor, self.sync_s, self._rng, self._files, in_memory=self._images is not None)
        found.syncs, found.full = self.syncs, self.full
        if self._images is not None:
            found._images = self._images | {one.name: one.connection.serialize() for one in self._open}
        return found

    def _tear_log(self, database: "_SimulatedDatabase", before: Log, successor: Path) -> None:
        path = successor / database.log_path.relative_to(self.folder)
        after = database.log()
        same = after.salt == before.salt
        if not path.exists() or after.copied > (before.frames if same else 0):
            return  # it was synced, and is being copied
        self._tear(path, before.end if same else 0, after.end)

    def _tear(self, path: Path, begin: int, end: int) -> None:
        """Cut the file somewhere in [begin, end); what is behind is gone, or zero, or garbage."""
        cut = self._rng.randrange(begin, end) if end > begin else begin
        rest = self._rng.choice([0, 1, 2])
        with path.open("r+b") as file:
            file.truncate(cut)
            file.seek(cut)
            if rest:
                file.write(bytes(end - cut) if rest == 1 else self._rng.randbytes(end - cut))

    def _synced_files(self) -> frozenset[str]:
        """Return the names of the files that are synced one by one."""
        if self._files is None:
            return frozenset()
        try:
            return frozenset(os.listdir(self._listed))  # noqa: PTH208 - `iterdir` takes five times as long
        except FileNotFoundError:
            return frozenset()

    # --- what its databases tell ---

    def image(self, name: str) -> bytes | None:
        """Return what a database in memory held when it was closed; None: there was none."""
        assert self._images is not None
        return self._images.get(name)

    def keep(self, name: str, image: bytes) -> None:
        """A database in memory is about to be closed."""
        assert self._images is not None
        self._images[name] = image

    def opened(self, database: "_SimulatedDatabase") -> None:
        """A database was opened: a service starts, whose files need not be those of before."""
        self._open.append(database)
        self._known = None

    def closed(self, database: "_SimulatedDatabase") -> None:
        """A database was closed."""
        if database in self._open:
            self._open.remove(database)

    def commits(self, database: "_SimulatedDatabase") -> None:
        """A transaction is about to be committed."""
        if self._write is None:
            self.syncs += 1  # at a start or a stop: nobody waits for it
            self._known = None  # files, too, may have been written
            return
        self._write.syncs += 1
        if database not in self._write.logs:
            self._write.logs[database] = database.log()


class _SimulatedDatabase(Database):
    """Tells its disk of its commits."""

    def __init__(
        self,
        disk: Disk,
        path: Path,
        package: str,
        *,
        wal_bytes: int,
        read_only: bool,
        leave_no_trace: bool,
        repair: Repair | None,
    ) -> None:
        self._disk = disk
        self._index: int | None = None  # handle of the shared memory that says how far the log is written
        self.name = path.name
        self.log_path = path.with_name(f"{path.name}-wal")
        super().__init__(
            path,
            package,
            wal_bytes=wal_bytes,
            read_only=read_only,
            leave_no_trace=leave_no_trace,
            repair=repair,
            durable=False,
        )
        disk.opened(self)

    def _open(self, scripts: list[str], *, read_only: bool) -> None:
        if not read_only:
            self.limit()
        super()._open(scripts, read_only=read_only)

    def limit(self) -> None:
        """Let the database grow, or not: SQLite takes no fewer pages than it has."""
        self.connection.execute(f"PRAGMA max_page_count = {1 if self._disk.full else PAGES_MAX}")

    def log(self) -> Log:
        """Return how far the log is written."""
        if self._index is None:
            try:
                self._index = os.open(self._path.with_name(f"{self._path.name}-shm"), os.O_RDONLY)
            except FileNotFoundError:
                return NO_LOG
        index = os.pread(self._index, INDEX.size, 0)
        return Log(*INDEX.unpack(index)) if len(index) == INDEX.size else NO_LOG

    def commit(self) -> None:
        """See `Database`."""
        self._disk.commits(self)
        super().commit()

    def close(self) -> None:
        """See `Database`."""
        self._disk.closed(self)
        if self._index is not None:
            os.close(self._index)
            self._index = None
        super().close()


class _DatabaseInMemory(_SimulatedDatabase):
    """Takes no open file; has no log that could be torn."""

    def _connect(self, *, read_only: bool, leave_no_trace: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        image = self._disk.image(self.name)
        if image is not None:
            connection.deserialize(image)
        return connection

    def log(self) -> Log:
        """Return that of no log."""
        return NO_LOG

    def close(self) -> None:
        """See `Database`."""
        self._disk.keep(self.name, self.connection.serialize())
        super().close()
