"""The bundle on the device's disk: downloaded once, named by its hash, verified whenever it is opened."""

import asyncio
import hashlib
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.backoff import Backoff
from edge_agent.threads import RunInThread
from skerry import connection_error
from skerry.errors import DataError, SkerryError, StorageError
from skerry.protocol.messages import BundleReference
from skerry.tasks.bundle import Bundle

if TYPE_CHECKING:
    import aiohttp

CHUNK_BYTES = 64 << 10
FOLDER = "bundles"
SUFFIX = ".skerry"

log = logging.getLogger(__name__)


class DownloadFailed(SkerryError):  # noqa: N818 - it will be tried again
    """The coordinator did not give the bundle; trying again may help."""


class BundleFiles:
    """Keeps the present task's bundle in `folder`, no other."""

    def __init__(
        self,
        folder: Path,
        bytes_max: int,
        progress_timeout_s: float,
        backoff: Callable[[], Backoff],
        run_in_thread: RunInThread,
        connector: "Callable[[], aiohttp.BaseConnector] | None" = None,
    ) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._progress_timeout_s = progress_timeout_s
        self._backoff = backoff
        self._run_in_thread = run_in_thread
        self._connector = connector

    async def get(self, wanted: BundleReference, url: Callable[[], str], failed: Callable[[str], None]) -> Bundle:
        """Return the verified bundle, from the disk or the coordinator at `url()`; tries until it has it.

        `failed` is told of every attempt that was in vain.

        Raises:
            DataError: it is larger than the configuration allows, or what its hash names is no bundle.
            StorageError: the disk refused it.
        """
        if wanted.file_bytes > self._bytes_max:
            raise DataError(
                f"bundle {wanted.sha256}: {wanted.file_bytes} bytes, limits.bundle_bytes_max allows {self._bytes_max}"
            )
        path = self._folder / f"{wanted.sha256}{SUFFIX}"
        backoff = self._backoff()
        while not await self._run_in_thread(lambda: _is_intact(path, wanted)):
            try:
                await self._download(wanted, url(), path)
            except DownloadFailed as error:
                wait_s = backoff.failed()
                failed(str(error))
                log.warning("%s; next attempt in %.1f s", error, wait_s)
                await asyncio.sleep(wait_s)
        await self._run_in_thread(lambda: _remove_others(path))
        return await self._run_in_thread(lambda: Bundle.open(path))

    async def _download(self, wanted: BundleReference, url: str, path: Path) -> None:
        """Stream the bundle to a file beside `path`, verify it, rename it. What an earlier attempt got is kept."""
        import aiohttp

        partial = path.with_suffix(".partial")
        have = await self._run_in_thread(lambda: _prepare(partial, wanted.file_bytes))
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._progress_timeout_s, sock_read=self._progress_timeout_s
        )
        origin = f"{url}/v1/bundles/{wanted.sha256}"
        try:
            async with (
                aiohttp.ClientSession(
                    connector=self._connector() if self._connector else None, timeout=timeout
                ) as session,
                session.get(origin, headers={"Range": f"bytes={have}-"} if have else {}) as response,
            ):
                if response.status not in {200, 206}:
                    raise DownloadFailed(f"{origin}: answers {response.status}")
                resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(
                    f"bytes {have}-"
                )
                if response.status == 206 and not resumed:
                    await self._run_in_thread(lambda: partial.unlink(missing_ok=True))
                    raise DownloadFailed(f"{origin}: answers with another range than was asked for")
                await self._receive(response, partial, have if resumed else 0, wanted, origin)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise DownloadFailed(f"{origin}: {connection_error.reason(error)}") from error
        await self._run_in_thread(lambda: _finish(partial, path, wanted, origin))

    async def _receive(
        self, response: "aiohttp.ClientResponse", partial: Path, have: int, wanted: BundleReference, origin: str
    ) -> None:
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            if have + len(chunk) > wanted.file_bytes:
                await self._run_in_thread(lambda: partial.unlink(missing_ok=True))
                raise DownloadFailed(f"{origin}: sends more than the {wanted.file_bytes} bytes that were announced")
            await self._run_in_thread(lambda chunk=chunk, have=have: _write_at(partial, have, chunk))  # type: ignore[misc]
            have += len(chunk)


def _is_intact(path: Path, wanted: BundleReference) -> bool:
    """Whether the file is there and has the hash that it should have."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def _prepare(partial: Path, bytes_max: int) -> int:
    """Return how many bytes an earlier attempt left; start afresh where they can be no beginning."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
        if have >= bytes_max:
            partial.unlink()
            return 0
    except OSError as error:
        raise StorageError(f"{partial}: {error.strerror}") from error
    return have


def _write_at(partial: Path, offset: int, chunk: bytes) -> None:
    try:
        with partial.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(chunk)
    except OSError as error:
        raise StorageError(f"{partial}: cannot be written: {error.strerror}") from error


def _finish(partial: Path, path: Path, wanted: BundleReference, origin: str) -> None:
    """Verify size and hash, make it durable, give it its name.

    Raises:
        DownloadFailed: it is not what was announced; what was downloaded is thrown away.
    """
    try:
        with partial.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size < wanted.file_bytes:
                raise DownloadFailed(f"{origin}: ended after {size} of {wanted.file_bytes} bytes")
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if found != wanted.sha256:
            partial.unlink()
            raise DownloadFailed(f"{origin}: is a foreign file: its sha256 is {found}")
        partial.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"{partial}: {error.strerror}") from error


def _remove_others(path: Path) -> None:
    """One task at a time: the bundles of former ones, and what is left of their downloads, go away."""
    try:
        for other in path.parent.iterdir():
            if other != path and other.suffix in {SUFFIX, ".partial"}:
                other.unlink()
    except OSError as error:
        raise StorageError(f"{path.parent}: {error.strerror}") from error


def new_backoff(min_s: float, max_s: float, rng: random.Random) -> Callable[[], Backoff]:
    """Return a factory of fresh back-offs."""
    return lambda: Backoff(min_s, max_s, rng)
