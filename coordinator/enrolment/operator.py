"""An operator's requests to a running coordinator, for the command line."""

import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from coordinator import config as configuration
from coordinator.config import CoordinatorConfig
from coordinator.enrolment.founding import admin_folder
from coordinator.remote import TIMEOUT, NotRunningError, UnexpectedAnswerError
from skerry import connection_error
from skerry.errors import ConfigError
from skerry.identity import key_file, tls
from skerry.identity.key_file import IdentityFolder

ANSWER_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Operator:
    """Whom to ask, and as whom."""

    url: str
    context: ssl.SSLContext

    async def get(self, path: str) -> Any:
        """Return what the coordinator tells.

        Raises:
            SkerryError: there is no answer, or it is a refusal: the text says why.
        """
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Ask the coordinator to do something; return what it says of that.

        Raises:
            SkerryError: as `get`.
        """
        return await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        where = self.url.rstrip("/") + path
        answer = bytearray()
        try:
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT) as http,
                http.request(method, where, json=body, ssl=self.context, allow_redirects=False) as response,
            ):
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > ANSWER_BYTES_MAX:
                        raise UnexpectedAnswerError(f"{where}: answers with more than {ANSWER_BYTES_MAX} bytes")
        except aiohttp.ClientConnectorCertificateError as error:
            raise UnexpectedAnswerError(f"{self.url}: {connection_error.disbelief(error.certificate_error)}") from None
        except (TimeoutError, aiohttp.ClientConnectionError) as error:
            raise NotRunningError(f"no coordinator answers at {self.url}: {connection_error.reason(error)}") from None
        except aiohttp.ClientError as error:
            raise UnexpectedAnswerError(f"{where}: {error}") from None
        if response.status != 200:
            text = answer[:1000].decode(errors="replace").strip()
            if response.status in {400, 403, 404, 503} and response.content_type == "text/plain":
                raise UnexpectedAnswerError(text)
            raise UnexpectedAnswerError(f"{where}: HTTP {response.status}: {text[:200]}")
        try:
            return json.loads(answer)
        except ValueError as error:
            raise UnexpectedAnswerError(f"{where}: answers with no JSON: is this a coordinator's address?") from error


def choose(config_path: Path, url: str | None, identity: Path | None) -> Operator:
    """Return whom to ask and as whom: by default the coordinator of the configuration, as whom `init` made an operator.

    Raises:
        ConfigError: the configuration cannot be used, or does without identities.
        IdentityError: the identity is missing or damaged.
    """
    if url is not None and identity is None and not config_path.exists():
        raise ConfigError(
            f"--url asks as an operator: name the folder of that identity with --identity DIR, or with --config the "
            f"configuration of a coordinator on this machine: {config_path} is not there"
        )
    config = configuration.load(config_path) if url is None or identity is None else None
    if url is None:
        assert config is not None
        if config.insecure:
            raise ConfigError(
                f"{config_path}: `insecure = true`: whoever reaches the port takes part, and nobody joins. Remove it, "
                "and run `skerry-coordinator init`"
            )
        url = own_url(config)
    if not url.startswith("https://"):
        raise ConfigError(f"{url!r} is no https:// URL: operators are known by their certificate")
    if identity is not None:
        folder = IdentityFolder(identity)
    else:
        assert config is not None
        own = config.identity_folder()
        folder = admin_folder(own.path)
        if not folder.holds(key_file.CERTIFICATE):  # the coordinator itself is as good on its own machine
            folder = own
    return Operator(url, tls.client_context(folder))


def own_url(config: CoordinatorConfig) -> str:
    """Return where the coordinator of this configuration answers on its own machine.

    Raises:
        NotRunningError: it chooses its port, and does not run.
    """
    port = config.listen.port
    if port == 0:
        try:
            port = int((config.state_dir / "port").read_text())
        except (OSError, ValueError) as error:
            raise NotRunningError(
                f"coordinator {config.name!r} is not running: no port in {config.state_dir}"
            ) from error
    host = config.listen.host
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - every address: the own one is among them
        host = "localhost"
    return f"{'http' if config.insecure else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"
