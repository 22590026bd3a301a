"""A profile: what a device type is like. The agent takes its limits from it, a lab its model of the device.

One TOML file per device type in `profiles/`; `skerry-agent bench --out FILE` writes one for the device it runs on.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from skerry import toml_file
from skerry.errors import ConfigError
from skerry.protocol.messages import Name, Text

FOLDER = Path(__file__).parent.parent / "profiles"
SUFFIX = ".toml"

EngineName = Literal["onnx", "torch"]
PositiveFloat = Annotated[float, Meta(gt=0.0)]


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The device's way to the network."""

    latency_s: Annotated[float, Meta(ge=0.0)]  # one way, to the first hop behind the radio
    up_bytes_per_s: PositiveFloat  # payload that TCP carries away from the device
    down_bytes_per_s: PositiveFloat


class Lab(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a lab makes one of its own cores look like this device; the agent on a real one ignores it."""

    slowdown: Annotated[float, Meta(ge=1.0)] = 1.0  # a step takes so many times as long as undisturbed

    @property
    def duty_cycle(self) -> float:
        """Share of the time that a step may compute, in (0, 1]: the agent's `training.duty_cycle`."""
        return 1.0 / self.slowdown


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `skerry-agent bench` found on one real device of this type."""

    bundle: str  # name of the task
    batch_examples: Annotated[int, Meta(ge=1)]
    seconds_per_step: PositiveFloat  # median, with `engine` and `threads`
    disk_sync_s: PositiveFloat  # median of one durable write of 4 KiB
    resident_bytes: Annotated[int, Meta(ge=1)]  # of the whole process after training


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device type."""

    name: Name
    description: Text = ""
    engine: EngineName = "onnx"
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    memory_bytes: Annotated[int, Meta(ge=1)] | None = None  # of the whole device
    link: Link | None = None
    lab: Lab = Lab()
    measured: Measured | None = None  # None: nobody has run `bench` on one yet


def names() -> list[str]:
    """Return the names of the profiles that are shipped with the product."""
    return sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}"))


def load(spec: str) -> Profile:
    """Return the profile called `spec`, or the one in the file `spec` if it has a slash or ends in .toml.

    Raises:
        ConfigError: there is none, or the file is no profile; names file and key.
    """
    if "/" in spec or spec.endswith(SUFFIX):
        return toml_file.read(Path(spec), Profile)
    if spec not in names():
        raise ConfigError(
            f"profile {spec!r}: there is no such profile; there are: {', '.join(names())}; or give a path"
        )
    return toml_file.read(FOLDER / f"{spec}{SUFFIX}", Profile)


def to_toml(profile: Profile, comment: str) -> str:
    """Return `profile` as TOML text under a `comment` line; keys that hold their default None are left out."""
    lines = [f"# {comment}"]
    tables: list[str] = []
    for key, value in msgspec.to_builtins(profile).items():
        if isinstance(value, dict):
            tables += ["", f"[{key}]", *(_line(inner, item) for inner, item in value.items())]
        elif value is not None:
            lines.append(_line(key, value))
    return "\n".join([*lines, *tables]) + "\n"


def _line(key: str, value: str | float) -> str:
    """Return one TOML line; a JSON string, integer or finite float is a TOML one, too."""
    return f"{key} = {msgspec.json.encode(value).decode()}"
