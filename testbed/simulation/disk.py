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
"""

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from skerry.database import PAGE_BYTES, WAL_BYTES, Database

SYNCS_PER_FILE = 2  # itself, and its folder
PAGES_MAX = 0xFFFFFFFE  # SQLite's own limit
WAL_HEADER_BYTES, WAL_FRAME_BYTES = 32, 24 + PAGE_BYTES  # https://www.sqlite.org/fileformat2.html#walformat
INDEX_FRAMES, INDEX_SALT, INDEX_COPIED = slice(16, 20), slice(32, 40), slice(96, 100)  # walformat.html, of this machine
SYNCED = {".safetensors", ".skerry", ".db", ".db-wal"}
NOT_ON_DISK = ("*.db-shm", "lock")  # shared memory of whoever has the database open; a lock dies with its holder


class Log(NamedTuple):
    """How far a database's write-ahead log is written."""

    salt: bytes  # changes when it begins anew
    frames: int  # valid ones in it
    copied: int  # of them, into the database


class Write:
    """Something that may have written, from its beginning until the disk has it."""

    def __init__(self, disk: "Disk") -> None:
        self._disk = disk
        self._before = disk.synced_files()
        self.logs: dict[Path, Log] = {}  # before it, of each database in which it committed
        self.due_s = 0.0

    def end(self) -> None:
        """The disk has it now."""
        self._disk.finish(self)

    def made(self) -> list[Path]:
        """Return the files that it has made, of those that are synced one by one."""
        return sorted(self._disk.synced_files() - self._before)


class Disk:
    """One machine's, with the state of one service in `folder`."""

    def __init__(self, folder: Path, sync_s: Callable[[], float], rng: random.Random, files: str | None = None) -> None:
        """Make the disk of a service whose state is in `folder`, which need not exist yet.

        `sync_s` draws what a sync takes, in seconds >= 0; `rng` draws what a crash leaves. `files` is the folder in
        `folder` whose files are synced one by one, as checkpoints are.
        """
        self.folder = folder
        self._files = files
        self.sync_s = sync_s
        self.syncs = 0
        self._rng = rng
        self._full = False
        self._free_at_s = 0.0
        self._open: list[_SimulatedDatabase] = []
        self._write: Write | None = None  # that runs now
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
    ) -> Database:
        """See `skerry.database.OpenDatabase`."""
        return _SimulatedDatabase(
            self, path, package, wal_bytes=wal_bytes, read_only=read_only, leave_no_trace=leave_no_trace
        )

    @contextmanager
    def writing(self, now_s: float) -> Iterator[Write]:
        """Watch what is written within; behind it, `due_s` says when the disk has it."""
        write, before = Write(self), self.syncs
        self._write = write
        try:
            yield write
        finally:
            self._write = None
            self.syncs += SYNCS_PER_FILE * len(write.made())
            write.due_s = now_s
            if self.syncs > before:
                took_s = sum(self.sync_s() for _ in range(self.syncs - before))
                write.due_s = self._free_at_s = max(self._free_at_s, now_s) + took_s
            self._under_way.append(write)

    def finish(self, write: Write) -> None:
        """The disk has what `write` wrote; nothing, where it has crashed meanwhile."""
        if write in self._under_way:
            self._under_way.remove(write)

    # --- what happens to it ---

    @property
    def busy(self) -> bool:
        """Whether something was written that is not on disk yet."""
        return any(write.logs or write.made() for write in self._under_way)

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
            for path, before in write.logs.items():
                if self._rng.random() < 0.5:
                    self._tear_log(successor / path.relative_to(self.folder), before, _log(path))
            for path in write.made():
                if self._rng.random() < 0.5:
                    whole = successor / path.relative_to(self.folder)
                    self._tear(whole, 0, whole.stat().st_size)
                    whole.rename(whole.with_suffix(".tmp"))
        if power:
            for path in sorted(successor.rglob("*")):
                if path.is_file() and path.suffix not in SYNCED and self._rng.random() < 0.5:
                    self._tear(path, 0, path.stat().st_size)
        found = Disk(successor, self.sync_s, self._rng, self._files)
        found.syncs, found.full = self.syncs, self.full
        return found

    def _tear_log(self, database: Path, before: Log, after: Log) -> None:
        if after.copied > (before.frames if after.salt == before.salt else 0):
            return  # it was synced, and is being copied
        begin = _end_of(before) if after.salt == before.salt else 0
        self._tear(_log_of(database), begin, _end_of(after))

    def _tear(self, path: Path, begin: int, end: int) -> None:
        """Cut the file somewhere in [begin, end); what is behind is gone, or zero, or garbage."""
        cut = self._rng.randrange(begin, end) if end > begin else begin
        rest = self._rng.choice([0, 1, 2])
        with path.open("r+b") as file:
            file.truncate(cut)
            file.seek(cut)
            if rest:
                file.write(bytes(end - cut) if rest == 1 else self._rng.randbytes(end - cut))

    def synced_files(self) -> frozenset[Path]:
        """Return the files that are synced one by one."""
        folder = None if self._files is None else self.folder / self._files
        return frozenset(folder.iterdir()) if folder is not None and folder.exists() else frozenset()

    # --- what its databases tell ---

    def opened(self, database: "_SimulatedDatabase") -> None:
        """A database was opened."""
        self._open.append(database)

    def closed(self, database: "_SimulatedDatabase") -> None:
        """A database was closed."""
        if database in self._open:
            self._open.remove(database)

    def commits(self, path: Path) -> None:
        """A transaction is about to be committed."""
        self.syncs += 1
        if self._write is not None and path not in self._write.logs:
            self._write.logs[path] = _log(path)


class _SimulatedDatabase(Database):
    """Tells its disk of its commits."""

    def __init__(
        self, disk: Disk, path: Path, package: str, *, wal_bytes: int, read_only: bool, leave_no_trace: bool
    ) -> None:
        self._disk = disk
        super().__init__(
            path, package, wal_bytes=wal_bytes, read_only=read_only, leave_no_trace=leave_no_trace, durable=False
        )
        disk.opened(self)

    def _open(self, scripts: list[str], *, read_only: bool) -> None:
        if not read_only:
            self.limit()
        super()._open(scripts, read_only=read_only)

    def limit(self) -> None:
        """Let the database grow, or not: SQLite takes no fewer pages than it has."""
        self.connection.execute(f"PRAGMA max_page_count = {1 if self._disk.full else PAGES_MAX}")

    def commit(self) -> None:
        """See `Database`."""
        self._disk.commits(self._path)
        super().commit()
        self.connection.execute("PRAGMA shrink_memory")  # or the caches of ten thousand would take a gigabyte

    def close(self) -> None:
        """See `Database`."""
        self._disk.closed(self)
        super().close()


def _log_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-wal")


def _log(database: Path) -> Log:
    """Return how far the log of `database` is written, as the connections' shared memory says."""
    try:
        with database.with_name(f"{database.name}-shm").open("rb") as file:
            index = file.read(100)
    except FileNotFoundError:
        return Log(b"", 0, 0)
    return Log(index[INDEX_SALT], _number(index[INDEX_FRAMES]), _number(index[INDEX_COPIED]))


def _number(field: bytes) -> int:
    return int.from_bytes(field, sys.byteorder)


def _end_of(log: Log) -> int:
    return WAL_HEADER_BYTES + log.frames * WAL_FRAME_BYTES
