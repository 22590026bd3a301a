"""The way to the other coordinators: their signs of life, and what goes to them over HTTP.

Each peer has its own tasks and its own newest message of each kind, so that the trouble of one reaches nobody else.
"""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import quote

import aiohttp

from coordinator.enrolment.records import PartyRow, Revocation, parse_page, parse_party
from coordinator.enrolment.registry import Refusal
from coordinator.events import Event, Malformed, PeerLedgerArrived, PeerSeen, PublicationNeeded, TrafficCounted
from coordinator.intake import read_vector
from coordinator.metrics import Metrics
from coordinator.peer_link import ANSWER_BYTES_MAX, NoAnswerError, PeerError, PeerLink, Place, decode
from skerry.protocol import frames, ledger_lines
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.messages import (
    Parties,
    PeerLedger,
    PeerModel,
    PeerModelNeeded,
    PeerModelTaken,
    PeerStatus,
    Revocations,
    TokenPassed,
    TokenTaken,
)

log = logging.getLogger(__name__)

BUNDLE_HEADER = "Skerry-Bundle"  # on every request between peers: models of another bundle must not mix
POLL_S = 1.0  # between two requests for a peer's status
RETRY_MIN_S, RETRY_MAX_S = 0.2, 10.0  # bounds of the full-jitter back-off
PAGES_MAX = 64  # of what one peer tells, one after the other; then it is asked for signs of life again
REVOCATION_PAGES_MAX = 4096  # these are read from the first on each time: many peers' shares of them
AGAIN_S = 3600.0  # until what a peer was not believed is read again
OWN_LEDGER_PAGES_MAX = 1024  # of what one peer knows of a ledger that was lost: more than 30,000 devices

MODEL_ANSWERS = PeerModelTaken | PeerModelNeeded


class Region(Protocol):
    """What the peers' shell needs of the engine."""

    def submit(self, event: Event) -> None:
        """Hand over what happened."""


class Enrolment(Protocol):
    """What the peers' shell needs of the enrolment desk."""

    @property
    def digest(self) -> str | None:
        """Of the revocations that are known here."""

    async def learn(self, revocations: Sequence[Revocation], peer: str) -> int:
        """Take a peer's revocations; return how many of them are not believed now.

        Raises:
            Refusal: it has told too many.
        """

    async def learn_parties(self, parties: Sequence[PartyRow], peer: str) -> int:
        """Take note of a peer's parties; return how many of them are not believed now.

        Raises:
            Refusal: there would be too many.
        """


class _Newest(asyncio.Event):
    """A box for one message: a newer one replaces it."""

    def __init__(self) -> None:
        super().__init__()
        self.message: PeerModel | TokenPassed | None = None

    def put(self, message: PeerModel | TokenPassed) -> None:
        self.message = message
        self.set()


class _Peer(PeerLink):
    """What waits for one peer, and how far it was listened to."""

    def __init__(self, name: str, url: str, progress_timeout_s: float) -> None:
        super().__init__(name, url, progress_timeout_s)
        self.model = _Newest()
        self.token = _Newest()
        self.ledger = ""  # the place that its ledger was read up to
        self.revocations: str | None = None  # the digest of those that were read to their end
        self.revocations_again_s = math.inf  # when they are read again, for some were not believed
        self.parties = ""  # the place that they were read up to
        self.parties_again = "", math.inf  # the place in front of the first that were not believed, and the same
        self.parties_unbelieved = 0  # since it was warned of them last
        self.untaken: dict[str, str] = {}  # by what is read in pages: why not all of it was taken, the last time
        self.trouble: str | None = "not asked yet"  # None: it answered the last status request
        self.serves_at: str | None = None  # where agents reach it, as it said last; None: they are not to be sent there


class Peers:
    """The other coordinators, as the configuration names them."""

    def __init__(
        self,
        urls: Mapping[str, str],
        bundle_sha256: str,
        metrics: Metrics,
        *,
        connector: Callable[[], aiohttp.BaseConnector],
        progress_timeout_s: float,
        rng: random.Random,
    ) -> None:
        self._peers = {name: _Peer(name, url, progress_timeout_s) for name, url in urls.items()}
        self._bundle_sha256 = bundle_sha256
        self._metrics = metrics
        self._connector = connector
        self._progress_timeout_s = progress_timeout_s
        self._rng = rng
        self.region: Region  # set once, before `run`: the engine needs us first
        self.enrolment: Enrolment | None = None  # None: plain HTTP, where nobody is known

    # --- the engine's outlet ---

    def send_to_peer(self, peer: str, message: PeerModel | TokenPassed) -> None:
        """Send `message` as soon as the peer takes it, instead of an older one that still waits."""
        box = self._peers[peer].model if isinstance(message, PeerModel) else self._peers[peer].token
        box.put(message)

    def count_received(self, peer: str, received_bytes: int, sent_bytes: int) -> None:
        """Add what a peer's own request brought and what it was answered with."""
        self._peers[peer].received_bytes += received_bytes
        self._peers[peer].sent_bytes += sent_bytes

    def knows(self, peer: str) -> bool:
        """Whether the configuration names `peer`."""
        return peer in self._peers

    def trouble(self) -> dict[str, str | None]:
        """Return by peer what is wrong with it, None where it answers."""
        return {name: peer.trouble for name, peer in self._peers.items()}

    def serving_agents(self) -> dict[str, str]:
        """Return name and URL of the peers that answer and that agents may be sent to."""
        return {
            name: peer.serves_at
            for name, peer in self._peers.items()
            if peer.trouble is None and peer.serves_at is not None
        }

    # --- tasks ---

    async def published_before(self, name: str, size: int) -> list[PeerModel] | None:
        """Ask all peers what coordinator `name`, this one, published before it lost its state.

        Returns:
            The answers of those that know; each has all `size` entries of the model. None: not one has answered.
        """
        async with self._session() as session:
            asked = (self._ask_for_replica(session, peer, name, size) for peer in self._peers.values())
            answers = [answer for answer in await asyncio.gather(*asked) if answer is not None]
        return [one for answer in answers for one in answer] if answers else None

    async def ledger_before(self, name: str) -> list[LedgerLine]:
        """Ask all peers what they know of the ledger of coordinator `name`, this one, from before it lost its state.

        Returns:
            All lines, those of one peer after those of the other; of a peer that does not tell all of them, the first.
        """
        async with self._session() as session:
            asked = (self._ask_for_ledger(session, peer, name) for peer in self._peers.values())
            return [line for lines in await asyncio.gather(*asked) for line in lines]

    async def run(self) -> None:
        """Talk to every peer until cancelled."""
        async with self._session() as session, asyncio.TaskGroup() as tasks:
            for peer in self._peers.values():
                tasks.create_task(self._poll(session, peer), name=f"status of {peer.name}")
                tasks.create_task(self._deliver(session, peer, peer.model, "model"), name=f"models to {peer.name}")
                tasks.create_task(self._deliver(session, peer, peer.token, "token"), name=f"token to {peer.name}")

    def housekeep(self) -> None:
        """Report what was sent and received. Call it now and then."""
        for peer in self._peers.values():
            if peer.sent_bytes or peer.received_bytes:
                self._metrics.peer_bytes[peer.name, "sent"] += peer.sent_bytes
                self._metrics.peer_bytes[peer.name, "received"] += peer.received_bytes
                self.region.submit(TrafficCounted("peer", peer.name, peer.sent_bytes, peer.received_bytes))
                peer.sent_bytes = peer.received_bytes = 0

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._progress_timeout_s)
        headers = {BUNDLE_HEADER: self._bundle_sha256}
        return aiohttp.ClientSession(connector=self._connector(), timeout=timeout, headers=headers)

    async def _ask_for_replica(
        self, session: aiohttp.ClientSession, peer: _Peer, name: str, size: int
    ) -> list[PeerModel] | None:
        """Return the peer's answer, an empty list where it knows of no publication, None where there is no answer."""
        bytes_max = 4 * size + ANSWER_BYTES_MAX
        try:
            answer = await peer.exchange(session, "GET", f"replica?of={quote(name)}", bytes_max=bytes_max)
            found = decode(answer, PeerModel)
        except NoAnswerError as error:
            if peer.trouble != str(error):  # once, however often it is asked
                log.warning("peer %s: %s", peer.name, error)
            peer.trouble = str(error)
            return None
        except PeerError as error:
            log.info("peer %s: nothing to come back from: %s", peer.name, error)
            return []
        values = read_vector(found.values, size)
        if found.coordinator != name or found.base is not None or isinstance(values, Malformed) or len(values) < size:
            log.warning("peer %s: what it holds of this coordinator is no whole model", peer.name)
            return []
        return [found]

    async def _ask_for_ledger(self, session: aiohttp.ClientSession, peer: _Peer, name: str) -> list[LedgerLine]:
        lines: list[LedgerLine] = []

        async def take(answer: bytes) -> Place:
            told, place = _ledger(answer, name)
            lines.extend(told)
            return place

        try:
            whole = await peer.read_pages(session, f"ledger?of={quote(name)}&after=", "", OWN_LEDGER_PAGES_MAX, take)
        except PeerError as error:
            log.warning("peer %s: what it knows of the ledger here cannot be read: %s", peer.name, error)
            return lines
        if not whole:
            log.warning("peer %s: knows more of the ledger here than the %d lines read", peer.name, len(lines))
        return lines

    async def _poll(self, session: aiohttp.ClientSession, peer: _Peer) -> None:
        while True:
            try:
                status = await self._status(session, peer)
            except PeerError as error:
                self._metrics.peer_failures[peer.name] += 1
                self._metrics.peers_reachable[peer.name] = False
                if peer.trouble != str(error):
                    log.warning("peer %s: %s", peer.name, error)
                peer.trouble = str(error)
            else:
                if peer.trouble is not None:
                    log.info("peer %s: reachable at %s, version %d", peer.name, peer.url, status.version)
                peer.trouble, peer.serves_at = None, status.url
                self._metrics.peers_reachable[peer.name] = True
                self.region.submit(PeerSeen(status))
                await self._fetch_ledger(session, peer, status.ledger)
                await self._fetch_revocations(session, peer, status.revocations)
                await self._fetch_parties(session, peer, status.parties)
            await asyncio.sleep(POLL_S * self._rng.uniform(0.8, 1.2))

    async def _status(self, session: aiohttp.ClientSession, peer: _Peer) -> PeerStatus:
        """Return the peer's status.

        Raises:
            PeerError: it does not answer, or it is another coordinator than it should be.
        """
        status = decode(await peer.exchange(session, "GET", "status"), PeerStatus)
        if status.coordinator != peer.name:
            raise PeerError(f"is {status.coordinator!r}: correct peers.{peer.name} in the configuration")
        if status.bundle != self._bundle_sha256:
            raise PeerError(f"trains another bundle ({status.bundle[:12]}, here {self._bundle_sha256[:12]})")
        return status

    async def _fetch_ledger(self, session: aiohttp.ClientSession, peer: _Peer, place: str) -> None:
        """Ask for the lines of the peer's ledger where it has come further than what was read."""

        async def take(answer: bytes) -> Place:
            lines, read = _ledger(answer, peer.name)
            self.region.submit(PeerLedgerArrived(peer.name, lines))
            peer.ledger = read.up_to
            return read

        if place not in {"", peer.ledger}:
            await self._fetch(session, peer, "ledger", peer.ledger, PAGES_MAX, take)

    async def _fetch_revocations(self, session: aiohttp.ClientSession, peer: _Peer, digest: str | None) -> None:
        """Ask for the peer's revocations, from the first on, where it has others."""
        desk, after, unbelieved = self.enrolment, "", 0
        now_s = asyncio.get_running_loop().time()
        if desk is None or digest in {None, desk.digest}:
            return
        if digest == peer.revocations and now_s < peer.revocations_again_s:
            return

        async def take(answer: bytes) -> Place:
            nonlocal after, unbelieved
            page = decode(answer, Revocations)
            told = parse_page(page.revoked, after)
            if told is None:
                raise PeerError("tells no revocations, or not in order")
            unbelieved += await desk.learn(told, peer.name)
            after = page.revoked[-1] if told else after
            if page.more and told:
                return Place(after, more=True)
            peer.revocations, peer.revocations_again_s = digest, now_s + AGAIN_S if unbelieved else math.inf
            if unbelieved:  # not before: behind devices come coordinators and operators
                raise PeerError(
                    f"they would shut out {unbelieved} devices more than one peer is believed in a day: if that is "
                    "meant, revoke them here as well; if not, its machine may be in wrong hands"
                )
            return Place(after, more=False)

        await self._fetch(session, peer, "revocations", after, REVOCATION_PAGES_MAX, take)

    async def _fetch_parties(self, session: aiohttp.ClientSession, peer: _Peer, place: str) -> None:
        """Ask who was enrolled at the peer where it has come further than what was read."""
        desk, now_s = self.enrolment, asyncio.get_running_loop().time()
        if now_s >= peer.parties_again[1]:
            peer.parties, peer.parties_again = peer.parties_again[0], ("", math.inf)
        if desk is None or place in {"", peer.parties}:
            return

        async def take(answer: bytes) -> Place:
            page = decode(answer, Parties)
            told = [party for text in page.parties if (party := parse_party(text)) is not None]
            if len(told) != len(page.parties):
                raise PeerError("tells no parties")
            unbelieved = await desk.learn_parties(told, peer.name)
            if unbelieved and peer.parties_again[1] == math.inf:
                peer.parties_again = peer.parties, now_s + AGAIN_S
            further = page.more and bool(told) and page.up_to != peer.parties
            peer.parties, peer.parties_unbelieved = page.up_to, peer.parties_unbelieved + unbelieved
            if peer.parties_unbelieved and not further:
                count, peer.parties_unbelieved = peer.parties_unbelieved, 0
                raise PeerError(
                    f"{count} would take the names of more devices than one peer is believed in a day, or of a "
                    "coordinator or operator: if that is meant, revoke whoever has the name here; if not, its machine "
                    "may be in wrong hands"
                )
            return Place(page.up_to, further)

        await self._fetch(session, peer, "parties", peer.parties, PAGES_MAX, take)

    async def _fetch(
        self,
        session: aiohttp.ClientSession,
        peer: _Peer,
        what: str,
        after: str,
        pages_max: int,
        take: Callable[[bytes], Awaitable[Place]],
    ) -> bool:
        """Read what a peer tells in pages; return whether that came to its end. Else it is asked for next time."""
        try:
            whole = await peer.read_pages(session, f"{what}?after=", after, pages_max, take)
        except (PeerError, Refusal) as error:
            self._metrics.peer_failures[peer.name] += 1
            if peer.untaken.get(what) != str(error):  # once, however often it is asked
                log.warning("peer %s: its %s cannot be taken: %s", peer.name, what, error)
            peer.untaken[what] = str(error)
            return False
        peer.untaken.pop(what, None)
        return whole

    async def _deliver(self, session: aiohttp.ClientSession, peer: _Peer, box: _Newest, what: str) -> None:
        """Send what is put into `box`, again and again until it is taken or replaced."""
        failures = 0
        while True:
            await box.wait()
            box.clear()
            message = box.message
            assert message is not None
            try:
                answer = await peer.exchange(session, "POST", what, frames.encode(message))
                match message:
                    case PeerModel():
                        needed = isinstance(decode(answer, MODEL_ANSWERS), PeerModelNeeded)
                        if needed and message.base is None:
                            raise PeerError("asks for the whole model, which this was")
                    case TokenPassed():
                        needed = False
                        decode(answer, TokenTaken)
            except PeerError as error:
                self._metrics.peer_failures[peer.name] += 1
                if failures == 0:
                    log.warning("peer %s: %s not delivered, trying again: %s", peer.name, what, error)
                failures += 1
                box.set()
                await asyncio.sleep(self._rng.uniform(0.0, min(RETRY_MAX_S, RETRY_MIN_S * 2 ** min(failures, 30))))
                continue
            failures = 0
            if needed and not box.is_set():
                self.region.submit(PublicationNeeded(peer.name))


def _ledger(answer: bytes, of: str) -> tuple[list[LedgerLine], Place]:
    """Read a page of the ledger of coordinator `of`.

    Raises:
        PeerError: it is none.
    """
    page = decode(answer, PeerLedger)
    if page.coordinator != of:
        raise PeerError(f"it is that of {page.coordinator!r}")
    try:
        return ledger_lines.decode(page.lines), Place(page.up_to, page.more)
    except MalformedMessage as error:
        raise PeerError(str(error)) from None
