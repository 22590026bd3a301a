"""The agent's configuration: the only reader of its file and environment. Frozen and validated."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from skerry import toml_file
from skerry.errors import ConfigError
from skerry.protocol.messages import Name

DEFAULT_PATH = Path("/etc/skerry/agent.toml")


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the device's own examples come from."""

    source: str  # npz:FILE, csv:FILE, python:MODULE:FUNCTION or builtin:TASK?partition=0&of=6; see docs/data.md


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What training may take from the device."""

    engine: str = "onnx"  # onnx or torch
    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    batch_examples: Annotated[int, Meta(ge=1, le=65536)] | None = None  # None: the bundle's default
    duty_cycle: Annotated[float, Meta(gt=0.0, le=1.0)] = (
        1.0  # share of the time that a step may compute; it rests for the remainder
    )
    calibration_steps: Annotated[int, Meta(ge=1, le=10000)] = 20  # measured at start, after as many for warm-up
    seed: int | None = None  # of the order of examples; None: drawn at start


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on what the agent keeps and how long it waits."""

    outbox_updates_max: Annotated[int, Meta(ge=1, le=1000)] = 8  # not acknowledged yet; a full outbox pauses training
    bundle_bytes_max: Annotated[int, Meta(ge=1)] = 512 << 20
    reconnect_min_s: Annotated[float, Meta(gt=0.0)] = 0.2  # first bound of the full-jitter back-off
    reconnect_max_s: Annotated[float, Meta(gt=0.0)] = 30.0
    heartbeat_s: Annotated[float, Meta(gt=0.0)] = 5.0
    progress_timeout_s: Annotated[float, Meta(gt=0.0)] = 20.0  # no byte received for so long: the stream is dead
    telemetry_s: Annotated[float, Meta(gt=0.0)] = 10.0


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`/etc/skerry/agent.toml`."""

    device: Name
    coordinators: Annotated[tuple[str, ...], Meta(min_length=1, max_length=16)]  # base URLs, e.g. http://127.0.0.1:8470
    data: Data
    state_dir: Path = Path("/var/lib/skerry/agent")
    profile: str = ""  # a name in profiles/ or a path; "": none
    insecure: bool = False  # plain http, loopback labs only; must be spelt out
    training: Training = Training()
    limits: Limits = Limits()
    log_json: bool = False

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        for url in self.coordinators:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"coordinators: {url!r} is no http:// or https:// URL")
            if url.startswith("http://") and not self.insecure:
                raise ValueError(
                    f"coordinators: {url!r} is plain http; use https, or spell out `insecure = true` in a loopback lab"
                )
        if self.limits.heartbeat_s >= self.limits.progress_timeout_s:
            raise ValueError("limits.heartbeat_s must be below limits.progress_timeout_s")


def load(path: Path) -> AgentConfig:
    """Read and validate `path`.

    Raises:
        ConfigError: naming the file, the key and the remedy.
    """
    config = toml_file.read(path, AgentConfig)
    if config.training.engine not in {"onnx", "torch"}:
        raise ConfigError(f"{path}: training.engine: {config.training.engine!r} is neither 'onnx' nor 'torch'")
    return config
