"""The composition root of the coordinator: builds every part by hand, starts and stops them in order."""

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware
from msgspec.structs import replace
from yarl import URL

from coordinator import authorization, reload
from coordinator.api import Api
from coordinator.bundle_checks import check_privacy, check_size
from coordinator.config import CoordinatorConfig
from coordinator.credentials import Credentials, check_peers, credentials_of
from coordinator.engine import Engine, Toll
from coordinator.enrolment import authorities
from coordinator.enrolment.api import EnrolmentApi
from coordinator.enrolment.desk import Desk
from coordinator.enrolment.opening import open_desk
from coordinator.evaluation import Evaluator, open_evaluator
from coordinator.first_model import add_waiting_room, first_model
from coordinator.former_life import FormerLife
from coordinator.intake import bytes_max
from coordinator.metrics import Metrics
from coordinator.network import Network, Sockets
from coordinator.peers import Peers
from coordinator.state_dir import is_made
from coordinator.stream import Agents
from coordinator.threads import RunInThread, in_executor
from skerry import joining
from skerry.database import Database, OpenDatabase
from skerry.errors import ConfigError, StorageError
from skerry.exposure import check_url, is_loopback
from skerry.identity.certificate import Identified
from skerry.identity.own import own_addresses
from skerry.protocol.messages import (
    BundleReference,
    ModelVersion,
    PeerModel,
    TokenPassed,
    UpdateAccepted,
    UpdateRejected,
    Welcome,
)
from skerry.reload import Differences, Reloads, follow
from skerry.renewal import keep_renewing
from skerry.service_manager import ServiceManager
from skerry.tasks import bundle as bundles
from skerry.training.trainer import OpenTrainer, open_trainer
from skerry.under_way import UnderWay
from skerry.vector import Float32

log = logging.getLogger(__name__)

PORT_FILE = "port"
HOUSEKEEPING_S = 5.0
SHUTDOWN_S = 2.0  # for requests that are being served when the service stops


class Outlet:
    """The engine's way out: to devices by their streams, to peers by HTTP."""

    def __init__(self, agents: Agents, peers: Peers) -> None:
        self._agents = agents
        self._peers = peers

    def send_to_device(self, device: str, message: Welcome | UpdateAccepted | UpdateRejected) -> None:
        """Queue a message to a device."""
        self._agents.send_to_device(device, message)

    def offer_model(
        self, device: str, version: ModelVersion, base: ModelVersion | None, age: float, payload: bytes
    ) -> None:
        """Queue a model to a device."""
        self._agents.offer_model(device, version, base, age, payload)

    def send_to_peer(self, peer: str, message: PeerModel | TokenPassed) -> None:
        """Queue a message to a peer."""
        self._peers.send_to_peer(peer, message)


class Service:
    """One coordinator, from configuration to goodbye.

    Clock, randomness, network, disk, engine and threads can be replaced; a coordinator without them uses the real ones.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        *,
        network: Network | None = None,
        run_in_thread: RunInThread | None = None,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        open_database: OpenDatabase = Database,
        open_trainer: OpenTrainer = open_trainer,
        toll: Toll | None = None,
        metrics: Metrics | None = None,
        manager: ServiceManager | None = None,
        reloads: Reloads[CoordinatorConfig] | None = None,
    ) -> None:
        """`toll` is what a change of the model takes beyond the real work: see `Engine`.

        `manager` is told how the service is doing, and ends it where it hangs; `reloads` says when to read the
        configuration again, and how.
        """
        self._config = config
        self.metrics = metrics or Metrics()
        self._network = network or Sockets(config.limits, self.metrics.connections_refused)
        # Disk writes have their own threads: they must not wait behind an evaluation.
        names = ("disk", "work", "enrolment") if run_in_thread is None else ()
        self._executors = [ThreadPoolExecutor(2, name) for name in names]
        self._under_way = under_way = UnderWay(time.monotonic, config.limits.hang_s)  # an event loop's own clock
        if run_in_thread is None:
            whats = ("a write to the disk", "an evaluation, or the like", "signing and a write to the disk")
            threads = [
                in_executor(executor, under_way, what) for executor, what in zip(self._executors, whats, strict=True)
            ]
            self._disk, self._work, self._enrolment = threads
        else:
            self._disk = self._work = self._enrolment = run_in_thread
        self._wall_clock = wall_clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter and a name, no secret
        self._tasks: list[asyncio.Task[None]] = []
        self._parts = contextlib.AsyncExitStack()
        self._housekeepers: tuple[Callable[[], None], ...] = ()
        self._ready = False
        self._open_database, self._open_trainer, self._toll = open_database, open_trainer, toll
        self._started_at_s = 0.0
        self._manager, self._reloads = manager or ServiceManager(), reloads
        self.credentials: Credentials | None = None  # None: plain HTTP, or not started yet
        self.desk: Desk | None = None  # the same
        self.agents: Agents  # from `start` on, as the engine
        self.engine: Engine
        self.port = 0

    async def start(self) -> None:
        """Open the state, listen, and begin to work. A failed start leaves nothing behind.

        Raises:
            SkerryError: with the exit code that tells what kind of thing is wrong.
        """
        try:
            await self._start()
        except BaseException:
            await self._parts.aclose()
            raise

    async def run(self) -> None:
        """Wait for a part to fail; raise what it failed with. Cancel it to go on to `stop`."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise AssertionError(f"{', '.join(task.get_name() for task in done)}: ended without an error")

    async def stop(self) -> None:
        """Say goodbye to the agents, write a last checkpoint, close everything.

        Raises:
            StorageError: the last checkpoint could not be written.
        """
        self._ready = False
        self._manager.stopping()
        await self._parts.aclose()
        log.info("stopped")

    async def _start(self) -> None:
        config = self._config
        check_exposure(config)
        self.credentials = credentials_of(config, self._wall_clock)
        check_peers(config, self.credentials)
        bundle = bundles.resolve(config.bundle)
        check_size(bundle)
        check_privacy(config, bundle)
        self._parts.callback(self._stop_threads)

        update_bytes_max = bytes_max(bundle.manifest.layout.size, config.limits.update_bytes_max)
        self.agents = agents = Agents(
            replace(config.limits, update_bytes_max=update_bytes_max), self.metrics, self._work, self._revoked
        )
        peers = Peers(
            config.peers,
            bundle.sha256,
            self.metrics,
            connector=self._connector,
            progress_timeout_s=config.limits.progress_timeout_s,
            rng=self._rng,
        )
        url = self.url()

        def coordinators() -> dict[str, str]:
            """Return name and URL of those that agents may go to; a peer that was revoked is none."""
            return ({} if url is None else {config.name: url}) | peers.serving_agents()

        initial, former = await self._first_model(bundle.initial_parameters(), peers)
        self.engine = Engine.open(
            replace(config, url=url),
            BundleReference(bundle.sha256, bundle.file_bytes),
            initial,
            Outlet(agents, peers),
            self.metrics,
            run_in_thread=self._disk,
            wall_clock=self._wall_clock,
            rng=self._rng,
            open_database=self._open_database,
            tail=bundle.manifest.layout.tail_size,
            toll=self._toll,
            former=former,
        )
        self._parts.push_async_callback(self.engine.close)
        self._parts.callback(self.housekeep)
        agents.region = peers.region = self.engine
        agents.coordinators = coordinators
        if self.credentials is not None:
            self.desk = peers.enrolment = self._open_desk(self.credentials, agents, coordinators)
        self.metrics.status = self.engine.status

        evaluator: Evaluator | None = None
        if config.evaluation is not None:
            trainer = self._open_trainer(bundle, "onnx", 1, ())
            evaluator = open_evaluator(config.evaluation, bundle, trainer, self.engine, self.metrics, self._work)

        def about() -> dict[str, Any]:
            return {
                "coordinator": config.name,
                "region": config.region,
                "drained": self._ready and not agents.takes_agents,
                "recipe": config.recipe if isinstance(config.recipe, str) else config.recipe.name,
                "bundle": {"sha256": bundle.sha256, "task": bundle.manifest.name},
                "coordinators": coordinators(),
                "countable": bundle.manifest.label.countable,
                "uptime_s": asyncio.get_running_loop().time() - self._started_at_s,
                "evaluations": msgspec.to_builtins(evaluator.latest) if evaluator else {},
                "peer_troubles": peers.trouble(),
            }

        self._started_at_s = asyncio.get_running_loop().time()
        self._parts.push_async_callback(self._stop_tasks)
        self._begin(self.engine.run(), "engine")
        if self.desk is not None:
            self._begin(self.desk.run(), "enrolment")
            self._begin(self._renew(), "renewal")
        if config.peers:
            self._begin(peers.run(), "peers")
        if evaluator is not None:
            self._begin(evaluator.run(), "evaluation")
        self._housekeepers = (
            agents.housekeep,
            peers.housekeep,
            lambda: agents.end_expired(self._wall_clock()),
        )
        self._begin(self._housekeep(), "housekeeping")
        if self._manager.watchdog_s is not None:
            self._begin(self._manager.keep(self._under_way), "watchdog")
        if self._reloads is not None:
            self._begin(follow(self._reloads, self._manager, partial(self._take, agents, evaluator)), "reload")

        api = Api(
            self.engine,
            bundle,
            peers,
            self.metrics,
            self._work,
            about=about,
            ready=lambda: self._ready and agents.has_room,
            progress_timeout_s=config.limits.progress_timeout_s,
            wall_clock=self._wall_clock,
        )
        application = api.application(agents, self._authorization())
        if self.desk is not None:
            api.registry = self.desk.registry
            EnrolmentApi(self.desk, caller_of=authorization.caller_of, wall_clock=self._wall_clock).add_to(application)
        await self._listen(application)
        self._parts.push_async_callback(agents.drain)
        self._ready = True
        self._manager.ready(f"region {config.region}, listening on {config.listen.host}:{self.port}")
        log.info(
            "coordinator %s, region %s: %s at version %d, listening on %s:%d",
            config.name,
            config.region,
            self.engine.lineage,
            self.engine.version.number,
            config.listen.host,
            self.port,
        )

    async def _first_model(self, initial: Float32, peers: Peers) -> tuple[Float32, FormerLife]:
        """Return what version 0 is where there is no state yet."""
        config = self._config
        if not config.peers or is_made(config.state_dir, self._open_database):
            return initial, FormerLife()
        return await first_model(initial, peers, config.name, config.peers_wait_s, self._waiting_room)

    @contextlib.asynccontextmanager
    async def _waiting_room(self) -> AsyncIterator[None]:
        """Serve those who come while the peers are asked; where the port is any free one, nobody knows it yet."""
        application = web.Application(middlewares=self._authorization())
        add_waiting_room(application.router)
        runner = self._runner(application)
        try:
            await runner.setup()
            if self._config.listen.port:
                await self._network.listen(runner, self._config.listen, self._context())
            yield
        finally:
            await runner.cleanup()

    def _take(self, agents: Agents, evaluator: Evaluator | None, wanted: CoordinatorConfig) -> Differences:
        """Take what can be taken of another configuration without a restart."""
        self._config, differences = reload.taken(self._config, wanted)
        agents.connections_max = self._config.limits.connections_max
        self._network.make_room(agents.connections_max)
        if evaluator is not None and self._config.evaluation is not None:
            evaluator.every_s = self._config.evaluation.every_s
        return differences

    def url(self) -> str | None:
        """Return where agents of any region are told to find this coordinator; None: they are not told."""
        config = self._config
        if config.url is not None or self.credentials is None or config.listen.port == 0:
            return config.url
        return self.credentials.url(config.listen.port)

    def _connector(self) -> aiohttp.BaseConnector:
        """Return what connects to peers, and to nobody who only looks like one."""
        credentials, names = self.credentials, {URL(url).origin(): name for name, url in self._config.peers.items()}

        def trouble(origin: URL, der: bytes) -> str | None:
            assert credentials is not None, "no TLS without credentials"
            return credentials.peer_trouble(names[origin], der, self._wall_clock(), self._revoked)

        return self._network.connector(None if credentials is None else credentials.client, trouble)

    def _authorization(self) -> tuple[Middleware, ...]:
        """Return what asks for certificates; nothing, where plain HTTP is spelt out."""
        if self.credentials is None:
            return ()
        return (authorization.middleware(self.credentials.root, self._config.name, self._wall_clock, self._revoked),)

    def _runner(self, application: web.Application) -> web.AppRunner:
        return web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S)

    def _context(self) -> ssl.SSLContext | None:
        return None if self.credentials is None else self.credentials.server

    async def _listen(self, application: web.Application) -> None:
        """Open the port and write it down."""
        runner = self._runner(application)
        await runner.setup()
        self._parts.push_async_callback(runner.cleanup)
        self.port = await self._network.listen(runner, self._config.listen, self._context())
        path = self._config.state_dir / PORT_FILE
        self._parts.callback(path.unlink, missing_ok=True)
        _write_port(path, self.port)

    def _open_desk(self, credentials: Credentials, agents: Agents, coordinators: Callable[[], dict[str, str]]) -> Desk:
        """Open enrolment; behind the engine, whose lock holds for its database too."""
        config = self._config
        desk = open_desk(
            config.state_dir,
            credentials.folder,
            coordinator=config.name,
            region=config.region,
            run_in_thread=self._enrolment,
            wall_clock=self._wall_clock,
            coordinators=coordinators,
            revoked=agents.end_revoked,
            device_certificate_s=config.enrolment.device_certificate_s,
            open_database=self._open_database,
        )
        self._parts.callback(desk.close)
        return desk

    async def _renew(self) -> None:
        """Renew the coordinator's own certificates at half of their life, where the root's key is."""
        credentials, desk = self.credentials, self.desk
        assert credentials is not None
        assert desk is not None

        def urls() -> list[str]:
            if desk.authorities.root is not None:
                return [f"https://localhost:{self.port}"]
            return list(self._config.peers.values())

        def renewed() -> None:
            credentials.reload(self._wall_clock())
            desk.authorities = authorities.load(credentials.folder, self._config.enrolment.device_certificate_s)

        await keep_renewing(
            lambda: credentials.own,
            lambda url: joining.renew(
                url, credentials.folder, wall_clock=self._wall_clock, addresses=own_addresses(credentials.folder)
            ),
            urls,
            renewed,
            wall_clock=self._wall_clock,
            rng=self._rng,
        )

    def _revoked(self, caller: Identified) -> bool:
        return self.desk is not None and self.desk.registry.refusal(caller) is not None

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    def housekeep(self) -> None:
        """Bring the books up to date; happens by itself every few seconds."""
        for keeper in self._housekeepers:
            keeper()

    async def _housekeep(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            self.housekeep()

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # a failure was raised by `run` already

    def _stop_threads(self) -> None:
        for executor in self._executors:
            executor.shutdown()


def check_exposure(config: CoordinatorConfig) -> None:
    """Refuse plain http to or from anywhere but this machine, unless it is spelt out twice.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    if config.insecure and not config.insecure_beyond_loopback and not is_loopback(config.listen.host):
        raise ConfigError(
            f"listen.host: {config.listen.host!r} is no loopback address, and `insecure = true` serves no other, "
            "unless `insecure_beyond_loopback = true` is spelt out as well: then anyone who reaches the port takes part"
        )
    for name, url in config.peers.items():
        try:
            check_url(url, insecure=config.insecure, beyond_loopback=config.insecure_beyond_loopback)
        except ConfigError as error:
            raise ConfigError(f"peers.{name}: {error}") from error
        if config.insecure and url.startswith("https://"):
            raise ConfigError(f"peers.{name}: {url!r} asks for a certificate, which `insecure = true` does without")


def _write_port(path: Path, port: int) -> None:
    """Write the port for whoever started us with port 0; never seen half-written."""
    beside = path.with_suffix(".tmp")
    try:
        beside.write_text(f"{port}\n")
        beside.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
