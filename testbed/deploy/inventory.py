"""The inventory: which boards there are, how to reach them, and what each is to be."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from skerry import profile, toml_file
from skerry.protocol.messages import Name

# What ssh takes for a host or a user; neither can be mistaken for an option, nor for anything else by a shell.
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_\[][A-Za-z0-9_.:\-\[\]%]*$", max_length=255)]
User = Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]*$", max_length=32)]


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One board; None: as the inventory says for all."""

    name: Name  # of the device in the federation
    address: Host
    user: User | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    coordinator: str | None = None
    profile: str | None = None
    data: str | None = None  # as the agent's data.source
    config: str | None = None  # further lines of agent.toml


class Inventory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`inventory.toml`."""

    boards: Annotated[tuple[Board, ...], Meta(min_length=1, max_length=4096)]
    package: str = "build/deb/skerry-agent_0.1.0_{arch}.deb"  # relative to the inventory; {arch}: the board's own
    coordinator: str | None = None  # base URL to join
    user: User = "root"  # any other needs sudo without a password
    port: Annotated[int, Meta(ge=1, le=65535)] = 22
    profile: str = ""
    data: str = ""
    config: str = ""
    ssh_options: Annotated[tuple[str, ...], Meta(max_length=32)] = ()  # further arguments of ssh, such as -i and a key

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        names = Counter(one.name for one in self.boards)
        addresses = Counter(f"{one.address} port {one.port or self.port}" for one in self.boards)
        twice = [what for counted in (names, addresses) for what, count in counted.items() if count > 1]
        if twice:
            raise ValueError(f"boards: {', '.join(twice)} stands there more than once")
        for board in self.boards:
            url = board.coordinator or self.coordinator
            if url is not None and not url.startswith(("https://", "http://")):
                raise ValueError(f"coordinator: {url!r} is no http:// or https:// URL")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A board with all that holds for it."""

    name: str
    address: str
    user: str
    port: int
    coordinator: str | None
    config: str  # the whole agent.toml


def load(path: Path) -> Inventory:
    """Read and validate an inventory.

    Raises:
        ConfigError: naming file and key; also where a profile is named that there is not.
    """
    inventory = toml_file.read(path, Inventory)
    for name in {one.profile or inventory.profile for one in inventory.boards} - {""}:
        profile.path_of(name)
    return inventory


def target(inventory: Inventory, board: Board) -> Target:
    """Return what holds for `board`."""
    return Target(
        name=board.name,
        address=board.address,
        user=board.user or inventory.user,
        port=board.port or inventory.port,
        coordinator=board.coordinator or inventory.coordinator,
        config=_agent_toml(inventory, board),
    )


def package_for(inventory: Inventory, folder: Path, arch: str) -> Path:
    """Return the package for boards of architecture `arch`; `folder` is the inventory's."""
    return folder / inventory.package.replace("{arch}", arch)


def _agent_toml(inventory: Inventory, board: Board) -> str:
    """Return the board's agent.toml: who it is and where its coordinators are, the join says."""
    chosen, source = board.profile or inventory.profile, board.data or inventory.data
    lines = [
        "# Written by `skerry-lab deploy`: the inventory is the place to change it.",
        'runtime_dir = "/run/skerry/agent"',
    ]
    if chosen:
        lines.append(f"profile = {_quoted(chosen)}")
    more = board.config if board.config is not None else inventory.config
    if source:
        more = f"{more.rstrip()}\n[data]\nsource = {_quoted(source)}\n"
    return "\n".join(lines) + "\n" + more.lstrip("\n") if more else "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a TOML string; a JSON one is one."""
    return msgspec.json.encode(text).decode()
