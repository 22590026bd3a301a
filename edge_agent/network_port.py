"""The way to the network: which port leads out, how fast it is, and whether bytes on it cost money."""

import msgspec

from edge_agent.kernel_files import KernelFiles, whole

NET = "sys/class/net"
MOBILE = ("wwan", "ppp", "rmnet")  # what kernels call ports of mobile networks


class Port(msgspec.Struct, frozen=True):
    """The port of the default route; None: not known."""

    metered: bool | None = None
    bytes_per_s: float | None = None  # of the port itself, the network behind it may be slower


class NetworkPort:
    """Finds the port in the kernel's routing table."""

    def __init__(self, files: KernelFiles) -> None:
        self._files = files

    def read(self) -> Port:
        """Look at the port of the default route.

        What NetworkManager thinks of a connection is only to be had through D-Bus, and not asked for.
        """
        name = self._files.parse("proc/net/route", _default_port)
        if not name:
            return Port()
        megabits = self._files.number(f"{NET}/{name}/speed")  # radios have none; -1: not connected
        mobile = name.startswith(MOBILE) or "DEVTYPE=wwan" in (self._files.text(f"{NET}/{name}/uevent") or "")
        return Port(mobile, megabits * 1e6 / 8 if megabits is not None and megabits > 0 else None)


def _default_port(table: str) -> str:
    """Return the port of the default route with the lowest metric, "" where there is none."""
    rows = [line.split() for line in table.splitlines()[1:]]
    found = [(whole(row[6]), row[0]) for row in rows if row[1] == "00000000" and "/" not in row[0]]
    return min(found)[1] if found else ""
