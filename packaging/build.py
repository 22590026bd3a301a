"""Builds the Debian packages skerry-agent and skerry-coordinator: `make deb`. Needs dpkg-deb, Python 3.11 and its pip.

Each package has a virtual environment of its own below /usr/lib, put together from wheels alone, so that packages for
another architecture than this machine's come about by the same steps: nothing of the target is run.
The interpreter is the system's python3.11: Debian 12, Raspberry Pi OS 12; Ubuntu 22.04 and JetPack 6 with universe.
"""

import argparse
import compileall
import gzip
import hashlib
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "packaging"
SOURCES = ("coordinator", "edge_agent", "profiles", "skerry", "testbed")
PYTHON = "3.11"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC_MINORS = range(17, 29)  # wheels for at most glibc 2.28: what docs/agent.md asks of a device
# What nobody runs there: tests of libraries, what they bring for workstations, and for compilers.
LEFT_OUT = (
    "bin",
    "numpy/distutils",
    "numpy/f2py",
    "numpy/**/tests",
    "onnx/backend/test",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "**/*.pyi",
    "*.dist-info/direct_url.json",  # where this machine had it from
    "*.dist-info/RECORD",  # lists what is left out
)


@dataclass(frozen=True)
class Package:
    """One of the two."""

    name: str  # also of its unit and its main command
    summary: str
    extra: str  # of pyproject.toml, "": none
    commands: dict[str, str]  # name in bin/ -> module with a `main`
    linked: tuple[str, ...]  # of them, those that get a link in /usr/bin
    without: tuple[str, ...]  # of SOURCES
    config: str  # the conffile in /etc/skerry
    docs: tuple[str, ...]

    @property
    def home(self) -> str:
        """Where it lives."""
        return f"usr/lib/{self.name}"


PACKAGES = {
    package.name: package
    for package in (
        Package(
            name="skerry-agent",
            summary="federated learning on this device: the agent",
            extra="",
            commands={"skerry-agent": "edge_agent.cli", "skerry-task": "skerry.cli"},
            linked=("skerry-agent", "skerry-task"),
            without=("coordinator", "testbed"),
            config="agent.toml",
            docs=("agent.md", "data.md", "deploy.md", "durability.md", "inference.md", "recipes.md", "security.md"),
        ),
        Package(
            name="skerry-coordinator",
            summary="federated learning for a region of devices: the coordinator",
            extra="coordinator",
            commands={"skerry-coordinator": "coordinator.cli", "skerry-task": "skerry.cli"},
            linked=("skerry-coordinator",),
            without=("edge_agent", "testbed"),
            config="coordinator.toml",
            docs=(
                "coordinator.md",
                "data.md",
                "deploy.md",
                "durability.md",
                "recipes.md",
                "security.md",
                "wire_format.md",
            ),
        ),
    )
}


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"of {', '.join(PACKAGES)}; default: both")
    parser.add_argument("--arch", choices=sorted(MACHINES), default="amd64")
    parser.add_argument("--version", help="default: pyproject.toml's")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "deb")
    wanted = parser.parse_args()
    unknown = set(wanted.packages) - set(PACKAGES)
    if unknown:
        parser.error(f"there is no package {', '.join(sorted(unknown))}; there are: {', '.join(PACKAGES)}")
    missing = lacking()
    if missing:
        parser.exit(1, f"make deb: {missing}\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="skerry-deb-") as scratch:
        wheel = build_wheel(Path(scratch))
        for name in wanted.packages or PACKAGES:
            print(build(PACKAGES[name], wheel, project, wanted.arch, wanted.version, wanted.output))


def lacking() -> str | None:
    """Say what this machine lacks, None: nothing."""
    if shutil.which("dpkg-deb") is None:
        return "dpkg-deb is missing: apt-get install dpkg"
    if f"{sys.version_info[0]}.{sys.version_info[1]}" != PYTHON:
        return f"this is Python {sys.version.split()[0]}; the packages' bytecode needs {PYTHON}"
    return None


def build_wheel(scratch: Path) -> Path:
    """Return a wheel of this tree, made from a copy: setuptools would take up what an older build left in the tree."""
    copy = scratch / "source"
    copy.mkdir()
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip("wheel", "--no-deps", "--wheel-dir", scratch, copy)
    return next(scratch.glob("skerry-*.whl"))


def build(
    package: Package, wheel: Path, project: dict[str, object], arch: str, version: str | None, output: Path
) -> Path:
    """Write the package for `arch` to `output`; return its path."""
    version = version or str(project["version"])
    with tempfile.TemporaryDirectory(prefix=f"{package.name}-") as folder:
        root = Path(folder) / "root"
        environment(package, wheel, project, arch, root)
        files(package, root)
        normalise(root)
        control(package, arch, version, root)
        path = output / f"{package.name}_{version}_{arch}.deb"
        run("dpkg-deb", "--root-owner-group", "-Zzstd", "--build", root, path)
    return path


def environment(package: Package, wheel: Path, project: dict[str, object], arch: str, root: Path) -> None:
    """Put the virtual environment together."""
    home = root / package.home
    packages = home / "lib" / f"python{PYTHON}" / "site-packages"
    packages.mkdir(parents=True)
    requirements = list(project["dependencies"])  # type: ignore[call-overload]
    if package.extra:
        requirements += project["optional-dependencies"][package.extra]  # type: ignore[index]
    machine = MACHINES[arch]
    platforms = [f"manylinux2014_{machine}", *(f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS)]
    target = ("--target", packages, "--no-compile", "--no-warn-conflicts")
    wheels_for = ("--implementation", "cp", "--python-version", PYTHON, "--only-binary=:all:")
    pip("install", *target, *wheels_for, *(f"--platform={name}" for name in platforms), *requirements)
    pip("install", *target, "--no-deps", wheel)
    for pattern in (*LEFT_OUT, *package.without):
        for path in sorted(packages.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (home / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n")
    (home / "bin").mkdir()
    for name in ("python", "python3"):
        (home / "bin" / name).symlink_to(f"/usr/bin/python{PYTHON}")
    for name, module in package.commands.items():
        script = home / "bin" / name
        script.write_text(f"#!/{package.home}/bin/python -I\nfrom {module} import main\n\nmain()\n")
    (root / "usr/bin").mkdir()
    for name in package.linked:
        (root / "usr/bin" / name).symlink_to(f"../lib/{package.name}/bin/{name}")
    # Nothing can be written there later. No check against the sources: dpkg -V has the sums.
    compiled = compileall.compile_dir(
        packages,
        quiet=1,
        stripdir=str(root),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    assert compiled, "a source does not compile"


def files(package: Package, root: Path) -> None:
    """Put unit, users, folders, configuration and documents where they belong."""
    units = ROOT / "systemd"
    put(units / f"{package.name}.service", root / "lib/systemd/system" / f"{package.name}.service")
    put(units / "skerry.sysusers.conf", root / "usr/lib/sysusers.d" / f"{package.name}.conf")
    put(units / "skerry.tmpfiles.conf", root / "usr/lib/tmpfiles.d" / f"{package.name}.conf")
    put(HERE / package.config, root / "etc/skerry" / package.config)
    if package.name == "skerry-agent":
        put(units / "skerry-agent.slice", root / "lib/systemd/system/skerry-agent.slice")
        put(units / "skerry-agent-limits", root / "lib/systemd/system-generators/skerry-agent-limits")
    documents = root / "usr/share/doc" / package.name
    for name in package.docs:
        put(ROOT / "docs" / name, documents / name)
    put(ROOT / "LICENSE", documents / "copyright")
    (documents / "changelog.gz").write_bytes(gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))


def put(source: Path, target: Path) -> None:
    """Copy a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def normalise(root: Path) -> None:
    """Give every file its mode, whatever the umask was, and its time, where SOURCE_DATE_EPOCH asks for it."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    for path in (root, *root.rglob("*")):
        if path.is_symlink():
            continue
        runs = path.is_dir() or path.parent.name in {"bin", "system-generators"}
        path.chmod(0o755 if runs else 0o644)
        if epoch:
            os.utime(path, (int(epoch), int(epoch)))


def control(package: Package, arch: str, version: str, root: Path) -> None:
    """Write what dpkg asks for."""
    payload = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    folder = root / "DEBIAN"
    folder.mkdir()
    kilobytes = sum(path.stat().st_size for path in payload) // 1024 + 1
    (folder / "control").write_text(
        f"""Package: {package.name}
Version: {version}
Architecture: {arch}
Maintainer: The Skerry maintainers <maintainers@skerry.invalid>
Section: science
Priority: optional
Installed-Size: {kilobytes}
Depends: python{PYTHON}, libc6 (>= 2.28), libgcc-s1, libstdc++6, zlib1g, systemd (>= 249), passwd
Description: {package.summary}
 Skerry trains one model on many uneven devices: nothing waits for the slowest,
 and nothing hangs on one server. Documents: /usr/share/doc/{package.name}.
"""
    )
    (folder / "conffiles").write_text(f"/etc/skerry/{package.config}\n")
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in payload]  # noqa: S324
    (folder / "md5sums").write_text("".join(sums))
    for script in sorted((HERE / "scripts").iterdir()):
        target = folder / script.name
        name = package.name.removeprefix("skerry-")
        target.write_text(script.read_text().replace("@package@", package.name).replace("@state@", name))
        target.chmod(0o755)


def pip(*arguments: str | Path) -> None:
    """Run pip; its own words only where it fails."""
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


def run(*command: str | Path) -> None:
    """Run a command; end with its output where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603 - our own
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        sys.exit(f"make deb: {' '.join(map(str, command[:4]))} ... ended with {done.returncode}")


if __name__ == "__main__":
    main()
