"""A machine with a systemd of its own: Debian 12 in systemd-nspawn, in a network namespace of its own.

Needs root. Nothing is left on the host but the folder below which everything lies.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.netns.network import Unavailable, need_root, run_here, wait_until

SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
INCLUDE = "systemd,systemd-sysv,dbus,python3,iproute2,libnss-systemd,procps,openssh-server"
TOOLS = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "ip": "iproute2", "nsenter": "util-linux"}


def base(folder: Path) -> Path:
    """Return a fresh Debian 12 below `folder`, as debootstrap makes it; one that is there is used again.

    Raises:
        Unavailable: no root, a tool or the network is missing.
    """
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"missing: apt-get install {' '.join(missing)}")
    need_root()
    root = folder / "base"
    if not root.exists():
        half = folder / "base.half"
        shutil.rmtree(half, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={INCLUDE}", SUITE, half, MIRROR],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise Unavailable(f"debootstrap cannot get Debian {SUITE} from {MIRROR}: {made.stdout[-400:]}")
        half.rename(root)
    return root


@dataclass
class Machine:
    """One container; `namespace` is that of its network."""

    name: str
    root: Path
    namespace: str
    _nspawn: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def leader(self) -> int:
        """The container's init, as the host numbers it."""
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def boot(self) -> None:
        """Switch it on, and wait until systemd has started what it starts."""
        console = (self.root.parent / f"{self.name}.console").open("ab")
        self._nspawn = subprocess.Popen(
            [
                "systemd-nspawn",
                f"--directory={self.root}",
                f"--machine={self.name}",
                f"--network-namespace-path=/run/netns/{self.namespace}",
                "--register=no",
                "--keep-unit",
                "--boot",
                "--console=pipe",
                "--link-journal=no",
                "--resolv-conf=off",
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
        console.close()
        wait_until(self._is_up, f"{self.name} boots")

    def _is_up(self) -> bool:
        if not self.leader:
            return False
        state = self.run("systemctl", "is-system-running", check=False).strip()
        return state in {"running", "degraded"}

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in it; return what it printed."""
        return run_here(
            "nsenter", "-t", str(self.leader), "-a", "--", "/usr/bin/env", "-i", PATH, *command, check=check
        )

    def copy_in(self, file: Path, to: str) -> None:
        """Put a file of the host there."""
        shutil.copy(file, self.root / to.lstrip("/"))

    def write(self, path: str, text: str) -> None:
        """Write a file there."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def power_cut(self) -> None:
        """End it without a word to anything in it."""
        run_here("kill", "-9", str(self.leader))
        self._gone()

    def shut_down(self) -> None:
        """Stop it in good order."""
        self.run("systemctl", "poweroff", check=False)
        self._gone()

    def _gone(self) -> None:
        assert self._nspawn is not None
        self._nspawn.wait(120)
        self._nspawn = None

    def log(self, unit: str) -> str:
        """Return the journal of a unit."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit, check=False)

    def end(self) -> None:
        """Switch it off, if it is on."""
        if self._nspawn is not None:
            with suppress(AssertionError, OSError):
                if self.leader:
                    run_here("kill", "-9", str(self.leader), check=False)
            self._nspawn.kill()
            self._nspawn.wait(60)
            self._nspawn = None


PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextmanager
def machine(name: str, base_root: Path, folder: Path, namespace: str) -> Iterator[Machine]:
    """A running machine that writes over `base_root` without changing it; nothing of it is left."""
    scratch = folder / f"{name}.scratch"
    root = folder / name
    shutil.rmtree(scratch, ignore_errors=True)
    for path in (root, scratch / "upper", scratch / "work"):
        path.mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir={base_root},upperdir={scratch / 'upper'},workdir={scratch / 'work'}"
    run_here("mount", "-t", "overlay", "overlay", "-o", layers, root)
    made = Machine(name, root, namespace)
    try:
        made.write("/etc/hostname", f"{name}\n")
        made.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
        made.write("/etc/machine-id", "")
        made.boot()
        yield made
    finally:
        made.end()
        run_here("umount", root)
        root.rmdir()
        shutil.rmtree(scratch)
