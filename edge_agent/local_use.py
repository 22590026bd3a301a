"""What the device itself has of the model: an evaluation on its held-out rows, an own head, predictions.

Tuning and evaluation happen after a cycle, in a thread of their own at the lowest priority, within a share of the
time. Nothing waits for them, and nothing of them but counts and a sum of losses ever leaves the device. A device that
does not train does neither, and goes on answering.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from edge_agent.config import HeldOut, Personal
from edge_agent.disk import SPARING_TIMES
from edge_agent.held_out import HeldOutScores, Score, score, slices
from edge_agent.local_cycle import RegionalModel
from edge_agent.personal import Tuning
from edge_agent.store import StoredHead
from edge_agent.task import OpenTask
from edge_agent.threads import RunInThread
from skerry.vector import Float32

if TYPE_CHECKING:
    from edge_agent.inference import Inference, Served

log = logging.getLogger(__name__)

T = TypeVar("T")


class ShareOfTime:
    """Lets work happen for at most a share of the time: what took t seconds is followed by t / share - t without."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._due_s = float("-inf")

    def is_due(self, now_s: float) -> bool:
        """Whether the work may happen again."""
        return now_s >= self._due_s

    def worked(self, started_s: float, ended_s: float) -> None:
        """The work took so long."""
        self._due_s = started_s + (ended_s - started_s) / self._share


@dataclass(frozen=True, slots=True)
class Shells:
    """What this acts on."""

    in_side_thread: RunInThread  # lowest priority
    save_head: Callable[[StoredHead], None]  # behind the writes asked for before
    sparing: Callable[[], bool]  # whether the hour's bytes run out: the head is written a tenth as often
    clock: Callable[[], float]
    wall_clock: Callable[[], float]


class LocalUse:
    """See the module's docstring."""

    def __init__(
        self,
        held_out: HeldOut,
        personal: Personal,
        inference: "Inference | None",
        shells: Shells,
        stored_head: StoredHead | None,
    ) -> None:
        self._personal, self._inference, self._shells = personal, inference, shells
        self._evaluating, self._tuning = ShareOfTime(held_out.share), ShareOfTime(personal.share)
        self._cycle_over = asyncio.Event()
        self._task: OpenTask | None = None
        self._model: RegionalModel | None = None
        self._head = stored_head
        self._unsaved_head: StoredHead | None = None
        self._saved_at_s = float("-inf")
        self.scores = HeldOutScores()
        self.paused = False  # the board asks for rest: what is under way is given up

    # --- what happens to the device ---

    def task_left(self) -> None:
        """Another task begins: its predecessor's model is used until it has one."""
        self._task = self._model = self._head = self._unsaved_head = None
        self.scores = HeldOutScores()

    def task_opened(self, task: OpenTask, model: RegionalModel | None) -> None:
        """A task is ready to train; `model` is what is on disk."""
        self._task = task
        if self._head is not None and (task.own is None or self._head.tensors != task.own.names):
            self._head = None  # of other tensors: the own head begins anew
        if model is not None:
            self.model_changed(model)

    def model_changed(self, model: RegionalModel) -> None:
        """There is a newer regional model."""
        self._model = model
        task, inference = self._task, self._inference
        if task is None or inference is None:
            return
        if task.own is None or self._head is None:
            self._serve(task, model, model.parameters, personal=False)
        elif inference.served is None or inference.served.predictor is not task.predictor:
            # The first model after a start gets the head that was tuned on another one, until there is a better pair.
            self._serve(task, model, task.own.with_head(model.parameters, self._head.values), personal=True)

    def cycle_finished(self) -> None:
        """Training has taken a break of its own: there may be something new to look at."""
        self._cycle_over.set()

    # --- what is done about it ---

    async def run(self) -> None:
        """Tune and evaluate after cycles, until cancelled."""
        while True:
            await self._cycle_over.wait()
            self._cycle_over.clear()
            task, model = self._task, self._model
            if task is None or model is None or self.paused:
                continue
            if task.own is not None and self._tuning.is_due(self._shells.clock()):
                await self._timed(self._tuning, self._tune(task, model))
            if task.held_out is not None and not self._is_over(task) and self._evaluating.is_due(self._shells.clock()):
                await self._timed(self._evaluating, self._evaluate(task, model))

    def head_to_save(self) -> StoredHead | None:
        """Return the head that is not on disk yet: the last thing before a stop in good order."""
        return self._unsaved_head

    async def _timed(self, share: ShareOfTime, work: Awaitable[None]) -> None:
        started_s = self._shells.clock()
        await work
        share.worked(started_s, self._shells.clock())

    async def _tune(self, task: OpenTask, model: RegionalModel) -> None:
        assert task.own is not None
        own, head = task.own, self._head
        start = await self._aside(
            lambda: model.parameters.copy() if head is None else own.with_head(model.parameters, head.values)
        )
        learning_rate = self._personal.learning_rate or task.learning_rate
        assert task.own_batches is not None
        tuning = Tuning(task.trainer, task.own_batches, own, start, learning_rate)
        for _ in range(self._personal.steps):
            await self._aside(tuning.step)
            if self._is_over(task):
                return
        if not tuning.is_finite:
            log.warning("the own head diverged: it begins anew from the region's; is personal.learning_rate too high?")
            self._head = None
            return
        self._head = self._unsaved_head = StoredHead(model.version, own.names, tuning.head)
        self._save_head()
        if self._inference is not None:
            self._serve(task, model, tuning.parameters, personal=True)

    def _save_head(self) -> None:
        now_s = self._shells.clock()
        save_s = self._personal.save_s * (SPARING_TIMES if self._shells.sparing() else 1)
        if self._unsaved_head is not None and now_s >= self._saved_at_s + save_s:
            self._shells.save_head(self._unsaved_head)
            self._unsaved_head, self._saved_at_s = None, now_s

    async def _evaluate(self, task: OpenTask, model: RegionalModel) -> None:
        regional = await self._score(task, model.parameters)
        if self._is_over(task):
            return  # some rows are missing
        personal = None
        head = self._head
        if task.own is not None and head is not None:
            own = task.own
            personal = await self._score(task, await self._aside(lambda: own.with_head(model.parameters, head.values)))
        if not self._is_over(task):
            self.scores = HeldOutScores(model.version, regional, personal)

    async def _score(self, task: OpenTask, parameters: Float32) -> Score:
        assert task.held_out is not None
        total = Score()
        for rows in slices(task.held_out):
            if self._is_over(task):
                break
            total += await self._aside(lambda rows=rows: score(task.trainer, parameters, rows))  # type: ignore[misc]
        return total

    def _is_over(self, task: OpenTask) -> bool:
        """Whether what is done for `task` is to be given up."""
        return self.paused or self._task is not task

    async def _aside(self, work: Callable[[], T]) -> T:
        return await self._shells.in_side_thread(work)

    # --- predictions ---

    def _serve(self, task: OpenTask, model: RegionalModel, parameters: Float32, *, personal: bool) -> None:
        from edge_agent.inference import Served  # what nobody asks is not loaded

        assert self._inference is not None
        assert task.predictor is not None
        self._inference.serve(Served(task.predictor, model.version, parameters, personal, self._shells.wall_clock()))

    def about(self) -> dict[str, Any] | None:
        """Describe the model in use; None: there is none yet."""
        served = None if self._inference is None else self._inference.served
        if served is None:
            return None
        manifest = served.predictor.manifest
        return {
            **served.names(),
            "since": served.since_s,
            "held_s": max(0.0, self._shells.wall_clock() - served.since_s),
            "input": msgspec.to_builtins(manifest.input),
            "label": msgspec.to_builtins(manifest.label),
            "held_out": self._about_scores(served),
        }

    def _about_scores(self, served: "Served") -> dict[str, Any] | None:
        """Return the newest evaluation's figures; None where there was none of this task."""
        scores, task = self.scores, self._task
        if scores.version is None or task is None or task.predictor is not served.predictor:
            return None
        models = {"regional": scores.regional, "personal": scores.personal}
        about = {name: None if found is None else found.about() for name, found in models.items()}
        return {"examples": scores.regional.examples, "version": scores.version.number, **about}
