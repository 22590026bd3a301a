"""At which addresses a coordinator may serve: its certificate names them, and no two coordinators share one. Pure.

The addresses by which a machine reaches itself are everybody's: no other machine is reached by them.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address

from coordinator.enrolment.records import PartyRow
from skerry.exposure import is_loopback


def granted(asked: Sequence[str], pinned: str) -> str:
    """Return what goes into a certificate, as in a row: where a join token names addresses those, else what is asked.

    Args:
        asked: host names and IP addresses, in the order of the certificate.
        pinned: those of the join token, as in its row; "": none.
    """
    further = [one for one in asked if is_loopback(one)] if pinned else asked
    return " ".join(dict.fromkeys([*pinned.split(), *further]))


def taken(addresses: str, others: Iterable[PartyRow]) -> tuple[str, PartyRow] | None:
    """Return the first of `addresses`, as in a row, that is one of `others`', and whose it is; None: there is none."""
    wanted = {_canonical(one): one for one in addresses.split() if not is_loopback(one)}
    for party in others:
        for one in map(_canonical, party.addresses.split()):
            if one in wanted:
                return wanted[one], party
    return None


def _canonical(address: str) -> str:
    """Return what is the same for two that a client takes for one another."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address.lower()
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return str(mapped or ip)
