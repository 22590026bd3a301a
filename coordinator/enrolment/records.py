"""What enrolment writes down, and how parties and revocations are told to peers. Pure."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from skerry.identity.certificate import NAME, Role

JoinRole = Literal["agent", "coordinator"]

_PARTY = re.compile(r"(.+)/([^/]+)/(\d{1,11}(?:\.\d{1,9})?)\Z")
_REVOCATION = re.compile(r"(agent|coordinator|admin)/([^/]+)/([0-9a-f]{64})\Z")


class TokenRow(NamedTuple):
    """A join token, as in the table `join_token`."""

    identifier: str
    secret_sha256: bytes
    role: JoinRole
    region: str
    name: str | None
    uses: int
    used: int
    created_at_s: float
    expires_at_s: float
    revoked: int
    addresses: str = ""  # that a coordinator gets, with a blank between them; "": those that it asks for

    def state(self, now_s: float) -> Literal["valid", "revoked", "used", "expired"]:
        """Return whether one can still join with it, or why not."""
        if self.revoked:
            return "revoked"
        if self.used >= self.uses:
            return "used"
        return "expired" if now_s >= self.expires_at_s else "valid"


class PartyRow(NamedTuple):
    """A party and its newest certificate, as in the table `party`, but for the answer."""

    role: Role
    name: str
    key: str
    region: str
    title: str
    join_token: str
    enrolled_at_s: float
    expires_at_s: float
    serial: str
    addresses: str = ""  # of a coordinator, in its certificate, with a blank between them; "": not known here

    def text(self) -> str:
        """Return its form on the wire."""
        return f"{self.role}/{self.name}/{self.key}/{self.region}/{self.enrolled_at_s:.9f}"


class Revocation(NamedTuple):
    """A party whose certificates count no more."""

    role: Role
    name: str
    key: str

    def text(self) -> str:
        """Return its form on the wire."""
        return "/".join(self)


def parse_revocation(text: str) -> Revocation | None:
    """Read the form that a revocation has on the wire; None where it is none."""
    found = _REVOCATION.match(text)
    if found is None or not NAME.match(found[2]):
        return None
    return Revocation(found[1], found[2], found[3])  # type: ignore[arg-type]  # the pattern says which roles


def parse_page(texts: Sequence[str], after: str) -> list[Revocation] | None:
    """Read a page of a peer's revocations, which are in order and behind `after`; None where it is none.

    The order is looked at so that a peer cannot keep one asking for ever.
    """
    revocations = [parse_revocation(text) for text in texts]
    if any(not before < text for before, text in zip([after, *texts], texts, strict=False)):
        return None
    found = [one for one in revocations if one is not None]
    return found if len(found) == len(revocations) else None


def parse_party(text: str) -> PartyRow | None:
    """Read the form that a party has on the wire; None where it is none."""
    found = _PARTY.match(text)
    who = None if found is None else parse_revocation(found[1])
    if found is None or who is None or not NAME.match(found[2]):
        return None
    return PartyRow(*who, found[2], who.name, "", float(found[3]), 0.0, "")
