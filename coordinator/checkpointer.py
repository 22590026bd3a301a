"""When a checkpoint is taken, which ones are kept, and how far the journal may then be cut."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from coordinator import checkpoint as checkpoint_file
from coordinator.checkpoint import CHECKPOINTS, Checkpoint
from coordinator.config import Checkpoints
from coordinator.store import CheckpointRow, Cut
from coordinator.threads import RunInThread
from skerry.errors import StorageError


class Checkpointer:
    """The checkpoints of one region: at most one is being written at any time, while the engine goes on."""

    def __init__(
        self,
        state_dir: Path,
        settings: Checkpoints,
        kept: list[tuple[int, int]],
        run_in_thread: RunInThread,
        wall_clock: Callable[[], float],
        now_s: float,
    ) -> None:
        """Go on from the checkpoints that are on disk: (version, position), the newest first."""
        self._folder = state_dir / CHECKPOINTS
        self._settings = settings
        self._kept = kept
        self._run_in_thread = run_in_thread
        self._wall_clock = wall_clock
        self._taken_at_s = now_s
        self._writing: asyncio.Task[CheckpointRow] | None = None

    @property
    def version(self) -> int:
        """Of the newest checkpoint on disk."""
        return self._kept[0][0]

    @property
    def position(self) -> int:
        """Of the newest checkpoint on disk."""
        return self._kept[0][1]

    def due(self, version: int, position: int, now_s: float) -> bool:
        """Say whether to take one of what stands at `version` and `position`."""
        if self._writing is not None or (version, position) == self._kept[0]:
            return False
        many = version - self.version >= self._settings.every_updates
        return many or now_s - self._taken_at_s >= self._settings.every_s

    def start(self, checkpoint: Checkpoint, now_s: float, done: Callable[[], None]) -> None:
        """Write one in a thread; the vectors must be nobody else's. `done` is called when `finished` will answer."""
        self._taken_at_s = now_s
        self._writing = asyncio.get_running_loop().create_task(self._write(checkpoint))
        self._writing.add_done_callback(lambda _: done())

    async def settle(self) -> None:
        """Wait until nothing is being written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def finished(self) -> tuple[CheckpointRow, Cut] | None:
        """Return what is to be recorded of a checkpoint that is on disk now, None while there is none.

        Raises:
            StorageError: it could not be written.
        """
        if self._writing is None or not self._writing.done():
            return None
        row = self._writing.result()
        self._writing = None
        known = [(row.version, row.position), *(one for one in self._kept if one[0] != row.version)]
        self._kept, dropped = known[: self._settings.keep], known[self._settings.keep :]
        # Any checkpoint that is kept must do as a start, in case a newer one turns out to be damaged.
        oldest_version, oldest_position = self._kept[-1]
        cut_version = min(row.version - self._settings.history_versions, oldest_version)
        return row, Cut(max(0, cut_version), oldest_position, tuple(version for version, _ in dropped))

    def remove(self, versions: tuple[int, ...]) -> None:
        """Remove files that no row speaks of any more. Synchronous.

        Raises:
            StorageError: the disk refused.
        """
        for version in versions:
            path = checkpoint_file.path_of(self._folder, version)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"{path}: cannot be removed: {error.strerror}") from error

    async def _write(self, checkpoint: Checkpoint) -> CheckpointRow:
        await self._run_in_thread(lambda: checkpoint_file.write(self._folder, checkpoint))
        return CheckpointRow(checkpoint.state.version, checkpoint.position, self._wall_clock())
