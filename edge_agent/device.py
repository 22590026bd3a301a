"""The device as a state machine: an event and the time go in, effects come out, in order. No I/O, clock or thread.

Two things run side by side and never wait for each other: training (bundle, calibration, cycle after cycle) and the
conversation with the coordinator. They meet in the outbox: a finished cycle becomes an update there before anything is
sent, and a coordinator's answer removes it.
"""

import logging
from math import isfinite

from edge_agent.calibration import SpeedEstimate
from edge_agent.device_setup import Bounds, Identity, Memory, lasting
from edge_agent.events import (
    AdoptTask,
    BundleOpened,
    Calibrate,
    Calibrated,
    Connected,
    ContinueAfter,
    CycleFinished,
    CycleStarted,
    Disconnected,
    DropUnsent,
    Effect,
    Event,
    FetchBundle,
    ModelRefused,
    PaceDecided,
    Progress,
    Received,
    Reconnect,
    SaveModel,
    SaveTask,
    Send,
    SendTelemetry,
    SendUpdate,
    SetLearningRate,
    SetModel,
    SetPace,
    SettleUpdate,
    StartCycle,
    StopCycle,
    StoreUpdate,
    TakeDifference,
    TaskUnfit,
    Tick,
    UpdateStored,
)
from edge_agent.learning_rate import LearningRate, learning_rate
from edge_agent.recipe_log import RecipeLog
from edge_agent.recipe_text import SCHEDULE_OVER
from edge_agent.rejections import Rejections
from edge_agent.repeated_warning import RepeatedWarning
from edge_agent.stages import RecipeRefusedError, protects_more, stages_of
from edge_agent.upload_plan import UpdateTooLarge, WaitingUpdate, first_part, part_bytes
from skerry.agent_stages import AgentStages
from skerry.policy import Decision
from skerry.protocol.ceiling import Ceiling
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.limits import PAYLOAD_BYTES_MAX, PROTOCOL_MAJOR, PROTOCOL_MINOR
from skerry.protocol.messages import (
    Drain,
    FromCoordinator,
    Heartbeat,
    Hello,
    ModelOffered,
    ModelVersion,
    PartialUpdate,
    Plan,
    Refused,
    UpdateAccepted,
    UpdateRejected,
    Welcome,
)
from skerry.protocol.parts import Assembler

EARLY_OFFERS_MAX = 64  # models that may arrive while the bundle is still on its way
SECONDS_PER_STEP_MIN = 1e-9  # a clock that did not move between two steps
# What the coordinator is told: the error itself may quote the data, and stays here.
UNFIT = "task does not fit this device's data: `skerry-agent status` on it says why"

log = logging.getLogger(__name__)


class Device:
    """One device's state; see the module's docstring."""

    def __init__(self, identity: Identity, bounds: Bounds, memory: Memory, now_s: float) -> None:
        self._identity, self._bounds = identity, bounds
        self._welcome = memory.welcome  # the newest; may be from before a restart
        self._stages = AgentStages() if memory.welcome is None else stages_of(memory.welcome)
        self._plan = None if memory.welcome is None else memory.welcome.plan
        self._recipe_log = RecipeLog()
        # conversation
        self._connected = False
        self._welcomed = False  # on this stream
        self._lineage = ""  # of the models that are offered on it; "" before the first one
        self._assembler = Assembler(PAYLOAD_BYTES_MAX)
        self._too_large, self._rejections = RepeatedWarning(log), Rejections()
        self._last_sequence, self._moves = memory.last_sequence, memory.moves
        self._ceiling = Ceiling()  # of what coordinators say of it
        self._waiting = {stored.sequence: WaitingUpdate.of(stored, 0) for stored in memory.waiting}
        self._storing: set[int] = set()
        self._telemetry_at_s = now_s
        # training
        self._opened = False  # the bundle of self._welcome
        self._unfit = False  # that bundle could not be opened, and is tried again
        self._task_error = ""  # what is wrong with the task here, as long as it is
        self._estimate: SpeedEstimate | None = None
        self._model = memory.model  # as it will be when all effects so far are performed
        self._whole_model_needed = False
        self._early_offers: list[SetModel] = []
        self._invited = False  # a model was offered since the last cycle began
        self._saved_model, self._saved_at_s = memory.model, now_s
        self._cycle = 0
        self._running = False  # from StartCycle to CycleFinished
        self._stepping = False  # the training thread takes steps
        self._calibrating = False
        self._decision, self._stretch = Decision(), 1.0  # the latter of the plan's cycle
        self._diverged = RepeatedWarning(log)
        self._uploads = memory.uploads  # of this task
        self._task_steps = memory.steps  # local steps of this task that are in updates
        # counts since start
        self._started_at_s = self._counted_to_s = now_s
        self._training_s = self._idle_s = self._paused_s = 0.0
        self._cycles = self._steps = self._steps_per_cycle = 0
        self._last_loss: float | None = None
        self._last_error = ""

    # --- what others may read ---

    @property
    def region(self) -> str:
        """The region that this device belongs to, "" before the first Welcome."""
        return "" if self._welcome is None else self._welcome.region

    @property
    def connected(self) -> bool:
        """Whether a coordinator has greeted this device on the present stream."""
        return self._welcomed

    @property
    def model(self) -> ModelVersion | None:
        """The newest regional model."""
        return self._model

    @property
    def stages(self) -> AgentStages:
        """The recipe's stages that run here."""
        return self._stages

    @property
    def learning_rate(self) -> LearningRate | None:
        """What the next cycle begins with; None before the first Welcome, when there is no recipe either."""
        if self._plan is None:
            return None
        return learning_rate(self._plan.learning_rate, self._stages.schedule, self._task_steps)

    @property
    def _over(self) -> bool:
        return (rate := self.learning_rate) is not None and rate.over

    def progress(self, now_s: float) -> Progress:
        """Return what there is to tell about the time since start."""
        self._count_time(now_s)
        own = UNFIT if self._unfit else SCHEDULE_OVER if self._over else None
        return Progress(
            uptime_s=now_s - self._started_at_s,
            training_s=self._training_s,
            idle_s=self._idle_s,
            paused_s=self._paused_s,
            cycles=self._cycles,
            steps=self._steps,
            steps_per_cycle=self._steps_per_cycle,
            seconds_per_step=None if self._estimate is None else self._estimate.seconds_per_step,
            outbox_updates=len(self._waiting) + len(self._storing),
            last_loss=self._last_loss,
            last_error=self._last_error or self._task_error,
            rejected=self._rejections.so_far,
            decision=self._decision if own is None else Decision("pause", (own, *self._decision.reasons)),
        )

    def note_error(self, text: str) -> None:
        """Keep what went wrong elsewhere, to be told with the rest."""
        self._last_error = text

    # --- the machine ---

    def start(self) -> list[Effect]:
        """Return what to do first: a device that knows its task goes on with it, coordinator or not."""
        self._recipe_log.tell(self._stages, self.learning_rate)
        return [] if self._welcome is None else [FetchBundle(self._welcome.bundle)]

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Advance by one event and return what the shell must do, in order."""
        self._count_time(now_s)
        match event:
            case Connected():
                return self._greet()
            case Disconnected(reason):
                self._connected = self._welcomed = False
                self._last_error = reason
                return []
            case Received(message):
                return self._receive(message, now_s) if self._connected else []
            case BundleOpened(sha256, shortcoming):
                return self._bundle_opened(sha256, shortcoming)
            case TaskUnfit(sha256, detail):
                return self._task_unfit(sha256, detail, now_s)
            case Calibrated(sha256, seconds):
                return self._calibrated(sha256, seconds, now_s)
            case CycleStarted(cycle):
                self._stepping = cycle == self._cycle and self._running
                return []
            case CycleFinished() if event.cycle == self._cycle and self._running:
                return self._cycle_finished(event, now_s)
            case CycleFinished():
                return []  # of a task that was left
            case UpdateStored(sequence):
                return self._update_stored(event, sequence, now_s)
            case ModelRefused(held, detail):
                self._model = held
                return self._ask_for_whole_model(detail)
            case PaceDecided():
                return self._pace_decided(event, now_s)
            case Tick():
                return [*self._report(now_s), *self._save_model(now_s)]

    # --- conversation ---

    def _greet(self) -> list[Effect]:
        self._connected, self._welcomed, self._lineage = True, False, ""
        self._assembler = Assembler(PAYLOAD_BYTES_MAX)
        if not self._opened:  # what was offered so far is not set in the model yet: start over rather than keep a chain
            self._early_offers = []
            self._model = self._saved_model
        estimate = self._estimate
        hello = Hello(
            protocol_major=PROTOCOL_MAJOR,
            protocol_minor=PROTOCOL_MINOR,
            device=self._identity.device,
            agent_version=self._identity.agent_version,
            profile=self._identity.profile,
            bundle=self._welcome.bundle.sha256 if self._welcome is not None and self._opened else None,
            base=None if self._whole_model_needed else self._model,
            last_sequence=self._last_sequence,
            seconds_per_step=None if estimate is None else estimate.seconds_per_step,
        )
        return [Send(hello)]

    def _receive(self, message: FromCoordinator, now_s: float) -> list[Effect]:
        match message:
            case Welcome():
                effects = self._welcome_received(message, now_s)
                self._recipe_log.tell(self._stages, self.learning_rate)
                return effects
            case UpdateAccepted(sequence=sequence):
                self._rejections.forget_quarantine()
                weight = message.weight if getattr(self._stages.uplink, "return_unapplied", False) else None
                return [*self._take_plan(message.plan), *self._settle(sequence, weight, accepted=True)]
            case UpdateRejected(sequence=sequence):
                self._last_error, dropped = self._rejections.note(message, now_s)
                return self._settle(sequence, None if dropped else 0.0, accepted=False)
            case ModelOffered():
                return self._model_offered(message)
            case Heartbeat():
                return []
            case Refused():
                self._last_error = f"refused: {message.reason}: {message.detail}"
                return [Reconnect(self._last_error, hopeless=not message.retry)]
            case Drain():
                return [Reconnect("the coordinator is about to stop", wait_s=message.reconnect_after_s)]

    def _welcome_received(self, welcome: Welcome, now_s: float) -> list[Effect]:
        try:
            stages = stages_of(welcome, self._bounds.noise_multiplier_min)
        except RecipeRefusedError as error:
            self._last_error = str(error)
            return [Reconnect(self._last_error, hopeless=True)]
        if not self._ceiling.admits(welcome.last_sequence, self._last_sequence, now_s):
            told = f"{welcome.coordinator} has update {welcome.last_sequence} of this device, which is at"
            self._last_error = f"{told} {self._last_sequence}: not believed at once"
            log.warning(self._last_error)
            return [Reconnect(self._last_error, hopeless=True)]
        known, self._welcome = self._welcome, welcome
        self._moves += known is not None and known.coordinator != welcome.coordinator
        drops = welcome.base_given_up or protects_more(stages.privacy, self._stages.privacy)
        self._stages = stages
        self._welcomed, self._last_error = True, ""
        self._rejections.forget_quarantine()
        new_rate = self._take_plan(welcome.plan)
        log.info("joined region %s at %s", welcome.region, welcome.coordinator)
        effects: list[Effect] = []
        if welcome.last_sequence > self._last_sequence:
            self._last_sequence = welcome.last_sequence
            effects.append(ContinueAfter(welcome.last_sequence))
        if known is None or known.bundle != welcome.bundle:
            return [*effects, *self._leave_task(), AdoptTask(welcome, self._moves), FetchBundle(welcome.bundle)]
        if drops:
            self._waiting, self._storing = {}, set()
            effects.append(DropUnsent(welcome, self._moves))
        elif lasting(known) != lasting(welcome):
            effects.append(SaveTask(welcome, self._moves))
        effects += new_rate
        resumable = welcome.partial if known.part_bytes_max == welcome.part_bytes_max else None
        for sequence in sorted(self._waiting):
            effects += self._send_update(sequence, now_s, resumable)
        return [*effects, *self._next_cycle()]

    def _take_plan(self, plan: Plan) -> list[Effect]:
        """Go by `plan` from now on; a cycle under way takes its learning rate."""
        former, self._plan = self._plan, plan
        changed = former is not None and former.learning_rate != plan.learning_rate
        return [SetLearningRate(plan.learning_rate)] if changed and self._running else []

    def _leave_task(self) -> list[Effect]:
        """Forget all that belongs to the former task; sequence numbers go on."""
        stop: list[Effect] = [StopCycle()] if self._running or self._calibrating else []
        self._opened = self._running = self._stepping = self._calibrating = self._unfit = False
        self._task_error = ""
        self._estimate = self._model = self._saved_model = None
        self._waiting, self._storing, self._early_offers = {}, set(), []
        self._invited = False
        self._uploads = self._task_steps = 0
        return stop

    def _send_update(self, sequence: int, now_s: float, partial: PartialUpdate | None = None) -> list[Effect]:
        assert self._welcome is not None
        update = self._waiting[sequence]
        try:
            each_bytes = part_bytes(update.payload_bytes, self._welcome.part_bytes_max)
        except UpdateTooLarge as error:
            self._last_error = f"update {sequence} cannot be sent: {error}"
            self._too_large.warn(self._last_error, now_s)
            self._invited = True  # the coordinator will not hear of it, and so offers nothing
            return self._settle(sequence, 0.0, accepted=False)
        first, moves = first_part(sequence, update, each_bytes, partial), self._moves - update.moves
        return [SendUpdate(sequence, each_bytes, first, moves, abroad=update.lineage != self._lineage)]

    def _settle(self, sequence: int, weight: float | None, *, accepted: bool) -> list[Effect]:
        if sequence not in self._waiting:
            return []  # answered before
        del self._waiting[sequence]
        self._uploads += accepted
        return [SettleUpdate(sequence, weight, accepted), *self._next_cycle()]

    def _model_offered(self, offer: ModelOffered) -> list[Effect]:
        self._lineage = offer.version.lineage
        try:
            payload = self._assembler.add((offer.version, offer.base), offer.part)
        except MalformedMessage as error:
            return self._ask_for_whole_model(str(error))
        if payload is None or self._unfit:
            return []
        if offer.base is not None and offer.base != self._model:
            return self._ask_for_whole_model(f"a difference to {offer.base}, but the device holds {self._model}")
        repeated = offer.version == self._model
        self._invited |= not (repeated and self._running)  # after a reconnect: the cycle under way answers it
        if repeated and offer.base is not None:
            return self._next_cycle()  # nothing in it but the invitation
        self._model = offer.version
        set_model = SetModel(offer.version, offer.base, payload, offer.age)
        if offer.base is None:
            self._whole_model_needed = False
            self._early_offers = []
        if not self._opened:
            self._early_offers.append(set_model)
            return self._ask_for_whole_model("too many models") if len(self._early_offers) > EARLY_OFFERS_MAX else []
        return [set_model, *self._next_cycle()]

    def _ask_for_whole_model(self, detail: str) -> list[Effect]:
        self._whole_model_needed = True
        if not self._opened:
            self._early_offers = []
            self._model = self._saved_model
        self._last_error = f"offered model: {detail}"
        return [Reconnect(self._last_error)]

    def _report(self, now_s: float) -> list[Effect]:
        """Telemetry says how fast the device is, or why it rests: it has nothing else to say before calibration."""
        nothing = self._estimate is None and self._decision.pace != "pause" and not self._unfit
        if not self._welcomed or nothing or now_s < self._telemetry_at_s:
            return []
        self._telemetry_at_s = now_s + self._bounds.telemetry_s
        return [SendTelemetry(self.progress(now_s))]

    # --- training ---

    def _bundle_opened(self, sha256: str, shortcoming: str) -> list[Effect]:
        if self._welcome is None or sha256 != self._welcome.bundle.sha256 or self._opened:
            return []  # of a task that was left
        was_unfit, self._unfit = self._unfit, False
        self._opened, self._task_error = True, shortcoming
        if was_unfit and self._connected:
            return [Reconnect("the task fits this device's data now")]  # for the models that were let go
        offers, self._early_offers = self._early_offers, []
        return [*offers, *self._next_cycle()]

    def _task_unfit(self, sha256: str, detail: str, now_s: float) -> list[Effect]:
        """Wait for another task, or for other data, and let go what is offered meanwhile."""
        if self._welcome is None or sha256 != self._welcome.bundle.sha256 or self._opened:
            return []  # of a task that was left
        self._unfit = True
        self._task_error, self._early_offers, self._model = detail, [], self._saved_model
        self._telemetry_at_s = now_s
        return self._report(now_s)

    def _calibrated(self, sha256: str, seconds: list[float], now_s: float) -> list[Effect]:
        if self._welcome is None or sha256 != self._welcome.bundle.sha256:
            return []
        self._calibrating = False
        self._estimate = SpeedEstimate([max(second, SECONDS_PER_STEP_MIN) for second in seconds])
        log.info("calibrated: %.3g s per step", self._estimate.seconds_per_step)
        self._telemetry_at_s = now_s
        return [*self._report(now_s), *self._next_cycle()]

    def _next_cycle(self) -> list[Effect]:
        """Start a cycle if nothing holds the device back, there is something to train on and room for the update.

        Calibration goes before the first one.
        """
        if self._running or self._calibrating or self._decision.pace == "pause" or not self._opened:
            return []
        if self._estimate is None:
            self._calibrating = True
            return [Calibrate()]
        if self._lacks_something() or self._plan is None:
            return []
        self._cycle += 1
        self._running = True
        self._invited = False
        seconds_per_step = self._estimate.seconds_per_step
        self._steps_per_cycle = self._stages.local_steps.steps(self._stretch * self._plan.cycle_s, seconds_per_step)
        rate = self._plan.learning_rate
        return [StartCycle(self._cycle, self._steps_per_cycle, rate, self._uploads, self._task_steps)]

    def _lacks_something(self) -> bool:
        """Whether there is nothing to train on: no bundle, model, invitation or rate, or no room in the outbox."""
        room = len(self._waiting) + len(self._storing) < self._bounds.outbox_updates_max
        waits = self._stages.participation.waits  # whoever invites is answered, also where there is nothing to learn
        nothing = not self._invited if waits else self._over
        return not self._opened or self._model is None or nothing or not room

    def _pace_decided(self, event: PaceDecided, now_s: float) -> list[Effect]:
        before, decision = self._decision, event.decision
        self._decision, self._stretch = decision, event.stretch
        if (before.pace, before.causes) != (decision.pace, decision.causes):
            log.info("pace: %s (%s)", decision.pace, "; ".join(decision.reasons) or "nothing holds it back")
        if before.pace == decision.pace:
            return []
        self._telemetry_at_s = now_s
        return [SetPace(decision.pace), *self._next_cycle()]

    def _cycle_finished(self, finished: CycleFinished, now_s: float) -> list[Effect]:
        assert self._estimate is not None
        self._running = self._stepping = False
        self._cycles += 1
        self._steps += len(finished.seconds)
        self._estimate.observe([max(second, SECONDS_PER_STEP_MIN) for second in finished.seconds])
        if not finished.finite:
            self._last_error = "training diverged: the loss or the model is not finite; the cycle was dropped"
            self._diverged.warn(self._last_error, now_s)
            self._invited = True  # nothing was sent that the coordinator could answer
            return self._next_cycle()
        self._last_loss = finished.loss if isfinite(finished.loss) else None
        self._task_steps += len(finished.seconds)
        self._recipe_log.tell(self._stages, self.learning_rate)
        self._last_sequence += 1
        sequence = self._last_sequence
        self._storing.add(sequence)
        taken = TakeDifference(sequence, finished, self._estimate.seconds_per_step)
        # The next cycle needs the new residual, but not that it is on disk: it starts while the disk is at work.
        return [taken, *self._next_cycle(), StoreUpdate(sequence)]

    def _update_stored(self, event: UpdateStored, sequence: int, now_s: float) -> list[Effect]:
        if sequence not in self._storing:
            return []  # of a task that was left
        self._storing.discard(sequence)
        self._waiting[sequence] = WaitingUpdate.of(event, self._moves)
        return self._send_update(sequence, now_s) if self._welcomed else []

    def _save_model(self, now_s: float) -> list[Effect]:
        first = self._saved_model is None
        due = first or now_s >= self._saved_at_s + self._bounds.model_save_s
        if not due or not self._opened or self._model is None or self._model == self._saved_model:
            return []
        self._saved_model, self._saved_at_s = self._model, now_s
        return [SaveModel(first)]

    def _count_time(self, now_s: float) -> None:
        elapsed_s, self._counted_to_s = now_s - self._counted_to_s, now_s
        if self._stepping or self._calibrating:
            self._training_s += elapsed_s
        elif not self._running and self._decision.pace == "pause":
            self._paused_s += elapsed_s
        elif not self._running and self._lacks_something():
            self._idle_s += elapsed_s
