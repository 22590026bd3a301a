"""Where plain HTTP may go: nowhere, unless it is spelt out; beyond this machine only if that is spelt out as well."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from skerry.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_url(url: str, *, insecure: bool, beyond_loopback: bool = False) -> None:
    """Refuse what nobody may talk to.

    Args:
        url: base URL of a coordinator.
        insecure: plain http was spelt out.
        beyond_loopback: so was plain http to other machines.

    Raises:
        ConfigError: it is no URL, or plain http where that was not spelt out.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is no http:// or https:// URL")
    try:
        host, _ = urlsplit(url).hostname, urlsplit(url).port
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL: {error}") from error
    if not host:
        raise ConfigError(f"{url!r} names no host")
    if url.startswith("https://"):
        return
    if not insecure:
        raise ConfigError(f"{url!r} is plain http; use https, or spell out `insecure = true` in a loopback lab")
    if not beyond_loopback and not is_loopback(host):
        raise ConfigError(
            f"{url!r} is plain http to another machine; that is for loopback only, unless "
            "`insecure_beyond_loopback = true` is spelt out as well: then anyone in between reads and changes all of it"
        )
