"""The database of enrolment, see schema/ and queries.sql. Synchronous; rows go in and come out."""

from pathlib import Path
from typing import Any

from coordinator.enrolment.records import PartyRow, Revocation, TokenRow
from skerry.database import Database, OpenDatabase
from skerry.errors import StateDamagedError

FILE_NAME = "enrolment.db"
REMEDY = (
    ": put a copy of enrolment.db in its place, or move enrolment.db* away and start again: peers tell whom they "
    "enrolled and revoked; join tokens, and revocations that no peer has heard of, have to be made again"
)


class EnrolmentStore:
    """The database, open."""

    def __init__(self, state_dir: Path, *, open_database: OpenDatabase = Database) -> None:
        """Open or create the database of `state_dir`.

        Raises:
            SchemaTooNewError: a newer Skerry wrote it.
            StateDamagedError: it is not what was written there.
            StorageError: it cannot be opened, read or written.
        """
        self._path = state_dir / FILE_NAME
        self._db = open_database(self._path, "coordinator.enrolment")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def check(self) -> None:
        """See that all rows are as they were written.

        Raises:
            StateDamagedError: naming the tables in which one is not.
            StorageError: it cannot be read.
        """
        if tables := self._db.damaged_tables():
            raise StateDamagedError(f"{self._path}: a checksum differs in {', '.join(tables)}{REMEDY}")

    def transaction(self) -> Any:
        """All that is put inside is on disk behind it, or none of it where this raises."""
        return self._db.transaction()

    # --- inside a transaction ---

    def put_token(self, token: TokenRow) -> None:
        """Write a join token; of one that is there, its uses and whether it is revoked."""
        self._run("put_join_token", token)

    def forget_token(self, identifier: str) -> None:
        """Remove a join token."""
        self._run("forget_join_token", (identifier,))

    def put_party(self, party: PartyRow, answer: bytes) -> None:
        """Write a party, and the frame that brings it its newest certificate."""
        self._run("put_party", (*party, answer))

    def put_told_party(self, party: PartyRow) -> None:
        """Write a party that a peer told of; of one that is there, when it was first enrolled."""
        self._run("put_told_party", party)

    def put_title(self, party: PartyRow) -> None:
        """Write a party's title."""
        self._run("put_title", (party.title, party.role, party.name, party.key))

    def put_revocation(self, revocation: Revocation, learnt_at_s: float) -> None:
        """Write a revocation; one that is there stays."""
        self._run("put_revocation", (*revocation, learnt_at_s))

    def answer(self, party: PartyRow) -> bytes | None:
        """Return the frame that brought a party its newest certificate; None: it is not enrolled."""
        rows = self._rows("answer", (party.role, party.name, party.key))
        return rows[0][0] if rows else None

    # --- at the start ---

    def tokens(self) -> list[TokenRow]:
        """Return all join tokens."""
        return [TokenRow(*row) for row in self._rows("join_tokens")]

    def parties(self) -> list[PartyRow]:
        """Return all parties."""
        return [PartyRow(*row) for row in self._rows("parties")]

    def revocations(self) -> list[Revocation]:
        """Return all revocations."""
        return [Revocation(*row) for row in self._rows("revocations")]

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._db.errors():
            return self._db.connection.execute(self._db.queries[query], values).fetchall()

    def _run(self, query: str, values: tuple[Any, ...]) -> None:
        self._db.connection.execute(self._db.queries[query], values)
