"""What is known of a run from outside: what was said on the wires, and what coordinators held when one looked."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from edge_agent.outbox import Outbox, Update
from skerry.algorithms.uplink import Uplink
from skerry.protocol import sparse
from skerry.protocol.messages import (
    Hello,
    ModelOffered,
    PeerModel,
    PeerModelTaken,
    PeerStatus,
    TokenPassed,
    TokenTaken,
    UpdateAccepted,
    UpdateOffered,
    UpdateRejected,
)
from skerry.vector import Float32, Layout
from testbed.simulation.coordinator import SimulatedCoordinator
from tests.simulation.fault_runs.tap import Said
from tests.simulation.fault_runs.task import LAYOUT

Id = tuple[int, int]  # of a token: epoch, number


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A coordinator has said that it has an update."""

    at_s: float
    coordinator: str
    device: str
    sequence: int
    version: int


@dataclass(frozen=True, slots=True)
class Told:
    """A coordinator has said that its model has come to a version."""

    at_s: float
    coordinator: str
    version: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A coordinator has said that it keeps a peer's publication."""

    at_s: float
    coordinator: str
    peer: str
    publication: int


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A coordinator was sent the token (`taken`: has said that it has it)."""

    at_s: float
    sender: str
    to: str
    id: Id
    taken: bool
    frame: bytes


@dataclass(frozen=True, slots=True)
class Sighting:
    """A coordinator's memory at some time."""

    at_s: float
    coordinator: str
    start: int  # of its service: the first, the second, ...
    version: int
    age: float
    known: Id  # the newest exchange of models
    holds_token: bool
    replicas: dict[str, int]  # by peer: the publication


@dataclass(frozen=True, slots=True)
class Sent:
    """An update as it arrived at a coordinator: the bytes of it, and of the Hello of its stream."""

    coordinator: str
    hello: bytes
    frame: bytes
    sequence: int
    payload: bytes


# Whose, of which lineage, of which number. A model that follows begins anew with each start of its coordinator.
Which = tuple[Literal["model", "publication", "offered"], str, str, int]


class Witness:
    """Writes everything down; judges nothing but whether two sights of one vector are the same."""

    def __init__(self, time: Callable[[], float], *, follows: bool) -> None:
        """`follows`: what devices are sent is not the region's own model, but one that follows it."""
        self._time, self._follows = time, follows
        self.acknowledged: list[Acknowledged] = []
        self.rejected: set[tuple[str, int]] = set()  # device and sequence: what devices were told
        self.told: list[Told] = []
        self.kept: list[Kept] = []
        self.handed_over: list[HandedOver] = []
        self.sightings: list[Sighting] = []
        self.offered_at_s: dict[str, float] = {}  # by device: when a model last arrived
        self.sent: defaultdict[str, list[Sent]] = defaultdict(list)  # by device
        self.posts: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)  # by coordinator, and model or token
        self.ages: dict[tuple[str, int], float] = {}  # by coordinator and publication
        self.differences: dict[tuple[int, bytes], Float32] = {}  # by sequence and payload: what it was taken from
        self.contradictions: list[str] = []  # two vectors that should be one
        self._seen: dict[Which, tuple[bytes, str]] = {}
        self._hellos: dict[str, tuple[str, bytes]] = {}  # by connection: the device, and its first frame

    # --- what was said ---

    def hear(self, said: Said) -> None:
        """Write a message down."""
        at_s, message = self._time(), said.message
        match message:
            case Hello(device=device):
                self._hellos[said.connection] = device, said.frame
            case UpdateOffered():
                device, hello = self._hellos[said.connection]
                update = Sent(said.server, hello, said.frame, message.sequence, message.part.data)
                self.sent[device].append(update)
            case UpdateAccepted():
                device, _ = self._hellos[said.connection]
                self.acknowledged.append(Acknowledged(at_s, said.server, device, message.sequence, message.version))
                self.told.append(Told(at_s, said.server, message.version))
            case UpdateRejected() if said.client == self._hellos[said.connection][0]:  # not who only repeats
                self.rejected.add((said.client, message.sequence))
            case ModelOffered():
                self.offered_at_s[said.client] = at_s
                self.told.append(Told(at_s, said.server, message.version.number))
                if message.base is None and not self._follows:
                    values = sparse.decode(message.part.data, size=LAYOUT.size).dense()
                    which: Which = "model", said.server, message.version.lineage, message.version.number
                    self.see(which, values, f"as it was sent to {said.client}")
            case PeerStatus():
                self.told.append(Told(at_s, said.server, message.version))
            case PeerModel():
                self.ages[message.coordinator, message.publication] = message.age
                self.posts[said.server, "model"].append(said.frame)
            case TokenPassed():
                self.posts[said.server, "token"].append(said.frame)
                id_ = message.broadcast.epoch, message.broadcast.number
                self.handed_over.append(HandedOver(at_s, said.client, said.server, id_, taken=False, frame=said.frame))
            case PeerModelTaken(publication):
                self.kept.append(Kept(at_s, said.server, said.client, publication))
            case TokenTaken(broadcast):
                id_ = broadcast.epoch, broadcast.number
                self.handed_over.append(HandedOver(at_s, said.client, said.server, id_, taken=True, frame=said.frame))

    # --- what can be seen ---

    def look(self, coordinator: SimulatedCoordinator) -> None:
        """Write down what a coordinator holds in memory, if it is up."""
        engine = getattr(coordinator.service, "engine", None)
        if engine is None or not coordinator.running:
            return
        state, region, name = engine._state, engine._region, coordinator.name
        self.sightings.append(
            Sighting(
                self._time(),
                name,
                coordinator.starts,
                state.version,
                state.age,
                (region.broadcast.epoch, region.broadcast.number),
                region.holds_token,
                {peer: replica.number for peer, replica in state.replicas.items()},
            )
        )
        self.see(("model", name, region.lineage, state.version), state.model, f"in the memory of {name}")
        if (offered := engine._follower) is not None:
            which = self.offered_by(name, region.lineage, offered.version)
            self.see(which, offered._values, f"as {name} offers it")
        if (own := state.published) is not None:
            self.see(("publication", name, own.lineage, own.number), own.values, f"in the memory of {name}")
        for peer, replica in state.replicas.items():
            self.see(("publication", peer, replica.lineage, replica.number), replica.values, f"as {name} holds it")

    def offered_by(self, coordinator: str, lineage: str, version: int) -> Which:
        """Return the name of what devices hold that were last sent `version`."""
        if not self._follows:
            return "model", coordinator, lineage, version
        start = next(one.start for one in reversed(self.sightings) if one.coordinator == coordinator)
        return "offered", f"{coordinator} since its start {start}", lineage, version

    def version_of(self, coordinator: str) -> int:
        """Return the version that was last seen in a coordinator's memory, 0 before the first look."""
        return next((one.version for one in reversed(self.sightings) if one.coordinator == coordinator), 0)

    def see(self, which: Which, values: Float32, where: str) -> None:
        """Compare a vector with what was seen of it before, to the last bit."""
        found = hashlib.blake2b(values.tobytes(), digest_size=8).digest()
        known, first_where = self._seen.setdefault(which, (found, where))
        if found != known:
            kind, owner, lineage, number = which
            self.contradictions.append(
                f"{kind} {number} of {owner} ({lineage}) is one thing {first_where} and another {where}, "
                f"at {self._time():.3f} s"
            )

    @contextmanager
    def noting_differences(self) -> Iterator[None]:
        """Write down what each update is taken from: the one thing that never leaves a device."""
        take = Outbox.take

        def noting(outbox: Outbox, update: Update, difference: Float32, uplink: Uplink, layout: Layout) -> Update:
            taken = take(outbox, update, difference, uplink, layout)
            self.differences[taken.sequence, taken.payload] = difference.copy()
            return taken

        Outbox.take = noting  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            Outbox.take = take  # type: ignore[method-assign]
