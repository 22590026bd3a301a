"""The Debian packages that `make deb` builds, and the same under a higher version number."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "deb"
NAMES = ("skerry-agent", "skerry-coordinator")
VERSION, NEWER = "0.1.0", "0.1.1"


def build() -> dict[str, Path]:
    """Return the packages of this tree by name; those that are newer than every file of it are used again."""
    wanted = {name: FOLDER / f"{name}_{VERSION}_amd64.deb" for name in NAMES}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sources = [ROOT / name for name in listed.split("\n") if name and not name.startswith(("tests/", "docs/"))]
    newest = max(path.stat().st_mtime for path in sources if path.exists())
    if not all(path.exists() and path.stat().st_mtime > newest for path in wanted.values()):
        subprocess.run([sys.executable, ROOT / "packaging" / "build.py", "--version", VERSION], check=True)
    return wanted


def with_version(package: Path, version: str) -> Path:
    """Return a package like `package`, of another version."""
    made = package.with_name(package.name.replace(VERSION, version))
    if made.exists() and made.stat().st_mtime > package.stat().st_mtime:
        return made
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        subprocess.run(["dpkg-deb", "--raw-extract", package, root], check=True)
        control = root / "DEBIAN" / "control"
        control.write_text(control.read_text().replace(f"Version: {VERSION}", f"Version: {version}"))
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zzstd", "--build", root, made], check=True)
        shutil.rmtree(root)
    return made
