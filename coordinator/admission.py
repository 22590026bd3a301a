"""Who may connect, before a byte is read or a handshake is begun: how many at once, and how often. Pure.

An address is what one host has: of IPv6 the first 64 bits, because a host is given that many addresses at least.
"""

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

ADDRESSES_MAX = 4096  # or names, or keys, remembered without a connection; who is forgotten starts with a full bucket
BURST_S = 5.0  # what a bucket holds, in seconds of its rate
HOST_PREFIX_BITS = 64


class Bucket:
    """A bucket that fills at a rate; whoever wants something takes from it."""

    __slots__ = ("_at_s", "_full", "_left", "_rate_per_s")

    def __init__(self, rate_per_s: float, now_s: float, burst_s: float = BURST_S) -> None:
        """Start full: with `burst_s` seconds of `rate_per_s`, and with one at least."""
        self._rate_per_s, self._at_s = rate_per_s, now_s
        self._full = self._left = max(1.0, rate_per_s * burst_s)

    def take(self, now_s: float) -> bool:
        """Take one; False: there is none, and nothing was taken."""
        self._fill(now_s)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def owe(self, now_s: float) -> float:
        """Take one that may not be there yet; return how many seconds to wait until it is."""
        self._fill(now_s)
        self._left -= 1.0
        return max(0.0, -self._left / self._rate_per_s)

    def _fill(self, now_s: float) -> None:
        self._left = min(self._full, self._left + max(0.0, now_s - self._at_s) * self._rate_per_s)
        self._at_s = now_s


class Allowances:
    """A bucket for each of many names, of which those that asked last are remembered."""

    def __init__(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, name: str, now_s: float) -> bool:
        """Take one for `name`; False: it has had its share."""
        bucket = self._buckets.setdefault(name, Bucket(self._rate_per_s, now_s))
        self._buckets.move_to_end(name)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        return bucket.take(now_s)


@dataclass(slots=True)
class _Host:
    bucket: Bucket
    open: int = 0


class Admission:
    """The connections of one port, by address."""

    def __init__(
        self, *, connections_max: int, per_address_max: int, rate_per_s: float, rate_per_address_per_s: float
    ) -> None:
        """`rate_per_s`: new connections of all addresses together; `rate_per_address_per_s`: of one."""
        self.connections_max = connections_max  # may be changed at any time; connections that stand stay
        self._per_address_max = per_address_max
        self._rate_per_s, self._rate_per_address_per_s = rate_per_s, rate_per_address_per_s
        self._all: Bucket | None = None  # until the first one asks: the time comes with it
        self._hosts: dict[str, _Host] = {}  # with a connection
        self._idle: OrderedDict[str, _Host] = OrderedDict()  # without one; the one that asked last is the last
        self.open = 0

    def admit(self, address: str, now_s: float) -> str | None:
        """Count a new connection; return why it may not stay, None if it may.

        What one address may not do takes nothing from the others: its own limits come first.
        """
        host = self._host(address, now_s)
        if host.open >= self._per_address_max:
            return "address_full"
        if self.open >= self.connections_max:
            return "full"
        if not host.bucket.take(now_s):
            return "address_rate"
        self._all = self._all or Bucket(self._rate_per_s, now_s)
        if not self._all.take(now_s):
            return "rate"
        if host.open == 0:
            self._hosts[key_of(address)] = self._idle.pop(key_of(address))
        host.open += 1
        self.open += 1
        return None

    def release(self, address: str) -> None:
        """Take note that an admitted connection is closed."""
        key = key_of(address)
        host = self._hosts[key]
        host.open -= 1
        self.open -= 1
        if host.open == 0:
            self._remember(key, self._hosts.pop(key))

    def _host(self, address: str, now_s: float) -> _Host:
        key = key_of(address)
        host = self._hosts.get(key)
        if host is None:
            host = self._idle.get(key) or _Host(Bucket(self._rate_per_address_per_s, now_s))
            self._remember(key, host)
        return host

    def _remember(self, key: str, host: _Host) -> None:
        """Keep a host without a connection, as the last to be forgotten where addresses come and go."""
        self._idle[key] = host
        self._idle.move_to_end(key)
        if len(self._idle) > ADDRESSES_MAX:
            self._idle.popitem(last=False)


def key_of(address: str) -> str:
    """Return what stands for the host at `address`, as `socket.getpeername` gives it."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address  # no address of the internet: as it stands
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        network = int(ip) >> HOST_PREFIX_BITS << HOST_PREFIX_BITS
        return f"{IPv6Address(network)}/{HOST_PREFIX_BITS}"
    return str(ip)
