"""The agent's configuration: the only reader of its file and environment. Frozen and validated."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from edge_agent import enrolment_file
from skerry import profile, toml_file
from skerry.errors import ConfigError
from skerry.exposure import check_url, is_loopback
from skerry.policy import Policy
from skerry.protocol.limits import ANSWERS_MAX
from skerry.protocol.messages import Name
from skerry.under_way import STUCK_S

if TYPE_CHECKING:
    from skerry.identity.key_file import IdentityFolder

DEFAULT_PATH = Path("/etc/skerry/agent.toml")
DATA_VARIABLE = "SKERRY_DATA"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"  # set by systemd where the unit says LoadCredential


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the device's own examples come from."""

    source: str = ""  # npz:FILE, csv:FILE, python:MODULE:FUNCTION or builtin:TASK?part=0&parts=6; see docs/data.md
    dir: Path | None = None  # of the data sets that builtin:mnist and others read; None: what SKERRY_DATA says


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What training may take from the device."""

    engine: profile.EngineName | None = None  # None: the profile's, else onnx
    threads: Annotated[int, Meta(ge=1, le=256)] | None = None  # None: the profile's, else 1
    providers: Annotated[tuple[str, ...], Meta(max_length=8)] | None = None  # onnxruntime's; None: the profile's
    batch_examples: Annotated[int, Meta(ge=1, le=65536)] | None = None  # None: the profile's, else the bundle's default
    duty_cycle: Annotated[float, Meta(gt=0.0, le=1.0)] = (
        1.0  # share of the time that a step may compute; it rests for the remainder
    )
    calibration_steps: Annotated[int, Meta(ge=1, le=10000)] = 20  # measured at start, after as many for warm-up
    seed: int | None = None  # of the order of examples; None: drawn at start
    nicer: Annotated[int, Meta(ge=0, le=19)] = 5  # levels of priority below the agent's other threads; Linux only


class HeldOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How well the model does on this device's own held-out rows; only counts and a sum ever leave the device."""

    examples_max: Annotated[int, Meta(ge=0, le=1 << 20)] = 256  # in one evaluation; 0: none
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.02  # of the time, at most


class Personal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A head of the model that is this device's own: tuned on its data, never uploaded."""

    layers: Annotated[tuple[str, ...], Meta(max_length=256)] = ()  # names of tensors, * and ? allowed; (): no own head
    steps: Annotated[int, Meta(ge=1, le=100_000)] = 20  # after a cycle
    learning_rate: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None  # None: the task's default
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1  # of the time, at most
    save_s: Annotated[float, Meta(ge=0.0)] = 60.0  # between two writes of the head


class Privacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of this device's data its updates may tell, whatever the coordinator's recipe says."""

    noise_multiplier_min: Annotated[float, Meta(ge=0.0, le=1e4)] = (
        0.0  # of the recipe's stage `privacy`; 0: none needed
    )


class Inference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Predictions for other programs on this device; see docs/inference.md."""

    enabled: bool = False
    listen: str = "127.0.0.1:8471"  # a loopback address and a port
    request_bytes_max: Annotated[int, Meta(ge=64, le=64 << 20)] = 1 << 20
    examples_max: Annotated[int, Meta(ge=1, le=65536)] = 256  # in one request
    concurrent_max: Annotated[int, Meta(ge=1, le=64)] = 1  # threads that predict
    queue_max: Annotated[int, Meta(ge=0, le=1024)] = 16  # requests that wait for one of them; more are refused
    timeout_s: Annotated[float, Meta(gt=0.0, le=3600.0)] = 10.0  # from a request's head to its answer

    def __post_init__(self) -> None:
        """Check the address.

        Raises:
            ValueError: it is none, or others than this machine could reach it.
        """
        host, port = self.address
        if not is_loopback(host) or host == "localhost" or not 1 <= port <= 65535:
            raise ValueError(
                f"inference.listen: {self.listen!r} is no loopback address with a port, such as 127.0.0.1:8471"
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; port 0 where that is no number."""
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port) if port.isascii() and port.isdigit() else 0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on what the agent keeps and how long it waits."""

    outbox_updates_max: Annotated[int, Meta(ge=1, le=ANSWERS_MAX)] = (
        8  # not acknowledged yet; a full outbox pauses training
    )
    bundle_bytes_max: Annotated[int, Meta(ge=1)] | None = None  # None: the profile's, else 512 MiB
    reconnect_min_s: Annotated[float, Meta(gt=0.0)] = 0.2  # first bound of the full-jitter back-off
    reconnect_max_s: Annotated[float, Meta(gt=0.0)] = 30.0
    heartbeat_s: Annotated[float, Meta(gt=0.0)] = 5.0
    progress_timeout_s: Annotated[float, Meta(gt=0.0)] = 20.0  # no byte received for so long: the stream is dead
    hang_s: Annotated[float, Meta(ge=1.0)] = (
        STUCK_S  # a step or a disk write that takes longer has hung: the watchdog's
    )
    probe_s: Annotated[float, Meta(gt=0.0)] = 30.0  # between two measurements of the ways to several coordinators
    telemetry_s: Annotated[float, Meta(gt=0.0)] = 10.0
    status_s: Annotated[float, Meta(gt=0.0)] = 5.0  # between two writes of status.json
    residual_bytes_per_s: Annotated[float, Meta(gt=0.0)] | None = None  # None: the profile's, else 100e3; flash wear
    model_save_s: Annotated[float, Meta(gt=0.0)] = 600.0  # between two writes of the regional model
    flash_bytes_per_hour: profile.FlashRate | None = None  # all that is written; None: the profile's, else 360e6


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`/etc/skerry/agent.toml`."""

    device: Name = ""  # "": as it was called when it joined
    coordinators: Annotated[tuple[str, ...], Meta(max_length=16)] = ()  # base URLs; (): those that it joined
    data: Data = Data()  # without a source: the one that was named when it joined
    state_dir: Path = Path("/var/lib/skerry/agent")
    runtime_dir: Path | None = None  # for status.json, which need not survive; None: state_dir
    profile: str = ""  # a name in profiles/ or a path; "": none
    identity_dir: Path | None = None  # keys and certificates; None: state_dir/identity
    credentials_dir: Path | None = None  # the same files, looked for here first; None: what CREDENTIALS_DIRECTORY says
    insecure: bool = False  # plain http, loopback labs only; must be spelt out
    insecure_beyond_loopback: bool = False  # plain http to other machines; counts only together with `insecure`
    training: Training = Training()
    held_out: HeldOut = HeldOut()
    personal: Personal = Personal()
    privacy: Privacy = Privacy()
    inference: Inference = Inference()
    limits: Limits = Limits()
    policy: Policy = Policy()  # as `load` gives it, the profile's where the file says nothing
    roam: bool = True  # to coordinators that another one names, too
    log_json: bool = False

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        for url in self.coordinators:
            try:
                check_url(url, insecure=self.insecure, beyond_loopback=self.insecure_beyond_loopback)
            except ConfigError as error:
                raise ValueError(f"coordinators: {error}") from error
        if self.limits.heartbeat_s >= self.limits.progress_timeout_s:
            raise ValueError("limits.heartbeat_s must be below limits.progress_timeout_s")

    def identity_folder(self) -> "IdentityFolder":
        """Return where the device's key and certificate are."""
        from skerry.identity.key_file import IdentityFolder

        return IdentityFolder(self.identity_dir or self.state_dir / "identity", self.credentials_dir)


def load_before_join(path: Path, environment: Mapping[str, str] = os.environ) -> AgentConfig:
    """Read and validate `path`, which need not be there, nor say what a join will.

    Raises:
        ConfigError: naming the file, the key and the remedy.
    """
    return _with_environment(toml_file.read(path, AgentConfig) if path.exists() else AgentConfig(), environment)


def load(path: Path, environment: Mapping[str, str] = os.environ) -> AgentConfig:
    """Read and validate `path`.

    Of the environment, SKERRY_DATA stands in for `dir` of [data], CREDENTIALS_DIRECTORY for `credentials_dir`. What
    the file leaves open is as the device's join has it.

    Raises:
        ConfigError: naming the file, the key and the remedy.
        IdentityError: name and coordinators are nowhere: the device has to join.
    """
    config = _with_join(_with_environment(toml_file.read(path, AgentConfig), environment), path)
    if not config.profile:
        return config
    try:
        chosen = profile.load(config.profile)
    except ConfigError as error:
        raise ConfigError(f"{path}: profile: {error}") from error
    return msgspec.structs.replace(config, policy=toml_file.read_over(path, "policy", chosen.policy))


def _with_environment(config: AgentConfig, environment: Mapping[str, str]) -> AgentConfig:
    if config.data.dir is None and environment.get(DATA_VARIABLE):
        data = msgspec.structs.replace(config.data, dir=Path(environment[DATA_VARIABLE]))
        config = msgspec.structs.replace(config, data=data)
    if config.credentials_dir is None and environment.get(CREDENTIALS_VARIABLE):
        config = msgspec.structs.replace(config, credentials_dir=Path(environment[CREDENTIALS_VARIABLE]))
    return config


def _with_join(config: AgentConfig, path: Path) -> AgentConfig:
    """Fill in what the file leaves open from the device's join."""
    if not (config.device and config.coordinators and config.data.source):
        folders = (config.credentials_dir, config.identity_dir or config.state_dir / "identity")
        joined = enrolment_file.read(tuple(folder for folder in folders if folder is not None))
        if joined is not None:
            source = config.data.source or joined.data_source or ""
            config = msgspec.structs.replace(
                config,
                device=config.device or joined.device,
                coordinators=config.coordinators or joined.coordinators,
                data=msgspec.structs.replace(config.data, source=source),
            )
    for key in ("device", "coordinators"):
        if not getattr(config, key):
            from skerry.identity.errors import IdentityError

            raise IdentityError(
                f"{path}: `{key}` is missing, and this device has not joined a federation: run `skerry-agent join URL "
                "--token-file FILE`, or name it in the file"
            )
    return config


@dataclass(frozen=True, slots=True)
class InForce:
    """What holds where configuration and profile are read together: the former's own word, else the latter's."""

    engine: profile.EngineName
    threads: int
    providers: tuple[str, ...]
    batch_examples: int | None  # None: the bundle's default
    bundle_bytes_max: int
    residual_bytes_per_s: float
    flash_bytes_per_hour: float


def with_profile(config: AgentConfig) -> InForce:
    """Return what holds on this device.

    Raises:
        ConfigError: the profile cannot be read.
    """
    chosen = profile.load(config.profile) if config.profile else profile.Profile(name="none")
    training, limits = config.training, config.limits
    return InForce(
        engine=training.engine or chosen.engine,
        threads=training.threads or chosen.threads,
        providers=chosen.providers if training.providers is None else training.providers,
        batch_examples=training.batch_examples or chosen.batch_examples,
        bundle_bytes_max=limits.bundle_bytes_max or chosen.limits.bundle_bytes_max,
        residual_bytes_per_s=limits.residual_bytes_per_s or chosen.limits.residual_bytes_per_s,
        flash_bytes_per_hour=limits.flash_bytes_per_hour or chosen.limits.flash_bytes_per_hour,
    )
