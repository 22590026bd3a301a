"""A device's own certificate, and TLS with it; renewed beneath a running agent.

Plain HTTP does without, and so without the memory that reading certificates takes: what does is imported when needed.
"""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edge_agent.config import AgentConfig

if TYPE_CHECKING:
    import aiohttp

    from skerry.identity.key_file import IdentityFolder


class Credentials:
    """What a device shows, and how it knows its coordinators."""

    def __init__(self, folder: "IdentityFolder", device: str, wall_clock: Callable[[], float]) -> None:
        """Read and check the files of the identity.

        Raises:
            IdentityError: one is missing or damaged, or the certificate has expired.
            ConfigError: the certificate is another device's.
        """
        from skerry.identity import own, tls

        self.folder, self._device, self.wall_clock = folder, device, wall_clock
        _, self.own = own.read_own(folder, "agent", device, wall_clock())
        self.client = tls.client_context(folder)

    def connector(self) -> "aiohttp.BaseConnector":
        """Return what connects to coordinators, and shows them who this is."""
        import aiohttp

        return aiohttp.TCPConnector(ssl=self.client)

    def renewed(self) -> None:
        """Show what lies in the folder now on every connection from now on."""
        from skerry.identity import own, tls

        _, self.own = own.read_own(self.folder, "agent", self._device, self.wall_clock())
        tls.reload(self.client, self.folder)


def credentials_of(config: AgentConfig, wall_clock: Callable[[], float]) -> Credentials | None:
    """Return what the configuration's device shows; None where it reaches every coordinator by plain HTTP.

    Raises:
        IdentityError, ConfigError: see `Credentials`.
    """
    if not any(url.startswith("https://") for url in config.coordinators):
        return None
    return Credentials(config.identity_folder(), config.device, wall_clock)


async def keep(credentials: Credentials | None, urls: Callable[[], Sequence[str]], rng: random.Random) -> None:
    """Renew the certificate at half of its life, for ever; where there is none, there is nothing to do.

    Raises:
        IdentityError: it has expired, or was revoked.
        StorageError: the disk refused.
    """
    if credentials is None:
        return
    from skerry import joining, renewal

    await renewal.keep_renewing(
        lambda: credentials.own,
        lambda url: joining.renew(url, credentials.folder, wall_clock=credentials.wall_clock),
        urls,
        credentials.renewed,
        wall_clock=credentials.wall_clock,
        rng=rng,
    )
