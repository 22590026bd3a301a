"""`skerry-agent doctor`: everything that an installation can have wrong, checked in the order in which it matters.

The composition of the checks; what each looks at is in `host_checks`, `network_checks` and `task_checks`.
"""

import asyncio
import platform
import resource
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from edge_agent import config as config_file
from edge_agent import host_checks, network_checks, task_checks
from edge_agent.board import Board
from edge_agent.config import AgentConfig
from edge_agent.finding import Finding, failure, warning
from edge_agent.link_speed import CoordinatorStatus
from edge_agent.status import Status
from edge_agent.vitals import ThisProcess
from skerry import profile as profiles
from skerry.errors import ConfigError, SkerryError
from skerry.policy import Decider, Decision
from skerry.protocol.messages import Welcome
from skerry.tasks.bundle import Bundle

BOARD_LOOK_S = 0.5  # between two readings of the board
PACKAGES = ("onnxruntime", "numpy", "aiohttp", "msgspec")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the doctor looks; the defaults are this machine."""

    root: Path = Path("/")  # before proc, run and sys
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    kernel_synchronised: Callable[[], bool | None] = host_checks.kernel_synchronised
    peak_bytes: Callable[[], int] = field(default_factory=lambda: ThisProcess().peak_bytes)


def examine(path: Path, bundle: str | None, around: Surroundings) -> Iterator[Finding]:
    """Check the installation whose configuration is `path`; yields each finding as soon as there is one.

    `bundle` is a path or builtin:TASK to check data and speed with, instead of the agent's task. Whatever a check
    stumbles over is a finding, too: this raises nothing.
    """
    yield from _Examination(path, bundle, around).run()


@dataclass(slots=True)
class _Examination:
    """One run, and what its checks have learned for those after them."""

    path: Path
    bundle_spec: str | None
    around: Surroundings
    config: AgentConfig | None = None
    running: Status | None = None
    welcome: Welcome | None = None
    statuses: list[CoordinatorStatus] = field(default_factory=list)
    answering: list[str] = field(default_factory=list)
    bundle: Bundle | None = None
    tls: ssl.SSLContext | None = None  # what the device shows to coordinators
    stranger: bool = False  # its identity cannot be used, and so no coordinator be known or asked by TLS

    def run(self) -> Iterator[Finding]:
        """Run the checks in order."""
        yield from _guarded("software", self._software)
        yield from _guarded("clock", self._clock)
        yield from _guarded("configuration", self._configuration)
        if self.config is None:
            return
        yield from _guarded("folders", self._folders)
        yield from _guarded("agent", self._agent)
        if self.config.inference.enabled:
            yield from _guarded("inference", self._inference)
        if any(url.startswith("https://") for url in self.config.coordinators):
            yield from _guarded("identity", self._identity)
        yield from self._coordinators()
        yield from _guarded("task", self._task)
        yield from _guarded("board", self._board)

    def _software(self) -> Iterator[Finding]:
        versions = {"Python": platform.python_version()} | {name: _installed(name) for name in PACKAGES}
        yield host_checks.check_software(platform.machine(), 8 * struct.calcsize("P"), platform.libc_ver(), versions)

    def _clock(self) -> Iterator[Finding]:
        around = self.around
        yield host_checks.check_clock(around.root, around.kernel_synchronised, around.wall_clock())

    def _configuration(self) -> Iterator[Finding]:
        try:
            config = config_file.load(self.path)
        except SkerryError as error:
            remedy = "correct it: docs/agent.md lists every key" if isinstance(error, ConfigError) else "join"
            yield failure("configuration", str(error), remedy)
            return
        yield host_checks.check_config_file(self.path, config)
        self.config = config
        if config.profile:
            yield host_checks.check_profile(profiles.load(config.profile), psutil.virtual_memory().total)

    def _folders(self) -> Iterator[Finding]:
        assert self.config is not None
        config = self.config
        folder = host_checks.check_folder("state_dir", config.state_dir)
        yield folder
        if config.runtime_dir is not None:
            yield host_checks.check_folder("runtime_dir", config.runtime_dir)
        if folder.outcome != "failure":
            present = next(one for one in (config.state_dir, *config.state_dir.absolute().parents) if one.exists())
            yield host_checks.check_disk(
                self.around.root, config.state_dir, psutil.disk_usage(str(present)).free, self.around.clock
            )

    def _agent(self) -> Iterator[Finding]:
        assert self.config is not None
        agent, self.running = task_checks.check_agent(self.config, self.around.root, self.around.wall_clock())
        yield agent
        state, self.welcome = task_checks.check_state(self.config)
        yield state
        if self.running is not None and self.running.learning_rate is not None:
            yield task_checks.check_schedule(self.running.learning_rate)

    def _inference(self) -> Iterator[Finding]:
        assert self.config is not None
        yield host_checks.check_listen(self.config.inference, agent_runs=self.running is not None)

    def _coordinators(self) -> Iterator[Finding]:
        """Check every coordinator; where one works, the agent trains, and trouble with another is a warning."""
        assert self.config is not None
        found: list[tuple[str, Finding]] = []
        for url in self.config.coordinators:
            checks = _guarded(f"coordinator: {url}", lambda url=url: self._coordinator(url))  # type: ignore[misc]
            found += [(url, finding) for finding in checks]
        for url, finding in found:
            spare = finding.outcome == "failure" and self.answering and url not in self.answering
            yield warning(finding.check, f"{finding.found}; another one works", finding.remedy) if spare else finding

    def _identity(self) -> Iterator[Finding]:
        """Look at the device's certificate, with which it speaks to coordinators from here on."""
        assert self.config is not None
        from edge_agent.credentials import Credentials
        from skerry.identity.errors import ExposedKeyError

        try:
            own = Credentials(self.config.identity_folder(), self.config.device, self.around.wall_clock)
        except SkerryError as error:
            self.stranger = True
            join = "skerry-agent join URL --token-file FILE"
            yield failure("identity", str(error), error.remedy if isinstance(error, ExposedKeyError) else join)
            return
        self.tls = own.client
        yield network_checks.check_own_certificate(own.own, self.around.wall_clock())

    def _coordinator(self, url: str) -> Iterator[Finding]:
        if self.stranger and url.startswith("https://"):
            yield asyncio.run(network_checks.check_name(url, self.around.clock))
            yield warning(f"connection: {url}", "cannot be checked without an identity", "mend `identity` first")
            return
        around = self.around
        reached = asyncio.run(network_checks.check_coordinator(url, around.clock, around.wall_clock, self.tls))
        if reached.status is not None:
            self.statuses.append(reached.status)
            self.answering.append(url)
        yield from reached.findings

    def _task(self) -> Iterator[Finding]:
        with ExitStack() as folders:

            def make_folder() -> Path:
                return Path(folders.enter_context(TemporaryDirectory(prefix="skerry-doctor-")))

            yield from _guarded("bundle", lambda: self._bundle(make_folder))
            if self.config is not None and self.config.personal.layers:
                yield from _guarded("personal", self._personal)
            yield from _guarded("data", self._training)
            yield from _guarded("limits", self._limits)  # behind the steps, which show what memory they take

    def _bundle(self, folder: Callable[[], Path]) -> Iterator[Finding]:
        assert self.config is not None
        if self.bundle_spec is not None:
            found, self.bundle = task_checks.open_bundle(self.bundle_spec, "as --bundle says")
        else:
            wanted = self.statuses[0].bundle.sha256 if self.statuses else None
            if wanted is None and self.welcome is not None:
                wanted = self.welcome.bundle.sha256
            found, self.bundle = asyncio.run(
                task_checks.check_bundle(
                    self.config, config_file.with_profile(self.config), wanted, tuple(self.answering), folder, self.tls
                )
            )
        yield found

    def _limits(self) -> Iterator[Finding]:
        assert self.config is not None
        if self.running is not None:
            pid, held_bytes = self.running.pid, self.running.resident_bytes
            taken_bytes = held_bytes
        else:
            pid, held_bytes = 0, ThisProcess().resident_bytes()  # 0: this process
            taken_bytes = self.around.peak_bytes()
        files_max = resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
        chosen = profiles.load(self.config.profile) if self.config.profile else profiles.Profile(name="none")
        yield host_checks.check_limits(
            files_max,
            host_checks.memory_limit(self.around.root, pid),
            psutil.virtual_memory().available + held_bytes,
            chosen,
            None if self.bundle is None else 4 * self.bundle.manifest.layout.size,
            taken_bytes,
        )

    def _personal(self) -> Iterator[Finding]:
        assert self.config is not None
        if self.bundle is not None:  # without one, `data` says so
            yield task_checks.check_personal(self.config.personal, self.bundle)

    def _training(self) -> Iterator[Finding]:
        """Check data, engine and speed; without a bundle there is nothing to check them with."""
        assert self.config is not None
        if self.bundle is None:
            yield warning("data", "cannot be checked without a bundle", "name one to check with: --bundle")
            return
        in_force = config_file.with_profile(self.config)
        batch_examples = in_force.batch_examples or self.bundle.manifest.defaults.batch_examples
        found, dataset = task_checks.check_data(self.config, self.bundle, batch_examples)
        yield found
        cycle = task_checks.cycle_of(self.statuses, self.welcome)
        if self.running is not None and self.running.seconds_per_step is not None:
            measured = self.running.seconds_per_step
            yield task_checks.judge_speed(measured, cycle, f"{measured * 1e3:.4g} ms per step, as the agent says")
            return
        found, trainer = task_checks.check_engine(in_force, self.bundle)
        yield found
        if dataset is not None and trainer is not None:
            duty_cycle = self.config.training.duty_cycle
            yield task_checks.check_speed(
                trainer, self.bundle, dataset, batch_examples, duty_cycle, cycle, self.around.clock
            )

    def _board(self) -> Iterator[Finding]:
        assert self.config is not None
        board = Board(self.around.root)
        board.read(self.config.state_dir)  # what rises, or is a share of time, shows from one reading to the next
        self.around.sleep(BOARD_LOOK_S)
        reading = board.read(self.config.state_dir)
        if self.running is not None:  # its work would look like others'
            decision = Decision(self.running.pace, self.running.reasons)
        elif self.config.policy.enabled:
            local = time.localtime(self.around.wall_clock())
            decision = Decider(self.config.policy).decide(reading, 0.0, 60 * local.tm_hour + local.tm_min)
        else:
            decision = Decision()
        yield host_checks.check_board(reading, decision)


def _guarded(check: str, work: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Run one group of checks; what stops it is told, and does not keep the others from running."""
    try:
        yield from work()
    except OSError as error:
        found = f"{error.filename or 'the system'}: {error.strerror or error}"
        yield failure(check, found, "run this as root or as the agent's user; else see to what it says")
    except Exception as error:
        what = f"the check itself failed: {type(error).__name__}: {error}"
        yield failure(check, what, "please report this, with the output of `skerry-agent doctor --json`")


def text(finding: Finding) -> str:
    """Return a finding for people: one line, and what to do on the next."""
    mark = {"ok": "ok      ", "warning": "WARNING ", "failure": "FAILURE "}[finding.outcome]
    lines = [f"{mark} {finding.check}: {finding.found}"]
    if finding.remedy:
        lines.append(f"{'':>9}-> {finding.remedy}")
    return "\n".join(lines)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
