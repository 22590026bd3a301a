"""Builds a coordinator's desk from its identity and its database."""

from collections.abc import Callable, Mapping
from pathlib import Path

from coordinator.enrolment import authorities as authority_files
from coordinator.enrolment.desk import Desk
from coordinator.enrolment.founding import admin_folder
from coordinator.enrolment.records import PartyRow
from coordinator.enrolment.registry import Registry
from coordinator.enrolment.store import EnrolmentStore
from coordinator.threads import RunInThread
from skerry.database import Database, OpenDatabase
from skerry.identity import key_file
from skerry.identity.authority import LIFETIME_S
from skerry.identity.certificate import der_of, identify
from skerry.identity.key_file import IdentityFolder


def open_desk(
    state_dir: Path,
    folder: IdentityFolder,
    *,
    coordinator: str,
    region: str,
    run_in_thread: RunInThread,
    wall_clock: Callable[[], float],
    coordinators: Callable[[], Mapping[str, str]],
    revoked: Callable[[], None],
    device_certificate_s: float = LIFETIME_S["agent"],
    open_database: OpenDatabase = Database,
) -> Desk:
    """Open enrolment at a coordinator, which gives devices certificates for so long; else the arguments of `Desk`.

    Raises:
        IdentityError: the coordinator's identity is missing or damaged.
        SchemaTooNewError: a newer Skerry wrote the database.
        StateDamagedError: it is not what was written there.
        StorageError: it cannot be opened or read.
    """
    authorities = authority_files.load(folder, device_certificate_s)
    store = EnrolmentStore(state_dir, open_database=open_database)
    try:
        store.check()
        registry = Registry(
            coordinator,
            region,
            signs_coordinators=authorities.root is not None,
            process=f"{wall_clock():.6f}",
            tokens=store.tokens(),
            parties=store.parties(),
            revocations=store.revocations(),
        )
        known = {(one.role, one.name, one.key): one for one in registry.parties()}
        # Who has an identity here without having joined: the coordinator itself, and whom `init` made an operator.
        with store.transaction():
            for own in (folder, admin_folder(folder.path)):
                if own.holds(key_file.CERTIFICATE):
                    party = _party(own, authorities, region, wall_clock())
                    before = known.get((party.role, party.name, party.key))
                    if before is None or before.addresses != party.addresses:
                        party = (before or party)._replace(addresses=party.addresses)
                        registry.enrol(party)
                        store.put_party(party, b"")
    except BaseException:
        store.close()
        raise
    return Desk(
        registry,
        store,
        authorities,
        run_in_thread=run_in_thread,
        wall_clock=wall_clock,
        coordinators=coordinators,
        revoked=revoked,
    )


def _party(folder: IdentityFolder, authorities: authority_files.Authorities, region: str, now_s: float) -> PartyRow:
    shown = identify(der_of(folder.certificates(key_file.CERTIFICATE)[0]), authorities.root_certificate)
    subject = shown.subject
    return PartyRow(
        subject.role,
        subject.name,
        shown.key_sha256,
        region,
        subject.name,
        "",
        now_s,
        shown.not_after_s,
        shown.serial,
        " ".join(shown.addresses),
    )
