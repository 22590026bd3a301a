"""Checks of the machine: software, clock, disk, permissions, port, limits. Each says what it found and what to do.

`root` stands before /proc, /run and /sys, so that another machine's can be looked at. Nothing is changed; in the state
folder a file without a name is written for a moment.
"""

import ctypes
import errno
import os
import resource
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from edge_agent.bench import disk_syncs_s
from edge_agent.config import AgentConfig, Inference
from edge_agent.finding import Finding, failure, ok, warning
from edge_agent.rest_remedy import remedies
from skerry.errors import StorageError
from skerry.policy import VERB, Decision, Reading
from skerry.profile import Profile

GLIBC_MIN = (2, 28)  # of onnxruntime's wheels: manylinux_2_28
BUILT_S = 1_767_225_600  # 2026-01-01: no clock that is right shows less
STA_UNSYNC = 0x0040  # sys/timex.h
TIMEX_STATUS = 5  # which long of struct timex holds the status, on 64-bit machines
TIMEX_LONGS = 64  # more than struct timex has
FREE_FAILURE_BYTES = 64 << 20
FREE_WARNING_BYTES = 256 << 20
SYNC_WARNING_S = 0.5
SYNCS = 5
IN_MEMORY = {"tmpfs", "ramfs"}
OVER_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"}
FILES_MIN = 256
AGENT_BYTES = 128 << 20  # with a small model: interpreter, onnxruntime, aiohttp
LISTEN_REMEDIES = {
    errno.EADDRINUSE: "stop who listens there (`ss -ltnp` shows it), or choose another port: inference.listen",
    errno.EACCES: "choose a port from 1024 upwards: inference.listen",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose 127.0.0.1 and a port for inference.listen",
}
MEMORY_TAKEN = 0.25  # of a board's memory, by its graphics and firmware


def check_software(
    machine: str, pointer_bits: int, libc: tuple[str, str], versions: Mapping[str, str | None]
) -> Finding:
    """Look at the architecture, the C library, and the versions of Python and packages; None: not installed."""
    name = "software"
    here = f"{machine}, {pointer_bits}-bit, {' '.join(libc).strip() or 'unknown C library'}"
    if pointer_bits != 64:
        return failure(
            name,
            f"{here}: onnxruntime has no wheel for 32-bit systems",
            "install a 64-bit operating system (Raspberry Pi OS 64-bit); a 64-bit kernel alone is not enough",
        )
    if libc[0] == "glibc" and _version(libc[1]) < GLIBC_MIN:
        return failure(name, f"{here}: onnxruntime needs glibc 2.28", "install a newer operating system")
    missing = sorted(package for package, version in versions.items() if version is None)
    if missing:
        return failure(name, f"{here}: not installed: {', '.join(missing)}", "install the agent again: docs/agent.md")
    return ok(name, f"{here}; " + ", ".join(f"{package} {version}" for package, version in versions.items()))


def check_clock(root: Path, kernel_synchronised: Callable[[], bool | None], now_s: float) -> Finding:
    """See whether the clock is kept right; TLS refuses certificates where it is not."""
    name, remedy = "clock", "run `timedatectl set-ntp true`, or install and start chrony"
    if now_s < BUILT_S:
        return failure(name, "shows a time before this program was made: certificates will be refused", remedy)
    if (root / "run/systemd/timesync/synchronized").exists():
        return ok(name, "synchronised by systemd-timesyncd")
    match kernel_synchronised():
        case True:
            return ok(name, "synchronised, says the kernel")
        case False:
            return warning(name, "is not synchronised, says the kernel", remedy)
        case None:
            return warning(name, "whether it is synchronised cannot be found out", remedy)


def kernel_synchronised() -> bool | None:
    """Ask adjtimex(2) whether something disciplines the clock; None: it does not say."""
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    timex = (ctypes.c_long * TIMEX_LONGS)()  # modes 0: nothing is set
    if adjtimex is None or adjtimex(timex) < 0:
        return None
    return not timex[TIMEX_STATUS] & STA_UNSYNC


def check_config_file(path: Path, config: AgentConfig) -> Finding:
    """See that nobody else reads a configuration that holds a secret."""
    name = "configuration"
    secrets = [url for url in config.coordinators if urlsplit(url).password is not None]
    if secrets and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return warning(name, f"{path}: holds a password and others may read it", f"run `chmod 600 {path}`")
    return ok(name, f"{path}: device {config.device}, {len(config.coordinators)} coordinator(s)")


def check_folder(check: str, folder: Path) -> Finding:
    """See that a folder, or the place where it will be made, can be written by who runs this, and by nobody else."""
    present = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    who = f"uid {os.geteuid()}"
    if not present.is_dir():
        return failure(check, f"{present}: is no folder", f"remove {present}, or name another folder")
    if not os.access(present, os.W_OK | os.X_OK):
        reason = "lies on a read-only file system" if _read_only(present) else f"cannot be written by {who}"
        return failure(
            check,
            f"{present}: {reason}",
            "run this as root or as the agent's user; else mount it writable, chown it, or choose another folder",
        )
    if present == folder and folder.stat().st_mode & stat.S_IWOTH:
        return warning(check, f"{folder}: everybody may write there, and exchange models", f"run `chmod 700 {folder}`")
    return ok(check, f"{folder}: " + ("writable" if present == folder else f"will be made in {present}"))


def check_disk(root: Path, folder: Path, free_bytes: int, clock: Callable[[], float]) -> Finding:
    """See that what is written below `folder` lasts, has room, and is on disk within reason."""
    name = "disk"
    present = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    room = f"{free_bytes / 2**20:.0f} MiB free"
    if free_bytes < FREE_FAILURE_BYTES:
        return failure(name, f"{present}: {room}", "free space, or move state_dir to a larger disk")
    try:
        sync_s = median(disk_syncs_s(present, clock, SYNCS))
    except StorageError as error:
        return failure(name, str(error), "mount it writable, or replace the card: worn ones turn read-only")
    kind = file_system(root, present)
    found = f"{present}: {kind or 'unknown file system'}, {room}, a durable write takes {sync_s * 1e3:.1f} ms"
    if kind in IN_MEMORY:
        return warning(name, f"{found}; it is memory", "put state_dir on a disk: a power cut loses the outbox")
    if kind in OVER_NETWORK:
        return warning(name, f"{found}; it is a network's", "put state_dir on a local disk: SQLite needs its locks")
    if free_bytes < FREE_WARNING_BYTES:
        return warning(name, found, "free space: below 256 MiB a new task or a full outbox may fill the disk")
    if sync_s > SYNC_WARNING_S:
        return warning(name, found, "use a faster card (class A1 or better) or a USB disk; this one may be worn")
    return ok(name, found)


def file_system(root: Path, folder: Path) -> str | None:
    """Return the type of the file system that `folder` is on, from /proc/mounts; None if that cannot be read."""
    try:
        mounts = (root / "proc/mounts").read_text(errors="replace")
    except OSError:
        return None
    at, found = folder.resolve(), None
    deepest = -1
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) >= 3:
            place = Path(fields[1].encode().decode("unicode_escape"))
            if at.is_relative_to(place) and len(place.parts) >= deepest:
                deepest, found = len(place.parts), fields[2]
    return found


def check_limits(
    files_max: int,
    memory_max: int | None,
    available_bytes: int,
    profile: Profile,
    model_bytes: int | None,
    taken_bytes: int = 0,
) -> Finding:
    """See that the agent may have the files and the memory that it needs; None: unlimited, or unknown.

    `taken_bytes`: what the process that has taken some steps, the agent if it runs, occupied at most. What a step
    computes in between shows there alone: with large layers or many classes it is several times the model.
    `available_bytes`: of the machine, what that process occupies now counted in.
    """
    name = "limits"
    budget = profile.limits.memory_bytes_max
    # Of the model: itself, base, gradient, residual, momentum, and what is on its way.
    need = max(AGENT_BYTES + 8 * (model_bytes or 0), taken_bytes)
    allowed = min((limit for limit in (memory_max, budget) if limit is not None), default=None)
    found = (
        f"{'unlimited' if files_max == resource.RLIM_INFINITY else files_max} open files, "
        f"{'no limit of memory' if allowed is None else f'{allowed / 2**20:.0f} MiB of memory allowed'}, "
        f"{available_bytes / 2**20:.0f} MiB available, at least {need / 2**20:.0f} MiB needed"
    )
    if files_max != resource.RLIM_INFINITY and files_max < FILES_MIN:
        return warning(name, found, f"raise the number of open files to {FILES_MIN}: LimitNOFILE= in the unit")
    if allowed is not None and allowed < need:
        return failure(name, found, "raise MemoryMax= in the unit or limits.memory_bytes_max of the profile")
    if available_bytes < need:
        return warning(name, found, "stop other programs, or add swap in memory (zram)")
    return ok(name, found)


def memory_limit(root: Path, pid: int) -> int | None:
    """Return how much memory the process (0: this one) may have, by resource limit or control group; None: all.

    Only the version 2 of control groups is looked at.
    """
    soft = (resource.prlimit(pid, kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS))
    limits = [limit for limit in soft if limit != resource.RLIM_INFINITY]
    try:
        line = (root / "proc" / (str(pid) if pid else "self") / "cgroup").read_text().splitlines()[-1]
        group = root / "sys/fs/cgroup" / line.rpartition("::")[2].lstrip("/")
        limits.append(int((group / "memory.max").read_text()))
    except (OSError, ValueError, IndexError):
        pass  # no control groups, or "max"
    return min(limits, default=None)


def check_listen(inference: Inference, *, agent_runs: bool) -> Finding:
    """See that predictions can be asked at `inference.listen`: it is free, or the agent that runs holds it."""
    name, (host, port) = "inference", inference.address
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        tried.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as a server does: it need not wait for old streams
        try:
            tried.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and agent_runs:
                return ok(name, f"predictions at http://{inference.listen}")
            remedy = LISTEN_REMEDIES.get(error.errno or 0, "see docs/inference.md")
            return failure(name, f"{inference.listen}: cannot be listened on: {error.strerror}", remedy)
    if agent_runs:
        return warning(
            name,
            f"{inference.listen}: the agent that runs does not listen there",
            "restart it: it was started with another configuration",
        )
    return ok(name, f"{inference.listen} is free")


def check_profile(profile: Profile, memory_bytes: int) -> Finding:
    """See that the board has the memory that its profile reckons with."""
    name = "profile"
    if profile.memory_bytes is not None and memory_bytes < (1.0 - MEMORY_TAKEN) * profile.memory_bytes:
        return warning(
            name,
            f"{profile.name}: speaks of {profile.memory_bytes / 2**20:.0f} MiB, here are {memory_bytes / 2**20:.0f}",
            "name the right one (`skerry-agent profiles`), or make one with `skerry-agent bench --output FILE`",
        )
    return ok(name, f"{profile.name}: {profile.description}")


def check_board(reading: Reading, decision: Decision) -> Finding:
    """See what the policy makes of the board as it is now: heat, supply, memory, others' work, network, quiet hours."""
    name = "board"
    temperature = "no temperature sensor" if reading.temperature_c is None else f"{reading.temperature_c:.1f} C"
    if reading.throttled is None:
        throttled = "it does not say whether it is throttled"
    else:
        throttled = f"throttled: {', '.join(reading.throttled)}" if reading.throttled else "not throttled"
    found = f"{temperature}, {throttled}"
    if decision.pace == "train":
        return ok(name, f"{found}; nothing holds training back")
    found = f"{found}; {VERB[decision.pace]} training: {'; '.join(decision.reasons)}"
    return warning(name, found, "; ".join(remedies(decision.causes)))


def _read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
