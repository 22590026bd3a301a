"""An aarch64 Python with the agent's packages on an x86-64 machine: Debian's interpreter under qemu's user emulation.

Nothing is installed on the machine, and nothing needs root: packages are only downloaded and unpacked below `folder`,
and `folder/bin/python` is a script that runs the interpreter in the emulator, so that processes which tests start from
`sys.executable` are emulated as well, also where the kernel knows no binfmt_misc.
"""

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"  # Debian 12, as Raspberry Pi OS is: Python 3.11, glibc 2.36
PYTHON = "3.11"
PACKAGES = ("ca-certificates", f"libpython{PYTHON}-stdlib", "libstdc++6", f"python{PYTHON}-minimal")
GLIBC_MINORS = range(17, 29)  # wheels for at most glibc 2.28: what docs/agent.md asks of a device
CPU = "cortex-a72"  # a Raspberry Pi 4's
# onnxruntime's library reads the processor from here, and crashes where it finds an x86 one.
CPU_INFO = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


class Unavailable(Exception):  # noqa: N818 - not a failure
    """Why this machine cannot emulate, and what would help."""


def prepare(folder: Path, pyproject: Path) -> Path:
    """Return the emulated interpreter in `folder`; what an earlier call left there is used again.

    Raises:
        Unavailable: the machine lacks the tools or the network.
        CalledProcessError: a package that the agent needs has no wheel for it.
    """
    emulator = _emulator()
    root, packages = folder / "root", folder / "lib" / f"python{PYTHON}" / "site-packages"
    if not root.exists():
        _unpack_debian(root)
    install(packages, requirements(pyproject))
    (root / "proc").mkdir(exist_ok=True)
    cores = range(os.cpu_count() or 1)
    (root / "proc" / "cpuinfo").write_text("".join(CPU_INFO.format(number=number) for number in cores))
    (folder / "pyvenv.cfg").write_text(f"home = {root}/usr/bin\ninclude-system-site-packages = false\n")
    python = folder / "bin" / "python"
    python.parent.mkdir(exist_ok=True)
    python.write_text(
        f'#!/bin/sh\nexport QEMU_CPU="${{QEMU_CPU:-{CPU}}}"\n'
        f'exec {emulator} -L "{root}" -0 "$0" "{root}/usr/bin/python{PYTHON}" "$@"\n'
    )
    python.chmod(0o755)
    return python


def requirements(pyproject: Path) -> list[str]:
    """Return what to install: all that the agent needs, the coordinator that some of its tests run, the test tools."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    tests = [one for one in extras["dev"] if one.startswith(("hypothesis", "pytest"))]
    return sorted([*project["dependencies"], *extras["coordinator"], *tests])


def _emulator() -> str:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Unavailable(f"emulation is for x86-64 Linux; this is {platform.system()} {platform.machine()}")
    found = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if found is None:
        raise Unavailable(
            "qemu-aarch64-static is missing: apt-get install qemu-user-static, or make test-arm64 INSTALL=1"
        )
    return found


def _unpack_debian(root: Path) -> None:
    """Unpack the interpreter and what it depends on; no package's scripts are run."""
    if shutil.which("mmdebstrap") is None:
        raise Unavailable("mmdebstrap is missing: apt-get install mmdebstrap, or make test-arm64 INSTALL=1")
    root.parent.mkdir(parents=True, exist_ok=True)
    archive = root.with_suffix(".tar")
    command = ["mmdebstrap", "--variant=extract", "--architectures=arm64", f"--include={','.join(PACKAGES)}"]
    command += ["--format=tar", SUITE, str(archive), MIRROR]
    made = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if made.returncode:
        archive.unlink(missing_ok=True)
        raise Unavailable(f"mmdebstrap cannot get Debian {SUITE} from {MIRROR}: {' '.join(made.stderr.split()[-40:])}")
    half = root.with_name("root.half")
    shutil.rmtree(half, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(half, [one for one in tar if not one.isdev()], filter="tar")
    archive.unlink()
    half.rename(root)


def install(packages: Path, wanted: list[str]) -> None:
    """Install wheels for aarch64 in the folder `packages`, unless just these are there.

    Raises:
        Unavailable: there is no network.
        CalledProcessError: there is no such wheel.
    """
    stamp = packages / "requirements.txt"
    if stamp.exists() and stamp.read_text().split("\n") == wanted:
        return
    shutil.rmtree(packages, ignore_errors=True)
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in GLIBC_MINORS)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts"]
    command += ["--target", str(packages), "--implementation", "cp", "--python-version", PYTHON]
    command += ["--only-binary=:all:", *(f"--platform={name}" for name in platforms), *wanted]
    installed = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if installed.returncode and "Retrying" in installed.stderr:
        raise Unavailable(f"pip has no network: {installed.stderr.splitlines()[-1]}")
    if installed.returncode:
        print(installed.stderr, file=sys.stderr)
        installed.check_returncode()
    stamp.write_text("\n".join(wanted))
