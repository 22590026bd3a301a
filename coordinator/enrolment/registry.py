"""Who may take part in the federation, as one coordinator knows it. Pure: no clock, disk or key.

What a method decides has happened here at once; the caller writes the rows that it returns before it tells anybody.

A party is known by its public key: a certificate that is renewed keeps it, so a revocation covers every certificate of
the party, whichever coordinator signed it. Of two keys that bear the same name, the one that was enrolled first, here
or at a peer, holds it until it is revoked: no join token evicts a device.
"""

import hashlib
import hmac
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from coordinator.enrolment import addresses as addressing
from coordinator.enrolment.peers_word import PeersWord
from coordinator.enrolment.records import JoinRole, PartyRow, Revocation, TokenRow
from skerry.identity.certificate import NAME, Identified, Issuer, Role

RefusalReason = Literal[
    "malformed", "unknown", "expired", "used", "revoked", "wrong_role", "name", "name_taken", "no_root", "busy"
]

TTL_MIN_S, TTL_MAX_S = 60.0, 366 * 86400.0
USES_MAX = 100_000
TOKENS_MAX = 10_000  # that operators are told of; one that ended makes room
REVOCATIONS_PER_PEER_MAX = 100_000  # new to us, from one start to the next: about 30 MB
TITLE_CHARS_MAX = 100
PARTIES_MAX = 1_000_000
PAGE_ENTRIES_MAX = 256  # revocations or parties told at a time


class Refusal(Exception):  # noqa: N818 - no error of ours
    """Who asks is refused; the text says why and what to do."""

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: RefusalReason = reason
        self.detail = detail


class Admission(NamedTuple):
    """Somebody may have a certificate."""

    party: PartyRow  # of one that is new, without the certificate that is about to be made
    known: bool  # it is enrolled here already; who joins is given the same certificate again
    token: TokenRow | None = None  # the join token with the use that this took, to be written


class Registry:
    """Join tokens, parties and revocations of one coordinator."""

    def __init__(
        self,
        coordinator: str,
        region: str,
        *,
        signs_coordinators: bool,
        process: str = "",
        tokens: Iterable[TokenRow] = (),
        parties: Iterable[PartyRow] = (),
        revocations: Iterable[Revocation] = (),
    ) -> None:
        """Start from what is on disk.

        `signs_coordinators`: the federation's root key is here. `process` is another one after each start: the order
        in which parties are told does not outlive it.
        """
        self._coordinator, self._region = coordinator, region
        self._signs_coordinators, self._process = signs_coordinators, process
        self._tokens = {token.identifier: token for token in tokens}
        self._parties: dict[tuple[Role, str], dict[str, PartyRow]] = {}
        self._devices = 0  # that got a certificate here: peers can tell of any number
        self._device_keys: set[str] = set()
        self._word = PeersWord()
        self._told: list[str] = []  # every party as peers are told of it
        self._revoked = set(revocations)
        self._revoked_keys: dict[Role, set[str]] = {"agent": set(), "coordinator": set(), "admin": set()}
        for one in self._revoked:
            self._revoked_keys[one.role].add(one.key)
        self._learnt_from: Counter[str] = Counter()  # by peer: revocations that were new
        self._revoked_texts = sorted(one.text() for one in self._revoked)
        self._digest: str | None = None
        for party in parties:
            self._add(party)

    # --- join tokens ---

    def create_token(
        self,
        identifier: str,
        secret_sha256: bytes,
        now_s: float,
        *,
        role: JoinRole,
        ttl_s: float,
        uses: int,
        region: str | None = None,
        name: str | None = None,
        addresses: Sequence[str] = (),
    ) -> tuple[TokenRow, list[str]]:
        """Take a new join token; return it, and the identifiers of ended ones to forget.

        Raises:
            Refusal: a value is out of range, or does not go together with another.
        """
        if not TTL_MIN_S <= ttl_s <= TTL_MAX_S:
            raise Refusal("malformed", f"the time to live must be from {TTL_MIN_S:.0f} s to {TTL_MAX_S:.0f} s")
        if not 1 <= uses <= USES_MAX:
            raise Refusal("malformed", f"uses must be from 1 to {USES_MAX}")
        if name is not None and uses != 1:
            raise Refusal("malformed", f"a join token for {name!r} alone has one use, not {uses}")
        if addresses and (role != "coordinator" or uses != 1):
            raise Refusal("malformed", "a join token with addresses is for one coordinator: it has one use")
        if identifier in self._tokens:
            raise Refusal("malformed", f"there is a join token {identifier} already")
        if role == "coordinator" and not self._signs_coordinators:
            raise Refusal("no_root", self._no_root())
        for kind, text in (("name", name), ("region", region)):
            if text is not None and not NAME.match(text):
                raise Refusal("malformed", f"{kind}: {text[:64]!r} is no name")
        forgotten = []
        if len(self._tokens) >= TOKENS_MAX:
            ended = [one for one in self._tokens.values() if one.state(now_s) != "valid"]
            if not ended:
                raise Refusal("busy", f"there are {TOKENS_MAX} join tokens: revoke some")
            forgotten = [one.identifier for one in sorted(ended, key=lambda one: one.created_at_s)[: TOKENS_MAX // 10]]
            for one in forgotten:
                del self._tokens[one]
        token = TokenRow(
            identifier,
            secret_sha256,
            role,
            region or self._region,
            name,
            uses,
            0,
            now_s,
            now_s + ttl_s,
            revoked=0,
            addresses=" ".join(addresses),
        )
        self._tokens[identifier] = token
        return token, forgotten

    def tokens(self) -> list[TokenRow]:
        """Return all join tokens, the newest first."""
        return sorted(self._tokens.values(), key=lambda one: (-one.created_at_s, one.identifier))

    def revoke_token(self, identifier: str) -> TokenRow:
        """Let nobody join with this join token any more; who has joined stays.

        Raises:
            Refusal: there is none.
        """
        token = self._tokens.get(identifier)
        if token is None:
            raise Refusal("unknown", f"there is no join token {identifier[:64]!r} here: see `token list`")
        self._tokens[identifier] = token._replace(revoked=1)
        return self._tokens[identifier]

    # --- joining and renewing ---

    def check_token(self, identifier: str, secret_sha256: bytes, role: JoinRole) -> TokenRow:
        """Return the join token that somebody has, whatever its state: cheap, before anything that they sent is read.

        Raises:
            Refusal: there is none like it, or it is for another role.
        """
        token = self._tokens.get(identifier)
        # One answer for both, after the same work: nobody learns which identifiers there are.
        expected = bytes(len(secret_sha256)) if token is None else token.secret_sha256
        if not hmac.compare_digest(expected, secret_sha256) or token is None:
            raise Refusal(
                "unknown",
                f"coordinator {self._coordinator!r} knows no such join token: it is mistyped, or was made by another "
                "one, or long ago: ask the operator for a new one, and which coordinator to join at",
            )
        if token.role != role:
            raise Refusal("wrong_role", f"this join token is for a party of role {token.role}, not {role}")
        return token

    def join(
        self,
        token: TokenRow,
        name: str | None,
        key: str,
        now_s: float,
        *,
        addresses: Sequence[str] = (),
        left_s_min: float = 0.0,
    ) -> Admission:
        """Let the holder of `key` join with a join token from `check_token`, and take a use of it.

        Who comes again with the same key and name, because the answer was lost, is let in again without a further use,
        as long as its certificate counts for more than `left_s_min`; else it joins anew, and keeps its place.
        `addresses`: at which a coordinator asks to serve.

        Raises:
            Refusal: the join token has ended, or the name or an address is not to be had.
        """
        if token.name is not None and name not in {None, token.name}:
            raise Refusal("name", f"this join token is for {token.name!r}, not for {name!r}")
        name = name or token.name or f"device-{key[:10]}"
        known = self._parties.get((token.role, name), {}).get(key)
        # Who is known is not shut out by a revocation of its key in another role: peers may tell any number of those.
        roles = [token.role] if known is not None else list(self._revoked_keys)
        if any(key in self._revoked_keys[role] for role in roles):
            raise Refusal(
                "revoked",
                "this key was revoked, under this name or another: remove its identity folder to make a new key",
            )
        if known is not None and (_is_under_way(known, token) or known.expires_at_s - now_s > left_s_min):
            return Admission(known, known=True)
        if token.role == "coordinator" and not self._signs_coordinators:
            raise Refusal("no_root", self._no_root())
        match token.state(now_s):
            case "revoked":
                raise Refusal("revoked", "this join token was revoked: ask the operator for a new one")
            case "used":
                raise Refusal(
                    "used", f"this join token has been used up, {token.used} of {token.uses}: ask for a new one"
                )
            case "expired":
                late_s = now_s - token.expires_at_s
                raise Refusal("expired", f"this join token expired {late_s:.0f} s ago: ask the operator for a new one")
        holder = self._holder(token.role, name)
        if holder is not None and holder.key != key:
            raise Refusal(
                "name_taken",
                f"the name {name!r} belongs to another key: choose another name, or, if this machine replaces "
                f"that one or lost its key, let the operator run `skerry-coordinator devices revoke {name}` first",
            )
        serves_at = addressing.granted(addresses, token.addresses) if token.role == "coordinator" else ""
        self._check_addresses(serves_at, name)
        token = token._replace(used=token.used + 1)
        self._tokens[token.identifier] = token
        if known is None:
            party = PartyRow(token.role, name, key, token.region, name, token.identifier, now_s, 0.0, "")
        else:
            party = known._replace(join_token=token.identifier, expires_at_s=0.0, serial="")
        party = party._replace(addresses=serves_at)
        self._add(party)
        return Admission(party, known=False, token=token)

    def renew(self, caller: Identified, key: str, now_s: float) -> Admission:
        """Let a party that has shown its certificate have another one for the same key, and the same addresses.

        Raises:
            Refusal: it is refused, the key is another one, or the root alone could sign it.
        """
        refusal = self.refusal(caller)
        if refusal is not None:
            raise Refusal("revoked", refusal)
        role, name = caller.subject.role, caller.subject.name
        if key != caller.key_sha256:
            raise Refusal(
                "malformed", "the request is for another key than that of the certificate: a renewal keeps it"
            )
        if role != "agent" and not self._signs_coordinators:
            raise Refusal("no_root", self._no_root())
        known = self._parties.get((role, name), {}).get(key)
        party = known or PartyRow(role, name, key, self._region, name, "", now_s, 0.0, "")
        party = party._replace(addresses=" ".join(caller.addresses))
        self._add(party)
        return Admission(party, known=known is not None)

    def enrol(self, party: PartyRow) -> None:
        """Take note of a party's newest certificate."""
        self._add(party)

    # --- parties ---

    def refusal(self, caller: Identified) -> str | None:
        """Return why a party whose certificate is genuine is refused all the same; None: it is not."""
        role, name = caller.subject.role, caller.subject.name
        if self.is_revoked(role, name, caller.key_sha256):
            return f"the certificate of {role} {name!r} was revoked"
        if caller.issuer is not None and self._issuer_is_revoked(caller.issuer):
            by = caller.issuer.coordinator
            return f"coordinator {by!r}, which signed the certificate of {role} {name!r}, was revoked: join at another"
        holder = self._holder(role, name)
        if holder is not None and holder.key != caller.key_sha256:
            return f"the name {name!r} belongs to another key here: one of the two must be revoked and join again"
        return None

    def is_contested(self, role: Role, name: str) -> bool:
        """Return whether several keys that are not revoked bear this name, all but one of which are refused."""
        return len(self._standing(role, name)) > 1

    def is_revoked(self, role: Role, name: str, key: str) -> bool:
        """Return whether certificates for this key under this name count no more."""
        return Revocation(role, name, key) in self._revoked

    def parties(self) -> list[PartyRow]:
        """Return every party that is known, by role and name; those that were revoked, too."""
        return sorted(party for same in self._parties.values() for party in same.values())

    def rename(self, role: Role, name: str, title: str) -> list[PartyRow]:
        """Give a party another title; return what changed. Its name stays: its updates are counted under that.

        Raises:
            Refusal: there is no such party, or the title cannot be shown.
        """
        if not 1 <= len(title) <= TITLE_CHARS_MAX or not title.isprintable():
            raise Refusal("malformed", f"a title has 1 to {TITLE_CHARS_MAX} characters that can be shown")
        changed = [party._replace(title=title) for party in self._known(role, name)]
        for party in changed:
            self._add(party)
        return changed

    # --- what peers tell each other of parties ---

    @property
    def place(self) -> str:
        """Up to where peers can ask for parties."""
        return f"{self._process}:{len(self._told)}" if self._told else ""

    def told_parties(self, after: str) -> tuple[Sequence[str], str, bool]:
        """Return some parties behind a place, the place behind them, and whether there are more.

        A place that was not given out by this process is in front of all.
        """
        process, _, number = after.rpartition(":")
        start = int(number) if process == self._process and number.isdecimal() and len(number) < 10 else 0
        page = self._told[start : start + PAGE_ENTRIES_MAX]
        behind = min(start, len(self._told)) + len(page)
        return page, f"{self._process}:{behind}", behind < len(self._told)

    def believed_parties(self, parties: Iterable[PartyRow], peer: str, now_s: float) -> list[PartyRow]:
        """Return what is taken now of a peer's parties: it shuts out few devices by earlier claims, and nobody else."""
        may = [one for one in parties if one.role == "agent" or not self._displaces(one)]
        return [one for one in may if not self._displaces(one) or self._word.counts(peer, self._devices, now_s)]

    def learn_parties(self, parties: Iterable[PartyRow]) -> list[PartyRow]:
        """Take note of parties that were enrolled elsewhere; return those that were new, or enrolled before we knew.

        A device may have renewed here before we were told of it: it holds its name from when it was first enrolled.
        The name of a coordinator or operator is its holder's, whatever a peer says: or one peer could shut out all
        others, and who might throw it out.

        Raises:
            Refusal: there would be more than anybody can have meant.
        """
        told = list(parties)
        if len(self._told) + sum(self._learns(one) is not None for one in told) > PARTIES_MAX:
            raise Refusal("busy", f"there would be more than {PARTIES_MAX} parties")
        taken = {}
        for one in told:
            row = self._learns(one)
            if row is not None:
                self._add(row)
                taken[row.role, row.name, row.key] = row
        return list(taken.values())

    # --- revocations ---

    def revoke(self, role: Role, name: str, key: str | None = None) -> list[Revocation]:
        """Shut a party out, with every key that it has here, or with `key`; return what is new.

        Raises:
            Refusal: there is no such party here, and no key was given.
        """
        keys = [party.key for party in self._known(role, name)] if key is None else [key]
        return self._take([Revocation(role, name, one) for one in keys if not self.is_revoked(role, name, one)])

    def believed(self, revocations: Iterable[Revocation], peer: str, now_s: float) -> list[Revocation]:
        """Return what is taken now of the revocations that a peer tells: it can shut out few devices in a day.

        A device is shut out by a revocation of its key, under whatever name. Those of other keys shut nobody out.
        """
        return [one for one in revocations if not self._shuts_out(one) or self._word.counts(peer, self._devices, now_s)]

    def learn(self, revocations: Iterable[Revocation], peer: str) -> list[Revocation]:
        """Take a peer's revocations; return those that were new. What one peer tells takes no room from anybody else.

        Raises:
            Refusal: the peer has told more than anybody can have meant.
        """
        new = [one for one in dict.fromkeys(revocations) if one not in self._revoked]
        if self._learnt_from[peer] + len(new) > REVOCATIONS_PER_PEER_MAX:
            raise Refusal("busy", f"there would be more than {REVOCATIONS_PER_PEER_MAX} revocations of {peer!r}")
        self._learnt_from[peer] += len(new)
        return self._take(new)

    @property
    def digest(self) -> str | None:
        """The SHA-256 over all revocations, as text and a line feed each, in order; None where there are none."""
        if self._digest is None and self._revoked:
            self._digest = hashlib.sha256("".join(f"{one}\n" for one in self._revoked_texts).encode()).hexdigest()
        return self._digest

    def revocations(self, after: str = "") -> tuple[Sequence[str], bool]:
        """Return some revocations behind `after`, in order, and whether there are more."""
        start = bisect_right(self._revoked_texts, after)
        page = self._revoked_texts[start : start + PAGE_ENTRIES_MAX]
        return page, start + len(page) < len(self._revoked_texts)

    # --- inside ---

    def _shuts_out(self, one: Revocation) -> bool:
        """Return whether a device that is known is served no more, or cannot join again, if this is believed."""
        holder = self._holder(one.role, one.name)
        served = holder is not None and holder.key == one.key
        may_join = one.key in self._device_keys and one.key not in self._revoked_keys["agent"]
        return one.role == "agent" and (served or may_join)

    def _displaces(self, told: PartyRow) -> bool:
        """Return whether somebody who is served loses a name if this is believed, or it is one for its holder alone."""
        holder = self._holder(told.role, told.name)
        if holder is None or holder.key == told.key or self.is_revoked(told.role, told.name, told.key):
            return False
        return told.role != "agent" or (told.enrolled_at_s, told.key) < (holder.enrolled_at_s, holder.key)

    def _learns(self, told: PartyRow) -> PartyRow | None:
        """Return what a peer's word makes of a party; None: nothing new, or not for a peer to say."""
        known = self._parties.get((told.role, told.name), {}).get(told.key)
        if known is None:
            return told if told.role == "agent" or self._holder(told.role, told.name) is None else None
        earlier = told.role == "agent" and told.enrolled_at_s < known.enrolled_at_s
        return known._replace(enrolled_at_s=told.enrolled_at_s) if earlier else None

    def _check_addresses(self, addresses: str, name: str) -> None:
        """See that no other coordinator serves at one of these: this one could stand in for it.

        Raises:
            Refusal: one does.
        """
        names = [other for role, other in self._parties if role == "coordinator" and other != name] if addresses else []
        found = addressing.taken(addresses, (one for other in names for one in self._standing("coordinator", other)))
        if found is not None:
            address, party = found
            raise Refusal(
                "name_taken",
                f"the address {address!r} is in the certificate of coordinator {party.name!r}: choose another one with "
                "--address, or, if this machine takes that one's place, let the operator run "
                f"`skerry-coordinator devices revoke {party.name} --role coordinator` first",
            )

    def _issuer_is_revoked(self, issuer: Issuer) -> bool:
        """Return whether what an issuer signed counts no more: its coordinator's key was revoked.

        Where it does not say which key that is, any revocation under the coordinator's name is its own.
        """
        start = Revocation("coordinator", issuer.coordinator, issuer.key_sha256).text()
        place = bisect_left(self._revoked_texts, start)
        return place < len(self._revoked_texts) and self._revoked_texts[place].startswith(start)

    def _take(self, new: list[Revocation]) -> list[Revocation]:
        for one in new:
            self._revoked.add(one)
            self._revoked_keys[one.role].add(one.key)
            insort(self._revoked_texts, one.text())
            self._digest = None
        return new

    def _add(self, party: PartyRow) -> None:
        same = self._parties.setdefault((party.role, party.name), {})
        before = same.get(party.key)
        if party.role == "agent":
            self._device_keys.add(party.key)
        self._devices += party.role == "agent" and bool(party.serial) and not (before and before.serial)
        if before is None or party.enrolled_at_s < before.enrolled_at_s:
            self._told.append(party.text())
        else:  # a peer may have told of an earlier time while its certificate was signed
            party = party._replace(enrolled_at_s=before.enrolled_at_s)
        same[party.key] = party

    def _known(self, role: Role, name: str) -> list[PartyRow]:
        found = list(self._parties.get((role, name), {}).values())
        if not found:
            raise Refusal(
                "unknown",
                f"coordinator {self._coordinator!r} knows no {role} {name[:64]!r}: see `devices list --all`; if it has "
                "joined at a coordinator that is not reached now, ask there",
            )
        return found

    def _holder(self, role: Role, name: str) -> PartyRow | None:
        """Return whose the name is: the party that was first enrolled of those that are not revoked."""
        return min(self._standing(role, name), key=lambda one: (one.enrolled_at_s, one.key), default=None)

    def _standing(self, role: Role, name: str) -> list[PartyRow]:
        same = self._parties.get((role, name), {}).values()
        return [one for one in same if not self.is_revoked(role, name, one.key)]

    def _no_root(self) -> str:
        return (
            f"coordinator {self._coordinator!r} does not hold the root's key, which alone signs coordinators and "
            "operators: ask where `skerry-coordinator init` ran, or bring root-key.pem here for as long as it takes"
        )


def _is_under_way(party: PartyRow, token: TokenRow) -> bool:
    """Return whether a party joins with this join token at this moment: its certificate is being signed."""
    return party.join_token == token.identifier and not party.serial
