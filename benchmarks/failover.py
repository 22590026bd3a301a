"""How long devices are without a coordinator when theirs is killed, and whether each update counts once all the same.

    python -m benchmarks.failover --kills 50 --json docs/results/failover.json --markdown docs/results/failover.md

Real processes at their default settings, mutual TLS included: two coordinators that are each other's peers, and some
agents that know both.
Again and again the coordinator that has more of the devices is killed with SIGKILL, and started again when all of them
have been acknowledged an update by the other one. The figures are seconds from the signal, read off the other
coordinator's status every 20 ms:

    first_s    the first device that moved has an update acknowledged in the other region
    all_s      every device that moved has

At the end the journals and the devices' outboxes are read: every number that a device has given to an update must count
in exactly one journal, what was taken back not counted, or still wait. Exits with 1 where one does not, or where the
slowest first_s is not below the target of 5 s.
"""

import argparse
import asyncio
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from benchmarks import result
from benchmarks.identities import make_federation
from coordinator.config import CoordinatorConfig, Listen
from coordinator.history import read_history
from edge_agent.config import AgentConfig, Data, Training
from edge_agent.store import FILE_NAME, Store
from skerry.errors import SkerryError
from skerry.identity import tls
from skerry.policy import Policy
from testbed.processes import toml_text
from testbed.processes.process import Process, ProcessFailedError

T = TypeVar("T")
COORDINATORS = ("east", "west")
POLL_S = 0.02
PATIENCE_S = 60.0
TARGET_S = 5.0


@dataclass
class Failover:
    """One kill."""

    killed: str
    devices: int  # that had to move
    first_s: float
    all_s: float


@dataclass
class Outcome:
    """What came of all kills."""

    kills: list[Failover] = field(default_factory=list)
    updates: int = 0  # numbers that devices have given
    waiting: int = 0  # of them, still without an answer
    taken_back: int = 0
    violations: list[str] = field(default_factory=list)


class Federation:
    """Two coordinators and their devices, as processes."""

    def __init__(self, folder: Path, devices: int, seed: int) -> None:
        self.folder = folder
        self.urls = {name: f"https://127.0.0.1:{port}" for name, port in zip(COORDINATORS, _free_ports(), strict=True)}
        self.failure: ProcessFailedError | None = None
        self.coordinators = {name: self._process("coordinator", self._coordinator(name)) for name in COORDINATORS}
        agents = [self._agent(number, devices, seed) for number in range(devices)]
        self.operator = make_federation(
            {name: self.state_dir(name) / "identity" for name in COORDINATORS},
            {agent.device: self.state_dir(agent.device) / "identity" for agent in agents},
        )
        self.agents = {agent.device: self._process("edge_agent", agent) for agent in agents}

    def state_dir(self, name: str) -> Path:
        """Return the state of a coordinator or an agent."""
        return self.folder / "state" / name

    def _coordinator(self, name: str) -> CoordinatorConfig:
        return CoordinatorConfig(
            name=name,
            region=name,
            bundle="builtin:activity",
            url=self.urls[name],
            peers={other: url for other, url in self.urls.items() if other != name},
            state_dir=self.state_dir(name),
            listen=Listen(port=int(self.urls[name].rpartition(":")[2])),
        )

    def _agent(self, number: int, devices: int, seed: int) -> AgentConfig:
        urls = list(self.urls.values())
        return AgentConfig(
            device=f"device-{number + 1}",
            coordinators=(urls[number % 2], urls[(number + 1) % 2]),
            data=Data(f"builtin:activity?part={number}&parts={devices}"),
            state_dir=self.state_dir(f"device-{number + 1}"),
            training=Training(duty_cycle=0.2, seed=seed + number),  # they share one machine
            policy=Policy(enabled=False),
        )

    def _process(self, package: str, config: CoordinatorConfig | AgentConfig) -> Process:
        name = config.name if isinstance(config, CoordinatorConfig) else config.device
        file = self.folder / f"{name}.toml"
        file.write_text(toml_text.render(config))
        command = (sys.executable, "-c", f"from {package}.cli import main; main()", "run", "--config", str(file))
        return Process(name, command, self.folder / f"{name}.log", failed=self._failed)

    def _failed(self, error: ProcessFailedError) -> None:
        self.failure = error

    async def status(self, session: aiohttp.ClientSession, name: str) -> dict[str, Any] | None:
        """Return a coordinator's status, None while it does not answer.

        Raises:
            ProcessFailedError: a process ended that nobody killed.
        """
        if self.failure is not None:
            raise self.failure
        try:
            async with session.get(f"{self.urls[name]}/v1/admin/status") as response:
                return dict(await response.json())
        except aiohttp.ClientError:
            return None

    async def stop(self) -> None:
        """End everything that runs: the agents first."""
        for processes in (self.agents, self.coordinators):
            await asyncio.gather(*(one.stop() for one in processes.values()))


async def measure(folder: Path, kills: int, devices: int, seed: int) -> Outcome:
    """Kill coordinators and look what becomes of their devices.

    Raises:
        SkerryError: it took longer than anything should, or a process ended by itself; the logs are in `folder`.
    """
    outcome, federation = Outcome(), Federation(folder, devices, seed)
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(ssl=tls.client_context(federation.operator))
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        stack.push_async_callback(federation.stop)
        for process in (*federation.coordinators.values(), *federation.agents.values()):
            await process.start()
        await _until_all_contribute(federation, session)
        for number in range(kills):
            outcome.kills.append(await _kill(federation, session))
            killed = outcome.kills[-1].killed
            await federation.coordinators[killed].start()
            await _until_ready(federation, session, killed)
            print(f"{number + 1:>4} {_row(outcome.kills[-1])}", flush=True)
        await asyncio.sleep(3.0)  # peers ask for one another's ledgers every second
    _judge(federation, outcome)
    return outcome


async def _kill(federation: Federation, session: aiohttp.ClientSession) -> Failover:
    """Kill the coordinator that has more of the devices; return how long they took."""
    connected = await _until(lambda: _all_connected(federation, session))
    killed, other = sorted(COORDINATORS, key=lambda name: len(connected[name]), reverse=True)
    moving = connected[killed]
    before = await _updates(federation, session, other)
    killed_at_s = time.monotonic()
    await federation.coordinators[killed].kill()
    first_s, left = 0.0, set(moving)
    while left:
        now = await _updates(federation, session, other)
        elapsed_s = time.monotonic() - killed_at_s
        answered = {device for device in left if now.get(device, 0) > before.get(device, 0)}
        if answered and not first_s:
            first_s = elapsed_s
        left -= answered
        if elapsed_s > PATIENCE_S:
            raise SkerryError(f"{', '.join(sorted(left))} found no way to {other}; the logs are in {federation.folder}")
        await asyncio.sleep(POLL_S)
    return Failover(killed, len(moving), first_s, elapsed_s)


async def _all_connected(federation: Federation, session: aiohttp.ClientSession) -> dict[str, set[str]] | None:
    """Return which devices are connected to which coordinator; None while one has no connection or a former one's."""
    found: dict[str, set[str]] = {}
    for name in COORDINATORS:
        if (status := await federation.status(session, name)) is None:
            return None
        found[name] = {device for device, one in status["devices"].items() if one["connected"]}
    return found if sorted(chain(*found.values())) == sorted(federation.agents) else None


async def _updates(federation: Federation, session: aiohttp.ClientSession, name: str) -> dict[str, int]:
    status = await federation.status(session, name)
    return {} if status is None else {device: one["updates"] for device, one in status["devices"].items()}


async def _until_ready(federation: Federation, session: aiohttp.ClientSession, name: str) -> None:
    await _until(lambda: federation.status(session, name))


async def _until(answer: Callable[[], Awaitable[T | None]]) -> T:
    """Ask until there is something."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if found := await answer():
                return found
            await asyncio.sleep(POLL_S)


async def _until_all_contribute(federation: Federation, session: aiohttp.ClientSession) -> None:
    counts: Counter[str] = Counter()
    async with asyncio.timeout(PATIENCE_S):
        while any(counts[device] < 2 for device in federation.agents):
            counts = Counter()
            for name in COORDINATORS:
                counts.update(await _updates(federation, session, name))
            await asyncio.sleep(POLL_S)


def _judge(federation: Federation, outcome: Outcome) -> None:
    """Count every update over all journals, and what waits at the devices."""
    counting: Counter[tuple[str, int]] = Counter()
    for name in COORDINATORS:
        history = read_history(federation.state_dir(name))
        counting.update((row.device, row.sequence) for row in history.updates)
        counting.subtract((row.device, row.sequence) for row in history.taken_back)
        outcome.taken_back += len(history.taken_back)
    for device in federation.agents:
        store = Store(federation.state_dir(device) / FILE_NAME, look_only=True)
        stored = store.load()
        store.close()
        waiting = {update.sequence for update in stored.updates if update.settled_event is None}
        outcome.updates += stored.last_sequence
        outcome.waiting += len(waiting)
        for sequence in range(1, stored.last_sequence + 1):
            times = counting[device, sequence]
            if times > 1 or (times == 0 and sequence not in waiting):
                outcome.violations.append(f"update {sequence} of {device} counts {times} times")


def _free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in COORDINATORS]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _row(one: Failover) -> str:
    return f"{one.killed:>6} {one.devices:>8} {one.first_s:>8.2f} {one.all_s:>8.2f}"


def figures(outcome: Outcome) -> dict[str, Any]:
    """Return what is kept."""
    first, every = [one.first_s for one in outcome.kills], [one.all_s for one in outcome.kills]
    return {
        "kills": len(outcome.kills),
        "first_s": {"median": statistics.median(first), "slowest": max(first)},
        "all_s": {"median": statistics.median(every), "slowest": max(every)},
        "updates": outcome.updates,
        "waiting": outcome.waiting,
        "taken_back": outcome.taken_back,
        "violations": outcome.violations,
        "each": [msgspec.to_builtins(one) for one in outcome.kills],
    }


def markdown(kept: dict[str, Any], command: str) -> Iterator[str]:
    """Yield the lines of a table for people."""
    yield "# Failover\n"
    yield f"`{command}`; versions and machine: failover.json. Seconds from `kill -9` of a coordinator.\n"
    yield "| | median | slowest |\n|---|---|---|"
    for key, what in (("first_s", "first update acknowledged in the other region"), ("all_s", "one of every device")):
        yield f"| {what} | {kept[key]['median']:.2f} | {kept[key]['slowest']:.2f} |"
    yield (
        f"\n{kept['kills']} kills, {kept['updates']} updates: {len(kept['violations'])} lost or counted twice, "
        f"{kept['taken_back']} taken back in one of two regions that took them, {kept['waiting']} under way at the end."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write a table to this file")
    arguments = parser.parse_args()
    print(f"{'':>4} {'killed':>6} {'devices':>8} {'first s':>8} {'all s':>8}")
    with tempfile.TemporaryDirectory(prefix="skerry-failover-") as folder:
        outcome = asyncio.run(measure(Path(folder), arguments.kills, arguments.devices, arguments.seed))
    kept = figures(outcome)
    lines = list(markdown(kept, result.command("failover")))
    print("\n".join(lines))
    if arguments.json:
        result.write(arguments.json, "failover", kept, seed=arguments.seed)
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")
    if outcome.violations or kept["first_s"]["slowest"] >= TARGET_S:
        print("\n".join(outcome.violations), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
