"""What is going to happen in one run: the world and its faults, drawn from a seed, as plain data. Pure.

Equal seeds give equal plans in every process; `describe` prints one, so that a failure can be read.
"""

import random
from collections import Counter
from dataclasses import dataclass, fields

FAULTS_BEGIN_S, FAULTS_END_S = 2.0, 11.0
CALM_S = 13.0  # from the end of the faults to the end of the run
EVERYBODY = "*"
CRASH_CALLBACKS_MAX = 200  # of the service, from the order to the crash: about a second's
SHARES = {  # of the kinds of faults
    "partition": 3,
    "deaf": 4,
    "stall": 2,
    "storm": 2,
    "reset": 3,
    "crash": 10,
    "holder": 2,
    "restart": 2,
    "clock": 1,
    "slow": 2,
    "full": 1,
    "update twice": 4,
    "post twice": 3,
}


@dataclass(frozen=True, slots=True)
class Partition:
    """All between `a` and `b` is lost (`one_way`: from a to b) for a while, then the connections may be reset.

    From a coordinator to a device, with resets at the end, it makes the device send again what was applied.
    """

    at_s: float
    lasts_s: float
    a: str
    b: str
    one_way: bool
    resets: bool


@dataclass(frozen=True, slots=True)
class Stall:
    """All between `a` and `b` is held back for a while, and arrives then; other connections overtake it."""

    at_s: float
    lasts_s: float
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Storm:
    """Between `a` and `b` packets get lost, and are late by more or less, for a while."""

    at_s: float
    lasts_s: float
    a: str
    b: str
    loss_share: float
    jitter_s: float


@dataclass(frozen=True, slots=True)
class Reset:
    """All connections of `a` are reset."""

    at_s: float
    a: str


@dataclass(frozen=True, slots=True)
class Crash:
    """A machine's service ends behind its so-many-th callback from now on, killed or with its machine's power."""

    at_s: float
    machine: str
    callbacks: int
    power: bool
    down_s: float


@dataclass(frozen=True, slots=True)
class HolderCrash:
    """The same, of whichever coordinator holds the token first from now on."""

    at_s: float
    callbacks: int
    power: bool
    down_s: float


@dataclass(frozen=True, slots=True)
class Restart:
    """A machine's service is stopped in good order, and started again."""

    at_s: float
    machine: str
    down_s: float


@dataclass(frozen=True, slots=True)
class ClockJump:
    """A machine's wall clock is set."""

    at_s: float
    machine: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SlowDisk:
    """Each sync of a machine's disk takes so much longer for a while."""

    at_s: float
    lasts_s: float
    machine: str
    sync_s: float


@dataclass(frozen=True, slots=True)
class FullDisk:
    """A machine's databases find no room to grow for a while."""

    at_s: float
    lasts_s: float
    machine: str


@dataclass(frozen=True, slots=True)
class UpdateTwice:
    """Somebody sends the bytes of a device's stream again: its Hello, and an update of some time ago."""

    at_s: float
    device: str
    back: int  # 0: its newest update that arrived anywhere, 1: the one before, ...


@dataclass(frozen=True, slots=True)
class PostTwice:
    """Somebody posts the bytes that a coordinator got from a peer some time ago again."""

    at_s: float
    coordinator: str
    what: str  # model or token
    back: int


@dataclass(frozen=True, slots=True)
class ToAndFro:
    """A device is answered by neither of its coordinators, and comes back when the first hears of the other.

    Both die behind the commit of its update. When it has come back to the first, which has a slow disk now, the other
    comes back, too, and the device's update arrives behind what the other tells of it.
    """

    at_s: float
    device: str


Fault = (
    Partition
    | Stall
    | Storm
    | Reset
    | Crash
    | HolderCrash
    | Restart
    | ClockJump
    | SlowDisk
    | FullDisk
    | UpdateTwice
    | PostTwice
    | ToAndFro
)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    arrival: str  # the recipe's arrival rule
    follows: bool  # devices and peers are sent a few entries at a time, as by default; else whole models, exactly
    coordinators: tuple[str, ...]
    homes: dict[str, tuple[str, ...]]  # by device: the coordinators that it goes to, its own first
    tells_all: bool  # coordinators tell one another of all updates, not of those alone that moved
    step_s: dict[str, float]  # by device
    latency_s: float
    jitter_s: float
    loss_share: float
    spared: str | None  # a coordinator that has no trouble of its own, nor have its devices
    faults: tuple[Fault, ...]  # by time

    def describe(self) -> str:
        """Return it as text, a fault a line."""
        head = [f"{field.name}: {getattr(self, field.name)}" for field in fields(self) if field.name != "faults"]
        return "\n".join([*head, *map(str, self.faults)])


def draw_plan(seed: int) -> Plan:
    """Return the plan of a seed."""
    draws, roaming = random.Random(f"plan/{seed}"), random.Random(f"roaming/{seed}")
    coordinators = ("c1", "c2", "c3")[: draws.choice((2, 3, 3))]
    homes: dict[str, tuple[str, ...]] = {}
    for number in range(draws.randint(3, 5)):
        own = coordinators[number % len(coordinators)]
        others = [name for name in coordinators if name != own]
        wanders = (number >= len(coordinators) and draws.random() < 0.4) or roaming.random() < 0.3
        homes[f"d{number + 1}"] = (own, draws.choice(others)) if wanders else (own,)
    spared = draws.choice(coordinators) if draws.random() < 0.5 else None
    calm = {spared, *(device for device, home in homes.items() if home[0] == spared)}
    if spared is not None:
        homes = {device: home[:1] if device in calm else home for device, home in homes.items()}
    drawn = _Draw(draws, coordinators, homes, {one for one in calm if one is not None})
    return Plan(
        seed=seed,
        arrival=draws.choice(("spyker", "gain_controlled", "fedbuff")),
        follows=bool(seed % 2),
        coordinators=coordinators,
        homes=homes,
        tells_all=roaming.random() < 0.5,
        step_s={device: draws.uniform(0.25, 0.6) for device in homes},
        latency_s=draws.uniform(0.002, 0.06),
        jitter_s=draws.choice((0.0, 0.005, 0.05)),
        loss_share=draws.choice((0.0, 0.0, 0.01)),
        spared=spared,
        faults=_beside(_to_and_fro(seed, homes, spared), drawn.faults(), homes),
    )


def _to_and_fro(seed: int, homes: dict[str, tuple[str, ...]], spared: str | None) -> ToAndFro | None:
    """Let a device go to and fro in every other world that has one with two coordinators, neither of them spared.

    Its own one has another device, whose updates keep the disk busy.
    """
    draws = random.Random(f"to and fro/{seed}")
    first = Counter(of[0] for of in homes.values())
    wander = [device for device, of in homes.items() if len(of) > 1 and spared not in of and first[of[0]] > 1]
    if not wander or draws.random() < 0.5:
        return None
    return ToAndFro(draws.uniform(FAULTS_BEGIN_S, FAULTS_BEGIN_S + 1.0), draws.choice(wander))


def _beside(going: ToAndFro | None, faults: tuple[Fault, ...], homes: dict[str, tuple[str, ...]]) -> tuple[Fault, ...]:
    """Return the faults with a device that goes to and fro among them, and without what would stop it on its way."""
    if going is None:
        return faults
    busy = {going.device, *homes[going.device], EVERYBODY}

    def is_apart(fault: Fault) -> bool:
        names = {getattr(fault, name, None) for name in ("a", "b", "machine", "device", "coordinator")}
        return not names & busy and not isinstance(fault, HolderCrash)

    return tuple(sorted([*filter(is_apart, faults), going], key=lambda fault: fault.at_s))


class _Draw:
    """Draws faults for a world in which the machines in `calm` are to have none of their own."""

    def __init__(
        self, draws: random.Random, coordinators: tuple[str, ...], homes: dict[str, tuple[str, ...]], calm: set[str]
    ) -> None:
        self._draws, self._calm = draws, calm
        self._coordinators, self._homes = coordinators, homes
        self._troubled = [name for name in (*coordinators, *homes) if name not in calm]
        self._busy_until_s: dict[str, float] = {}  # by machine: a crash in the middle of another says nothing

    def faults(self) -> tuple[Fault, ...]:
        """Return them by time."""
        count = self._draws.randint(5, 11)
        times = sorted(self._draws.uniform(FAULTS_BEGIN_S, FAULTS_END_S - 1.0) for _ in range(count))
        faults = [fault for at_s in times if (fault := self._fault(at_s)) is not None]
        faults += [silence for fault in faults if (silence := self._silence_before(fault)) is not None]
        return tuple(sorted(faults, key=lambda fault: fault.at_s))

    def _silence_before(self, fault: Fault) -> Fault | None:
        """Let what a coordinator says before it crashes be lost as often as not: it will be asked again."""
        if not isinstance(fault, Crash) or fault.machine not in self._coordinators or self._draws.random() < 0.5:
            return None
        early_s = self._draws.uniform(0.2, 1.5)
        lasts_s = early_s + self._draws.uniform(0.2, 1.5)
        return Partition(fault.at_s - early_s, lasts_s, fault.machine, EVERYBODY, one_way=True, resets=False)

    def _fault(self, at_s: float) -> Fault | None:
        draws = self._draws
        lasts_s = min(draws.choice((0.3, 1.0, 3.0, 6.0)) * draws.uniform(0.5, 1.5), FAULTS_END_S - at_s)
        match draws.choices(tuple(SHARES), tuple(SHARES.values()))[0]:
            case "partition":
                a, b = self._pair()
                return Partition(at_s, lasts_s, a, b, draws.random() < 0.4, draws.random() < 0.3)
            case "deaf":
                device = self._device()
                if device is None:
                    return None
                heard = draws.choice(self._homes[device])
                return Partition(at_s, min(lasts_s, 2.0), heard, device, one_way=True, resets=True)
            case "stall":
                return Stall(at_s, lasts_s, *self._pair())
            case "storm":
                return Storm(at_s, lasts_s, *self._pair(), draws.uniform(0.02, 0.3), draws.choice((0.0, 0.05, 0.3)))
            case "reset":
                return Reset(at_s, draws.choice(self._troubled))
            case "crash":
                machine = self._idle(at_s)
                crash = draws.randint(1, CRASH_CALLBACKS_MAX), draws.random() < 0.5, draws.uniform(0.0, 3.0)
                return None if machine is None else Crash(at_s, machine, *crash)
            case "holder":
                if self._calm:
                    return None
                return HolderCrash(at_s, draws.randint(1, 60), draws.random() < 0.5, draws.uniform(0.0, 4.0))
            case "restart":
                machine = self._idle(at_s)
                return None if machine is None else Restart(at_s, machine, draws.uniform(0.0, 2.0))
            case "clock":
                machine = draws.choice((*self._coordinators, *self._homes))
                return ClockJump(at_s, machine, draws.choice((-1e6, -3600.0, -5.0, 5.0, 3600.0, 1e8)))
            case "slow":
                return SlowDisk(at_s, lasts_s, draws.choice(self._troubled), draws.choice((0.1, 0.5)))
            case "full":
                return FullDisk(at_s, min(lasts_s, 3.0), draws.choice(self._troubled))
            case "update twice":
                device = self._device()
                return None if device is None else UpdateTwice(at_s, device, draws.randint(0, 4))
        what = draws.choice(("model", "token"))
        return PostTwice(at_s, draws.choice(self._coordinators), what, draws.randint(0, 6))

    def _pair(self) -> tuple[str, str]:
        """Return a machine that may have trouble, and another one that it talks to, or everybody."""
        a = self._draws.choice(self._troubled)
        others = self._homes.get(a) or tuple(name for name in self._coordinators if name != a)
        return a, self._draws.choice((*others, EVERYBODY))

    def _device(self) -> str | None:
        devices = [device for device in self._homes if device not in self._calm]
        return self._draws.choice(devices) if devices else None

    def _idle(self, at_s: float) -> str | None:
        """Return a machine that nothing else stops or starts now; coordinators come as often as devices."""
        coordinators = self._draws.random() < 0.5
        free = [
            name
            for name in self._troubled
            if (name in self._coordinators) == coordinators and self._busy_until_s.get(name, 0.0) <= at_s
        ]
        if not free:
            return None
        machine = self._draws.choice(free)
        self._busy_until_s[machine] = at_s + 2.0
        return machine
