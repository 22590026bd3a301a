"""Where parties join, renew and are shut out: lets the registry decide, signs, writes, and only then answers.

What waits is signed and written together, one sync for all of it, in a thread of its own: established agents are
served meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.admission import Allowances
from coordinator.enrolment.authorities import Authorities
from coordinator.enrolment.records import JoinRole, PartyRow, Revocation, TokenRow
from coordinator.enrolment.registry import Admission, Refusal, Registry
from coordinator.enrolment.store import EnrolmentStore
from coordinator.threads import RunInThread
from skerry.errors import ConfigError
from skerry.identity import request as requests
from skerry.identity.authority import check_addresses
from skerry.identity.certificate import Identified, Role, Subject, der_of, fingerprint, key_sha256, pem_of
from skerry.identity.errors import InvalidCertificateError
from skerry.identity.join_token import secret_sha256
from skerry.protocol import frames
from skerry.protocol.messages import Joined, JoinRequested, RenewalRequested

WAITING_MAX = 1024  # joins and renewals that are not on the disk yet; further ones are told to come back
GROUP_MAX = 64  # written with one sync
ANSWERS_PER_S = 1.0  # to one key, over a while: joins and renewals

Write = Callable[[EnrolmentStore], Any]


class Desk:
    """Enrolment at one coordinator. `run` must be running for anything to be answered."""

    def __init__(
        self,
        registry: Registry,
        store: EnrolmentStore,
        authorities: Authorities,
        *,
        run_in_thread: RunInThread,
        wall_clock: Callable[[], float],
        coordinators: Callable[[], Mapping[str, str]],
        revoked: Callable[[], None],
    ) -> None:
        """Begin.

        Args:
            registry: what `store` holds.
            store: used by this alone from now on.
            authorities: what is signed with.
            run_in_thread: where signing and writing happen.
            wall_clock: seconds since 1970.
            coordinators: name to base URL of those that devices may go to.
            revoked: called whenever parties may be refused that were not, to end what they have under way.
        """
        self.registry = registry
        self._store = store
        self.authorities = authorities
        self._run_in_thread = run_in_thread
        self._wall_clock = wall_clock
        self._coordinators = coordinators
        self._revoked = revoked
        self._answers = Allowances(ANSWERS_PER_S)
        self._waiting: list[tuple[Write, asyncio.Future[Any]]] = []
        self._wanted = asyncio.Event()

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    # --- for parties ---

    @property
    def root_pem(self) -> bytes:
        """The root's certificate, for whoever is about to join."""
        return pem_of(self.authorities.root_certificate)

    @property
    def root_sha256(self) -> bytes:
        """Its fingerprint, which stands in join tokens."""
        return fingerprint(self.authorities.root_certificate)

    async def join(self, asked: JoinRequested) -> bytes:
        """Let a party join; return the frame that answers it, once it is on disk.

        Raises:
            Refusal: to be told to the party.
        """
        token = self.registry.check_token(asked.join_token.hex(), secret_sha256(asked.secret), asked.role)
        self._check_ready()
        key, issuer_key = self._keys(asked)
        now_s = self._wall_clock()
        self._check_turn(key_sha256(key), now_s)
        left_s_min = self.authorities.life_s(asked.role, now_s) / 2  # as when a certificate is renewed
        admission = self.registry.join(
            token, asked.name, key_sha256(key), now_s, addresses=asked.addresses, left_s_min=left_s_min
        )
        return await self._certify(admission, key, issuer_key, again=admission.known)

    async def renew(self, caller: Identified, asked: RenewalRequested) -> bytes:
        """Give a party another certificate; return the frame that answers it, once it is on disk.

        A coordinator's is for the addresses of the one that it has shown, whatever it asks for: with those of another
        coordinator it could stand in for that one.

        Raises:
            Refusal: to be told to the party.
        """
        self._check_ready()
        now_s = self._wall_clock()
        self._check_turn(caller.key_sha256, now_s)
        key, issuer_key = self._keys(asked)
        admission = self.registry.renew(caller, key_sha256(key), now_s)
        return await self._certify(admission, key, issuer_key, again=False)

    # --- for operators ---

    async def create_token(
        self,
        identifier: str,
        secret_sha256: bytes,
        *,
        role: JoinRole,
        ttl_s: float,
        uses: int,
        region: str | None,
        name: str | None,
        addresses: Sequence[str] = (),
    ) -> TokenRow:
        """Take a join token, of which the operator keeps the secret.

        Raises:
            Refusal: to be told to the operator.
        """
        try:
            check_addresses(addresses)
        except ConfigError as error:
            raise Refusal("malformed", str(error)) from None
        token, forgotten = self.registry.create_token(
            identifier,
            secret_sha256,
            self._wall_clock(),
            role=role,
            ttl_s=ttl_s,
            uses=uses,
            region=region,
            name=name,
            addresses=addresses,
        )

        def write(store: EnrolmentStore) -> None:
            store.put_token(token)
            for one in forgotten:
                store.forget_token(one)

        await self._written(write)
        return token

    async def revoke_token(self, identifier: str) -> TokenRow:
        """Let nobody join with a join token any more.

        Raises:
            Refusal: to be told to the operator.
        """
        token = self.registry.revoke_token(identifier)
        await self._written(lambda store: store.put_token(token))
        return token

    async def revoke(self, role: Role, name: str, key: str | None) -> list[Revocation]:
        """Shut a party out: here at once, at the peers when they have asked. Who was shut out before is on disk, too.

        Raises:
            Refusal: to be told to the operator.
        """
        revoked = self.registry.revoke(role, name, key)
        if not revoked:
            await self._written(lambda _: None)  # behind an earlier wish that may be on its way to the disk
        return await self._shut_out(revoked)

    async def rename(self, role: Role, name: str, title: str) -> list[PartyRow]:
        """Give a party another title.

        Raises:
            Refusal: to be told to the operator.
        """
        changed = self.registry.rename(role, name, title)

        def write(store: EnrolmentStore) -> None:
            for party in changed:
                store.put_title(party)

        await self._written(write)
        return changed

    # --- for peers ---

    @property
    def digest(self) -> str | None:
        """Of the revocations that are known here."""
        return self.registry.digest

    async def learn(self, revocations: Sequence[Revocation], peer: str) -> int:
        """Take a peer's revocations; return how many of them are not believed now.

        Raises:
            Refusal: it has told too many.
        """
        believed = self.registry.believed(revocations, peer, self._wall_clock())
        await self._shut_out(self.registry.learn(believed, peer))
        return len(revocations) - len(believed)

    async def learn_parties(self, parties: Sequence[PartyRow], peer: str) -> int:
        """Take note of a peer's parties; return how many of them are not believed now.

        Raises:
            Refusal: there would be too many.
        """
        believed = self.registry.believed_parties(parties, peer, self._wall_clock())
        new = self.registry.learn_parties(believed)

        def write(store: EnrolmentStore) -> None:
            for one in new:
                store.put_told_party(one)

        if new:
            await self._written(write)
        if any(self.registry.is_contested(one.role, one.name) for one in new):
            self._revoked()
        return len(parties) - len(believed)

    # --- the task ---

    async def run(self) -> None:
        """Sign and write what comes, until cancelled.

        Raises:
            StorageError: the disk refused; nobody is told that anything was written.
        """
        while True:
            await self._wanted.wait()
            group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
            if not self._waiting:
                self._wanted.clear()
            try:
                results = await self._run_in_thread(partial(self._perform, [write for write, _ in group]))
            except BaseException:
                for _, done in group + self._waiting:
                    done.cancel()
                raise
            for (_, done), result in zip(group, results, strict=True):
                if not done.done():
                    done.set_result(result)

    # --- inside ---

    def _perform(self, writes: Sequence[Write]) -> list[Any]:
        with self._store.transaction():
            return [write(self._store) for write in writes]

    def _written(self, write: Write) -> Awaitable[Any]:
        """Let `write` happen inside a transaction; what it returned is there once that is on disk."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((write, done))
        self._wanted.set()
        return done

    def _check_ready(self) -> None:
        if self._wall_clock() >= self.authorities.issuer.certificate.not_valid_after_utc.timestamp():
            raise Refusal("busy", "this coordinator's own certificates have expired: join at another one")
        if len(self._waiting) >= WAITING_MAX:
            raise Refusal("busy", f"{WAITING_MAX} parties are joining at this moment: come back in a few seconds")

    def _check_turn(self, key: str, now_s: float) -> None:
        """See that one party does not take the places of all.

        Raises:
            Refusal: it asks too often.
        """
        if not self._answers.take(key, now_s):
            raise Refusal("busy", "this key has joined or renewed several times in a row: come back in a few seconds")

    @staticmethod
    def _keys(
        asked: JoinRequested | RenewalRequested,
    ) -> tuple[ec.EllipticCurvePublicKey, ec.EllipticCurvePublicKey | None]:
        """Return the keys that certificates are asked for.

        Raises:
            Refusal: the requests or addresses are not what they should be.
        """
        try:
            check_addresses(asked.addresses)
            key = requests.public_key(asked.request)
            return key, None if asked.issuer_request is None else requests.public_key(asked.issuer_request)
        except (InvalidCertificateError, ConfigError) as error:
            raise Refusal("malformed", str(error)) from None

    async def _certify(
        self,
        admission: Admission,
        key: ec.EllipticCurvePublicKey,
        issuer_key: ec.EllipticCurvePublicKey | None,
        *,
        again: bool,
    ) -> bytes:
        """Sign, write, and return the answer; `again`: the same answer as last time, if there was one."""
        now_s = self._wall_clock()
        coordinators = dict(self._coordinators())

        def write(store: EnrolmentStore) -> tuple[PartyRow, bytes]:
            party = admission.party
            if again and (answer := store.answer(party)):
                return party, answer
            subject = Subject(self.authorities.federation, party.role, party.name)
            chain = self.authorities.sign(subject, key, now_s, party.addresses.split())
            issuer = None
            if party.role == "coordinator" and issuer_key is not None:
                assert self.authorities.root is not None
                issuer = der_of(self.authorities.root.issue_issuer(party.name, issuer_key, now_s, key))
            party = party._replace(
                expires_at_s=chain[0].not_valid_after_utc.timestamp(), serial=f"{chain[0].serial_number:x}"
            )
            answer = frames.encode(
                Joined(
                    party.name,
                    party.region,
                    tuple(map(der_of, chain)),
                    issuer,
                    coordinators if party.role == "agent" else {},
                )
            )
            store.put_party(party, answer)
            if admission.token is not None:
                store.put_token(admission.token)
            return party, answer

        party, answer = await self._written(write)
        self.registry.enrol(party)
        return answer  # type: ignore[no-any-return]

    async def _shut_out(self, revocations: list[Revocation]) -> list[Revocation]:
        if revocations:
            now_s = self._wall_clock()

            def write(store: EnrolmentStore) -> None:
                for one in revocations:
                    store.put_revocation(one, now_s)

            await self._written(write)
            self._revoked()
        return revocations
