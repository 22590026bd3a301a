"""`skerry-lab deploy`: the same on every board of an inventory, several at a time; one that fails holds up no other."""

import asyncio
import hashlib
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skerry.errors import ConfigError, SkerryError, StorageError
from testbed import whole_file
from testbed.deploy import inventory as inventories
from testbed.deploy import plan, ssh
from testbed.deploy.inventory import Board, Inventory, Target
from testbed.deploy.plan import Step, Verb, Wish


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line says."""

    verb: Verb
    inventory: Path
    boards: tuple[str, ...] = ()  # names; (): all
    jobs: int = 8
    dry_run: bool = False
    token: bytes | None = None
    output: Path = Path("boards")  # of `collect`


@dataclass(slots=True)
class Outcome:
    """What became of one board."""

    board: str
    done: list[str] = field(default_factory=list)  # or, with dry_run, what would be done
    error: str = ""


def run(order: Order, tell: Callable[[str], None]) -> list[Outcome]:
    """Carry the order out; `tell` hears of each step. The outcomes are in the inventory's order.

    Raises:
        ConfigError: the inventory, or a name of a board.
    """
    inventory = inventories.load(order.inventory)
    boards = _chosen(inventory, order.boards)
    return asyncio.run(_all(order, inventory, boards, tell))


def _chosen(inventory: Inventory, names: Sequence[str]) -> list[Board]:
    known = {board.name: board for board in inventory.boards}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"the inventory has no board {', '.join(unknown)}; it has: {', '.join(known)}")
    return [board for board in inventory.boards if not names or board.name in names]


async def _all(order: Order, inventory: Inventory, boards: list[Board], tell: Callable[[str], None]) -> list[Outcome]:
    at_a_time = asyncio.Semaphore(order.jobs)

    async def one(board: Board) -> Outcome:
        outcome = Outcome(board.name)
        async with at_a_time:
            try:
                await _board(order, inventory, inventories.target(inventory, board), outcome, tell)
            except SkerryError as error:
                outcome.error = str(error)
                tell(f"{board.name}: FAILED: {error}")
        return outcome

    return list(await asyncio.gather(*(one(board) for board in boards)))


async def _board(
    order: Order, inventory: Inventory, target: Target, outcome: Outcome, tell: Callable[[str], None]
) -> None:
    answer = await ssh.run(target, inventory.ssh_options, plan.PROBE)
    facts = plan.facts_of(answer.decode(errors="replace"))
    wish = _wish(order, inventory, facts.arch)
    wanted = plan.steps(order.verb, target, facts, wish)
    if not wanted:
        tell(f"{target.name}: nothing to do")
    for step in wanted:
        tell(f"{target.name}: {'would ' if order.dry_run else ''}{step.says}")
        if not order.dry_run:
            await _take(order, inventory, target, step)
        outcome.done.append(step.says)


def _wish(order: Order, inventory: Inventory, arch: str) -> Wish:
    if order.verb != "install":
        return Wish(token=order.token)
    package = inventories.package_for(inventory, order.inventory.parent, arch)
    version = package_version(package)
    with package.open("rb") as file:
        return Wish(package=package, version=version, package_sha256=hashlib.file_digest(file, "sha256").hexdigest())


async def _take(order: Order, inventory: Inventory, target: Target, step: Step) -> None:
    output = await ssh.run(target, inventory.ssh_options, step.command, step.sends)
    if step.keeps is not None:
        path = order.output / target.name / step.keeps
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole_file.write(path, output)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def package_version(package: Path) -> str:
    """Return the version of a Debian package.

    Raises:
        ConfigError: there is no such package, or nothing here that can read one.
    """
    if not package.is_file():
        raise ConfigError(f"package: there is no {package}: `make deb` builds it")
    try:
        read = subprocess.run(  # noqa: S603 - the path is one argument
            ["dpkg-deb", "--field", str(package), "Version"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ConfigError("dpkg-deb is missing: apt-get install dpkg") from error
    if read.returncode:
        raise ConfigError(f"package: {package} is no Debian package: {read.stderr.strip()}")
    return read.stdout.strip()
