"""A profile: what a device type is like. The agent takes its limits from it, a lab its model of the device.

One TOML file per device type in `profiles/`; `skerry-agent bench --output FILE` writes one for the device it runs on.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from skerry import toml_file
from skerry.errors import ConfigError
from skerry.policy import Policy
from skerry.protocol.messages import Name, Text

FOLDER = Path(__file__).parent.parent / "profiles"
SUFFIX = ".toml"

EngineName = Literal["onnx", "torch"]
FlashRate = Annotated[float, Meta(ge=6e6)]  # bytes per hour; half of it goes to status.json, where that is on a disk
PositiveFloat = Annotated[float, Meta(gt=0.0)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the agent may take from a device of this type, where its own configuration says nothing."""

    memory_bytes_max: Annotated[int, Meta(ge=1)] | None = None  # resident, of the agent; None: `doctor` asks the system
    bundle_bytes_max: Annotated[int, Meta(ge=1)] = 512 << 20
    residual_bytes_per_s: PositiveFloat = 100e3  # in the long run: docs/agent.md, flash wear
    flash_bytes_per_hour: FlashRate = 360e6  # all that the agent writes: what a card of 32 GB takes for five years


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The device's way to the network."""

    latency_s: Annotated[float, Meta(ge=0.0)]  # one way, to the first hop behind the radio
    jitter_s: Annotated[float, Meta(ge=0.0)] = 0.0  # mean of what a packet is late beyond that; exponential
    up_bytes_per_s: PositiveFloat | None = None  # payload that TCP carries away from the device; None: as down
    down_bytes_per_s: PositiveFloat
    loss_share: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0  # of packets, each by itself


class Jitter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the time of a step spreads: the median times exp(sigma * z), z standard normal."""

    distribution: Literal["lognormal"] = "lognormal"
    sigma: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.0


class Throttling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Episodes in which heat or power hold the processor back; both times are means of exponential distributions."""

    every_s: PositiveFloat  # from the end of one to the beginning of the next
    lasts_s: PositiveFloat
    slowdown: Annotated[float, Meta(ge=1.0)]  # a step takes so many times as long as outside of an episode


class Lab(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a lab makes one of its own cores look like this device; the agent on a real one ignores it.

    The reference core is an Intel Core i3-8100's: 1,000 points of Geekbench 5, single core (Primate Labs, 2019). A lab
    takes its own cores for that.
    """

    slowdown: Annotated[float, Meta(ge=1.0)] = 1.0  # a step takes so many times as long as on the reference core
    jitter: Jitter = Jitter()
    throttling: Throttling | None = None  # None: never

    @property
    def duty_cycle(self) -> float:
        """Share of the time that a step may compute, in (0, 1]: the agent's `training.duty_cycle`."""
        return 1.0 / self.slowdown


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `skerry-agent bench` found on one real device of this type."""

    runs_on: str  # engine and execution provider, with the reason where it is not the one that was asked for
    bundle: str  # name of the task
    batch_examples: Annotated[int, Meta(ge=1)]
    steps: Annotated[int, Meta(ge=1)]  # timed
    seconds_per_step: PositiveFloat  # median, with `engine` and `threads`
    seconds_per_step_p95: PositiveFloat  # 95 of 100 steps took no longer
    disk_sync_s: PositiveFloat  # median of one durable write of 4 KiB
    disk_sync_p95_s: PositiveFloat
    resident_bytes: Annotated[int, Meta(ge=1)]  # of the whole process after training
    round_trip_s: PositiveFloat | None = None  # median, to a coordinator and back


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device type."""

    name: Name
    description: Text = ""
    engine: EngineName = "onnx"
    providers: Annotated[tuple[str, ...], Meta(max_length=8)] = ()  # onnxruntime's, tried in order before the CPU
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    batch_examples: Annotated[int, Meta(ge=1, le=65536)] | None = None  # None: the bundle's default
    memory_bytes: Annotated[int, Meta(ge=1)] | None = None  # of the whole device
    limits: Limits = Limits()
    policy: Policy = Policy()  # when to slow down or rest; the configuration's keys go before these
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
    return toml_file.read(path_of(spec), Profile)


def path_of(spec: str) -> Path:
    """Return the file of the profile `spec`, see `load`.

    Raises:
        ConfigError: there is none of that name.
    """
    if "/" in spec or spec.endswith(SUFFIX):
        return Path(spec)
    if spec not in names():
        near = get_close_matches(spec, names(), n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"profile {spec!r}: there is no such profile; {meant}there are: {', '.join(names())}; or give a path"
        )
    return FOLDER / f"{spec}{SUFFIX}"


def to_toml(profile: Profile, comment: str, sources: Mapping[str, str]) -> str:
    """Return `profile` as TOML text under a `comment` line; keys that hold their default are left out.

    `sources` says of a key, with its tables before it as in `lab.jitter.sigma`, or of all keys of a table, where its
    value comes from; that stands behind it.
    """
    lines = [f"# {comment}"]
    plain = msgspec.to_builtins(profile)
    _write_table(plain, msgspec.to_builtins(Profile(name=profile.name)), (), sources, lines)
    return "\n".join(lines) + "\n"


def _write_table(
    table: dict[str, Any], default: dict[str, Any], at: tuple[str, ...], sources: Mapping[str, str], lines: list[str]
) -> None:
    header = [f"[{'.'.join(at)}]"] if at else []
    for key, value in table.items():
        if not isinstance(value, dict) and (value != default.get(key) or key == "name"):
            source = sources.get(".".join((*at, key))) or sources.get(".".join(at))
            lines += ["", *header] if header else []
            header = []
            lines.append(_line(key, value) + (f"  # {source}" if source else ""))
    for key, value in table.items():
        if isinstance(value, dict):
            _write_table(value, default.get(key) or {}, (*at, key), sources, lines)


def _line(key: str, value: object) -> str:
    """Return one TOML line; a JSON string, integer, finite float or list of them is a TOML one, too."""
    return f"{key} = {msgspec.json.encode(value).decode()}"
