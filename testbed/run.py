"""One run of a scenario, from the central model to the record of everything."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from skerry.errors import SkerryError
from skerry.recipe import Recipe
from testbed import live, versions
from testbed.collect import collect
from testbed.prepared import Prepared, prepare, train_centrally
from testbed.processes.federation import Federation
from testbed.processes.process import ProcessFailedError
from testbed.run_record import CentralRecord, FailureRecord, LiveDevice, LiveRegion, LiveState, RunRecord
from testbed.scenario import Scenario
from testbed.verdict import judge

LOOK_S = 1.0  # between two looks at the services
JUDGE_S = 2.0  # between two readings of the journals, to see whether the goals hold
LOG_TAIL_LINES = 30

Ended = Literal["goals held", "duration over", "interrupted", "failed"]
Phase = Literal["starting", "central baseline", "training", "stopping", "collecting"]


@dataclass(frozen=True)
class Order:
    """What is to be run."""

    scenario: Scenario
    recipe: Recipe
    folder: Path  # empty or new
    seed: int
    duration_s: float
    command: str  # how to run it again
    data_dir: Path | None = None  # where data sets are


class Run:
    """One run. `show` is called with what it looks like, about once a second."""

    def __init__(self, order: Order, show: Callable[[LiveState], None]) -> None:
        self._order = order
        self._show = show
        self._central: CentralRecord | None = None
        self._failure: FailureRecord | None = None
        self._started_at = time.time()
        self._started_s = self._now_s()
        self._latest: RunRecord | None = None
        self._held_since_s: float | None = None

    async def run(self) -> RunRecord:
        """Run to the end and return the record. If cancelled, everything is stopped and the record is returned.

        Raises:
            SkerryError: the scenario cannot be prepared, or what the run left behind cannot be read.
        """
        order = self._order
        self._report("central baseline")
        prepared = await asyncio.to_thread(prepare, order.scenario, order.data_dir)
        self._central = await asyncio.to_thread(train_centrally, prepared, order.scenario, order.recipe, order.seed)
        self._started_at, self._started_s = time.time(), self._now_s()
        federation = Federation(order.scenario, order.recipe, order.folder, seed=order.seed, data_dir=order.data_dir)
        ended = await self._train(federation, prepared)
        elapsed_s = self._now_s() - self._started_s
        await self._stop(federation)
        self._report("collecting")
        if self._failure is not None:
            ended = "failed"
        return self._collect(prepared, ended, elapsed_s)

    async def _train(self, federation: Federation, prepared: Prepared) -> Ended:
        try:
            self._report("starting")
            await federation.start()
            return await self._watch(federation, prepared)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()  # somebody pressed Ctrl-C: the run ends here, and what it left is still collected
            return "interrupted"
        except SkerryError as error:
            self._fail(error)
            return "failed"

    async def _watch(self, federation: Federation, prepared: Prepared) -> Ended:
        """Look at the services until the goals have held, the time is over or a process has failed."""
        judged_s = self._now_s()
        while True:
            await asyncio.wait([federation.failure], timeout=LOOK_S)
            if federation.failure.done():
                raise federation.failure.result()
            regions, devices = await live.look(federation, self._latest.regions if self._latest else ())
            at_s = self._now_s() - self._started_s
            self._show(self._state("training", at_s, regions=tuple(regions), devices=tuple(devices)))
            if self._now_s() - judged_s >= JUDGE_S:
                judged_s = self._now_s()
                self._latest = await asyncio.to_thread(self._collect, prepared, "duration over", at_s)
                if self._goals_have_held(self._latest, at_s):
                    return "goals held"
            if at_s >= self._order.duration_s:
                return "duration over"

    def _goals_have_held(self, record: RunRecord, at_s: float) -> bool:
        goals = self._order.scenario.goals
        if not record.passed:
            self._held_since_s = None
            return False
        if self._held_since_s is None:
            self._held_since_s = at_s
        return at_s - self._held_since_s >= goals.hold_s and at_s >= goals.earliest_s

    async def _stop(self, federation: Federation) -> None:
        self._report("stopping")
        try:
            await federation.stop()
        except SkerryError as error:
            self._fail(error)

    def _fail(self, error: SkerryError) -> None:
        if self._failure is not None:
            return
        if isinstance(error, ProcessFailedError):
            tail = error.process.log_tail(LOG_TAIL_LINES)
            self._failure = FailureRecord(process=error.process.name, reason=str(error), log_tail=tail)
        else:
            self._failure = FailureRecord(process="", reason=str(error), log_tail=())

    def _collect(self, prepared: Prepared, ended: Ended, elapsed_s: float) -> RunRecord:
        order = self._order
        regions, devices, traffic = collect(order.scenario, prepared.model, order.folder, self._started_at)
        record = RunRecord(
            scenario=order.scenario.name,
            description=order.scenario.description,
            recipe=order.recipe.name,
            stages=msgspec.to_builtins(order.recipe),
            seed=order.seed,
            command=order.command,
            versions=versions.installed(),
            started_at=self._started_at,
            elapsed_s=elapsed_s,
            ended=ended,
            world=prepared.world,
            model=prepared.model,
            central=self._central,
            regions=regions,
            devices=devices,
            traffic=traffic,
            verdicts=(),
            failure=self._failure,
        )
        return msgspec.structs.replace(record, verdicts=judge(order.scenario.goals, record))

    def _report(self, phase: Phase) -> None:
        self._show(self._state(phase, self._now_s() - self._started_s))

    def _state(
        self,
        phase: Phase,
        at_s: float,
        *,
        regions: tuple[LiveRegion, ...] = (),
        devices: tuple[LiveDevice, ...] = (),
    ) -> LiveState:
        return LiveState(
            scenario=self._order.scenario.name,
            phase=phase,
            at_s=at_s,
            duration_s=self._order.duration_s,
            central_accuracy=self._central.accuracy if self._central is not None else None,
            central_loss=self._central.loss if self._central is not None else None,
            regions=regions,
            devices=devices,
        )

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()
