"""The coordinator's configuration: the only reader of its files and environment. Frozen and validated."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from skerry import toml_file
from skerry.command_line import naming
from skerry.protocol import limits
from skerry.protocol.messages import Name, Url
from skerry.recipe import Recipe
from skerry.under_way import STUCK_S

if TYPE_CHECKING:
    from skerry.identity.key_file import IdentityFolder

DEFAULT_PATH = Path("/etc/skerry/coordinator.toml")
DATA_VARIABLE = "SKERRY_DATA"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"  # set by systemd where the unit says LoadCredential
UNNAMED = Recipe().name  # of a recipe that does not say what it is called
PART_FRAME_BYTES = 1024  # what a frame takes beside the part that it carries


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where agents and peers reach this coordinator."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8470  # 0: any free port, written to state_dir/port


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Held-out data at the coordinator, if it has some."""

    source: str  # as the agent's data.source
    dir: Path | None = None  # as the agent's data.dir; None: what SKERRY_DATA says
    every_s: Annotated[float, Meta(gt=0.0)] = 10.0  # skipped while the model has not changed


class Checkpoints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the journal is cut."""

    every_updates: Annotated[int, Meta(ge=1)] = 1000
    every_s: Annotated[float, Meta(gt=0.0)] = 300.0  # only if anything changed
    keep: Annotated[int, Meta(ge=1, le=100)] = 2  # older files are removed
    history_versions: Annotated[int, Meta(ge=0)] = (
        10_000  # the journal reaches back so far behind the newest checkpoint
    )


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one peer or device may take. See skerry.protocol.limits for the protocol's own bounds."""

    frame_bytes_max: Annotated[int, Meta(ge=4096)] = limits.FRAME_BYTES_MAX
    part_bytes_max: Annotated[int, Meta(ge=1024)] = limits.PART_BYTES_MAX
    update_bytes_max: Annotated[int, Meta(ge=1024, le=limits.PAYLOAD_BYTES_MAX)] = limits.PAYLOAD_BYTES_MAX
    connections_max: Annotated[int, Meta(ge=1)] = 20_000  # of agents' streams, and of all connections
    connections_per_address_max: Annotated[int, Meta(ge=1)] = 2048  # devices of one site come from one address
    connections_per_s_max: Annotated[float, Meta(gt=0.0)] = 300.0  # new ones; each costs a handshake
    connections_per_address_per_s_max: Annotated[float, Meta(gt=0.0)] = 50.0
    device_frames_per_s_max: Annotated[float, Meta(ge=1.0)] = 200.0  # above it, the stream is read more slowly
    # What is on its way to the disk; above it, streams are read no further until a commit.
    commit_queue_updates_max: Annotated[int, Meta(ge=1)] = 4096  # updates and telemetry
    commit_queue_bytes_max: Annotated[int, Meta(ge=1)] = 512 << 20  # of updates in memory, payloads and entries
    progress_timeout_s: Annotated[float, Meta(gt=0.0)] = limits.PROGRESS_TIMEOUT_S
    hang_s: Annotated[float, Meta(ge=1.0)] = STUCK_S  # an evaluation or a write that takes longer: the watchdog's

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        if self.part_bytes_max + PART_FRAME_BYTES > self.frame_bytes_max:
            raise ValueError(
                f"part_bytes_max is {self.part_bytes_max}: with {PART_FRAME_BYTES} bytes for the rest of the message "
                f"that does not fit frame_bytes_max, {self.frame_bytes_max}"
            )
        if self.update_bytes_max > limits.PARTS_MAX * self.part_bytes_max:
            raise ValueError(
                f"update_bytes_max is {self.update_bytes_max}, more than the {limits.PARTS_MAX} parts of an update "
                f"carry with a part_bytes_max of {self.part_bytes_max}"
            )


class Enrolment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What devices get when they join."""

    device_certificate_s: Annotated[float, Meta(ge=10.0, le=366 * 86400.0)] = 90 * 86400.0  # renewed at half of it


class CoordinatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`/etc/skerry/coordinator.toml`."""

    name: Name
    region: Name
    bundle: str  # a path, or builtin:TASK
    recipe: str | Recipe = Recipe()  # path of a TOML file, or the tables inline
    url: Url | None = None  # where agents reach it, of any region; None: with TLS at its certificate's first address
    peers: dict[Name, str] = {}  # name -> base URL of the other coordinators
    peers_wait_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 15.0  # at a start without a state, while no peer answers
    state_dir: Path = Path("/var/lib/skerry/coordinator")
    identity_dir: Path | None = None  # keys and certificates; None: state_dir/identity
    credentials_dir: Path | None = None  # the same files, looked for here first; None: what CREDENTIALS_DIRECTORY says
    insecure: bool = False  # plain http, loopback labs only; must be spelt out
    insecure_beyond_loopback: bool = False  # plain http on other addresses; counts only together with `insecure`
    listen: Listen = Listen()
    evaluation: Evaluation | None = None
    checkpoints: Checkpoints = Checkpoints()
    enrolment: Enrolment = Enrolment()
    limits: Limits = Limits()
    log_json: bool = False

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        if self.name in self.peers:
            raise ValueError(f"peers: {self.name!r} is this coordinator's own name")
        for name, url in self.peers.items():
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"peers.{name}: {url!r} is no http:// or https:// URL")
        host = f"[{self.listen.host}]" if ":" in self.listen.host else self.listen.host
        for own_url in filter(None, (self.url, f"http://{host}:{self.listen.port}" if self.listen.port else None)):
            self.check_no_peer_at(own_url)

    def check_no_peer_at(self, own_url: str) -> None:
        """Refuse a peer that is this coordinator itself.

        Raises:
            ValueError: one of `peers` has the host and port of `own_url`.
        """
        for name, url in self.peers.items():
            if _place(url) == _place(own_url):
                raise ValueError(f"peers.{name}: {url!r} is where this coordinator itself is reached")

    def identity_folder(self) -> "IdentityFolder":
        """Return where the coordinator's keys and certificates are."""
        from skerry.identity.key_file import IdentityFolder

        return IdentityFolder(self.identity_dir or self.state_dir / "identity", self.credentials_dir)


def load(path: Path, environment: Mapping[str, str] = os.environ) -> CoordinatorConfig:
    """Read and validate `path`; a recipe given as a path is read relative to it.

    A recipe's file that has no `name` is called as the file is, without its suffix.
    Of the environment, SKERRY_DATA stands in for `dir` of [evaluation], CREDENTIALS_DIRECTORY for `credentials_dir`.

    Raises:
        ConfigError: naming the file, the key and the remedy.
    """
    config = toml_file.read(path, CoordinatorConfig)
    if isinstance(config.recipe, str):
        with naming(path):
            recipe = toml_file.read(path.parent / config.recipe, Recipe)
        if recipe.name == UNNAMED:
            recipe = msgspec.structs.replace(recipe, name=Path(config.recipe).stem)
        config = msgspec.structs.replace(config, recipe=recipe)
    if config.evaluation is not None and config.evaluation.dir is None and environment.get(DATA_VARIABLE):
        evaluation = msgspec.structs.replace(config.evaluation, dir=Path(environment[DATA_VARIABLE]))
        config = msgspec.structs.replace(config, evaluation=evaluation)
    if config.credentials_dir is None and environment.get(CREDENTIALS_VARIABLE):
        config = msgspec.structs.replace(config, credentials_dir=Path(environment[CREDENTIALS_VARIABLE]))
    return config


def _place(url: str) -> tuple[str | None, int]:
    """Return the host and port of a base URL; port 0, which nobody is at, where that is no port."""
    parts = urlsplit(url)
    try:
        return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return parts.hostname, 0
