"""Lets the faults of a plan happen to a federation, and ends them all in time. A thin shell: the plan has decided."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import aiohttp

from coordinator.events import PeerLedgerArrived
from coordinator.peers import BUNDLE_HEADER
from coordinator.region import Region
from edge_agent.stream import STREAM_PATH
from skerry.errors import SkerryError
from testbed.simulation.connector import Connector
from testbed.simulation.coordinator import SimulatedCoordinator
from testbed.simulation.machine import Machine
from testbed.simulation.path import Path
from tests.simulation.fault_runs.evidence import replay
from tests.simulation.fault_runs.federation import ECHO, Federation
from tests.simulation.fault_runs.plan import (
    FAULTS_END_S,
    ClockJump,
    Crash,
    Fault,
    FullDisk,
    HolderCrash,
    Partition,
    PostTwice,
    Reset,
    Restart,
    SlowDisk,
    Stall,
    Storm,
    ToAndFro,
    UpdateTwice,
)
from tests.simulation.fault_runs.witness import Acknowledged, Witness

LOOK_S = 0.02  # between two looks for the token's holder
CLOSE_LOOK_S = 0.001  # between two looks for what must not be missed: less than an answer takes to be answered
COMMIT_S = 0.3  # longer than a commit takes
HEAR_S = 2.0  # longer than a coordinator takes to start and to be heard by another
ECHO_S = 2.0  # how long whoever repeats something waits for an answer


class Inflicter:
    """Does what a plan says."""

    def __init__(self, federation: Federation, witness: Witness) -> None:
        self._federation, self._witness = federation, witness
        self._network, self._machines = federation.world.network, federation.machines
        self._loop = federation.world.loop
        self.defects: list[str] = []  # that ended a service which was then started again

    async def run(self) -> None:
        """Return when all faults have happened and none is left: every machine is up, or about to be, and whole."""
        faults = [asyncio.create_task(self._inflict(fault)) for fault in self._federation.plan.faults]
        await asyncio.sleep(FAULTS_END_S - self._loop.time())
        self._network.heal()
        for machine in self._machines.values():
            machine.disk.full = False
        await asyncio.gather(*faults)
        for machine in self._machines.values():
            self._start(machine)

    async def _inflict(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_s - self._loop.time())
        match fault:
            case Partition(lasts_s=lasts_s, a=a, b=b, one_way=one_way, resets=resets):
                self._network.partition(a, b, one_way=one_way)
                await asyncio.sleep(lasts_s)
                self._network.heal(a, b)
                if resets:
                    self._network.reset(a, None if b not in self._machines else b)
            case Stall(lasts_s=lasts_s, a=a, b=b):
                self._network.stall(a, b)
                await asyncio.sleep(lasts_s)
                self._network.heal(a, b)
            case Storm():
                await self._storm(fault)
            case Reset(a=a):
                self._network.reset(a)
            case Crash():
                await self._crash(self._machines[fault.machine], fault)
            case HolderCrash():
                holder = await self._holder()
                if holder is not None:
                    await self._crash(holder, fault)
            case Restart(machine=name, down_s=down_s):
                machine = self._machines[name]
                with suppress(Exception, asyncio.CancelledError):  # killed meanwhile; or a defect: `_start` looks at it
                    await machine.stop()
                await self._start_after(machine, down_s)
            case ClockJump(machine=name, seconds=seconds):
                self._machines[name].clock.jump(seconds)
            case SlowDisk(lasts_s=lasts_s, machine=name, sync_s=sync_s):
                self._federation.slower_s[name] += sync_s
                await asyncio.sleep(lasts_s)
                self._federation.slower_s[name] -= sync_s
            case FullDisk(lasts_s=lasts_s, machine=name):
                self._machines[name].disk.full = True
                await asyncio.sleep(lasts_s)
                self._machines[name].disk.full = False
            case UpdateTwice():
                await self._send_again(fault)
            case PostTwice():
                await self._post_again(fault)
            case ToAndFro(device=device):
                with suppress(TimeoutError):
                    async with asyncio.timeout(FAULTS_END_S - self._loop.time()):
                        await self._send_to_and_fro(device)

    async def _storm(self, fault: Storm) -> None:
        others = [name for name in self._machines if name != fault.a] if fault.b not in self._machines else [fault.b]
        calm = self._federation.path
        stormy = Path(calm.latency_s, calm.jitter_s + fault.jitter_s, fault.loss_share)
        for path in (stormy, calm):
            for other in others:
                self._network.set_path(fault.a, other, path)
                self._network.set_path(other, fault.a, path)
            if path is stormy:
                await asyncio.sleep(fault.lasts_s)

    # --- machines ---

    async def _crash(self, machine: Machine, fault: Crash | HolderCrash) -> None:
        """Crash its service at that callback, or not at all if the faults end before."""
        if not machine.running:
            return
        crashed = asyncio.Event()

        def crash() -> None:
            if self._loop.time() < FAULTS_END_S:
                self._end(machine, power=fault.power)
                crashed.set()

        machine.crash_after(fault.callbacks, crash)
        with suppress(TimeoutError):
            async with asyncio.timeout(FAULTS_END_S - self._loop.time()):
                await crashed.wait()
        if crashed.is_set():
            await self._start_after(machine, fault.down_s)

    def _end(self, machine: Machine, *, power: bool = False) -> None:
        """Kill its service, or cut its power, and compare what it leaves with what was seen of it."""
        if isinstance(machine, SimulatedCoordinator):
            self._witness.look(machine)
        if power:
            machine.cut_power()
        else:
            machine.kill()
        if isinstance(machine, SimulatedCoordinator):
            replay(machine, self._witness, {self._witness.version_of(machine.name)})

    async def _start_after(self, machine: Machine, down_s: float) -> None:
        await asyncio.sleep(min(down_s, max(0.0, FAULTS_END_S - self._loop.time())))
        self._start(machine)

    def _start(self, machine: Machine) -> None:
        """Start its service if it is down, and note a defect that ended it."""
        main = machine._main
        if machine.running:
            return
        error = None if main is None or main.cancelled() else main.exception()
        if error is not None and not isinstance(error, SkerryError):  # those are in `machine.failures`
            self.defects.append(f"{machine.name} ended with {error!r}")
        machine.start()

    async def _holder(self) -> SimulatedCoordinator | None:
        """Return whoever is seen to hold the token first."""
        while self._loop.time() < FAULTS_END_S - 1.0:
            for coordinator in self._federation.coordinators.values():
                engine = getattr(coordinator.service, "engine", None)
                if coordinator.running and engine is not None and engine._region.holds_token:
                    return coordinator
            await asyncio.sleep(LOOK_S)
        return None

    # --- a device between two coordinators ---

    async def _send_to_and_fro(self, device: str) -> None:
        await self._until(lambda: self._answered_last(device) is not None)
        answered = self._answered_last(device)
        assert answered is not None
        last, name = answered.sequence, answered.coordinator
        (elsewhere,) = set(self._federation.plan.homes[device]) - {name}
        first, other = self._federation.coordinators[name], self._federation.coordinators[elsewhere]
        self._network.partition(first.name, one_way=True)  # the other is not to hear of it either
        await self._until(lambda: _last_taken(first, device) > last)
        await asyncio.sleep(COMMIT_S)
        sequence = _last_taken(first, device)
        self._network.heal(first.name)
        self._end(first)
        with self._slower(other, COMMIT_S):  # the answer is not ahead of the partition
            await self._until(lambda: _last_taken(other, device) >= sequence)
            self._network.partition(other.name, device, one_way=True)
            await asyncio.sleep(COMMIT_S)
        self._network.heal(other.name, device)
        self._end(other)
        self._start(first)
        await self._until(lambda: device in _links(first))
        self._network.stall(device, first.name, one_way=True)  # its update is to come behind the other's ledger
        with self._slower(first, HEAR_S):
            self._start(other)
            await self._until(lambda: _hears(first, device))
            self._network.heal(device, first.name)
            await self._until(lambda: not _hears(first, device))

    def _answered_last(self, device: str) -> Acknowledged | None:
        return next((one for one in reversed(self._witness.acknowledged) if one.device == device), None)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - it is looked at from outside
            await asyncio.sleep(CLOSE_LOOK_S)

    @contextmanager
    def _slower(self, machine: Machine, sync_s: float) -> Iterator[None]:
        """Have each sync of its disk take so much longer."""
        self._federation.slower_s[machine.name] += sync_s
        try:
            yield
        finally:
            self._federation.slower_s[machine.name] -= sync_s

    # --- who says again what was said before ---

    async def _send_again(self, fault: UpdateTwice) -> None:
        sent = self._witness.sent[fault.device]
        if not sent:
            return
        update = sent[max(0, len(sent) - 1 - fault.back)]

        async def send(session: aiohttp.ClientSession, url: str) -> None:
            async with session.ws_connect(url + STREAM_PATH) as stream:
                await stream.send_bytes(update.hello)
                await stream.send_bytes(update.frame)
                async for _ in stream:
                    pass

        await self._as_echo(update.coordinator, send)

    async def _post_again(self, fault: PostTwice) -> None:
        posts = self._witness.posts[fault.coordinator, fault.what]
        if not posts:
            return
        body = posts[max(0, len(posts) - 1 - fault.back)]

        async def post(session: aiohttp.ClientSession, url: str) -> None:
            async with session.post(f"{url}/v1/federation/{fault.what}", data=body) as response:
                await response.read()

        await self._as_echo(fault.coordinator, post)

    async def _as_echo(self, coordinator: str, say: Callable[[aiohttp.ClientSession, str], Awaitable[None]]) -> None:
        """Say something from the echo's host; whether it is answered is all the same."""
        target = self._federation.coordinators[coordinator]
        headers = {BUNDLE_HEADER: self._federation.bundle.sha256}
        connector = Connector(self._network, ECHO)
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(ECHO_S), aiohttp.ClientSession(connector=connector, headers=headers) as session:
                await say(session, target.url)


def _region(coordinator: SimulatedCoordinator) -> Region | None:
    """Return its core; None: it is down."""
    engine = getattr(coordinator.service, "engine", None)
    return engine._region if engine is not None and coordinator.running else None


def _links(coordinator: SimulatedCoordinator) -> set[str]:
    return set() if (region := _region(coordinator)) is None else set(region.links)


def _last_taken(coordinator: SimulatedCoordinator, device: str) -> int:
    return 0 if (region := _region(coordinator)) is None else region.ledger.last_sequence(device)


def _hears(coordinator: SimulatedCoordinator, device: str) -> bool:
    """Whether a peer has told it of a device's updates, and it has not decided yet what becomes of its own copies."""
    engine = getattr(coordinator.service, "engine", None)
    if engine is None or not coordinator.running:
        return False
    told = [line for event in engine._events if isinstance(event, PeerLedgerArrived) for line in event.lines]
    return device in {*(line.device for line in told), *(whose for whose, _ in engine._region._roaming._contested)}
