"""The unit's bound on memory, from the profile of the device's type: a generator of systemd, see systemd.generator(7).

systemd/skerry-agent-limits runs it with the folder for its drop-in, at the machine's start and on `daemon-reload`. Only
the name of the profile is read: a mistake elsewhere in the configuration is the service's to tell.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_agent.config import DEFAULT_PATH
from skerry import profile, toml_file
from skerry.errors import SkerryError
from skerry.profile import Profile

DROP_IN = Path("skerry-agent.service.d") / "50-profile.conf"
HIGH_SHARE = 0.9  # of the bound: from there on the kernel reclaims before it kills


class _Named(msgspec.Struct):
    profile: str = ""


def drop_in(chosen: Profile) -> str | None:
    """Return the drop-in for a device of this type; None: its profile bounds nothing."""
    bytes_max = chosen.limits.memory_bytes_max
    if bytes_max is None:
        return None
    return (
        f"# limits.memory_bytes_max of the profile {chosen.name}\n"
        f"[Service]\nMemoryHigh={int(HIGH_SHARE * bytes_max)}\nMemoryMax={bytes_max}\n"
    )


def generate(folder: Path, config: Path = DEFAULT_PATH) -> None:
    """Write the drop-in below `folder`, if `config` is there and names a profile that bounds anything.

    Raises:
        ConfigError: the configuration is no TOML, or names no profile that there is.
        OSError: `folder` cannot be written.
    """
    named = toml_file.read(config, _Named).profile if config.exists() else ""
    text = drop_in(profile.load(named)) if named else None
    if text is not None:
        path = folder / DROP_IN
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main(arguments: Sequence[str]) -> int:
    """Run as a generator; return the exit code."""
    try:
        generate(Path(arguments[0]))
    except (SkerryError, OSError) as error:
        print(f"skerry-agent-limits: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
