"""One run of a comparison: production agents and coordinators in virtual time, watched from outside.

Nothing that is measured takes virtual time, and the clock starts when every device has joined, with all hosts next to
one another until then: joining is no part of what is compared.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Literal

import msgspec
import numpy as np

from edge_agent.status import FILE_NAME, Status
from skerry.errors import SkerryError
from skerry.tasks.bundle import Bundle, resolve
from skerry.tasks.data import Dataset
from skerry.training.trainer import Evaluation, Trainer
from skerry.vector import Float32
from testbed.comparison import targets
from testbed.comparison.run_spec import CurvePoint, Place, Progress, RunResult, RunSpec
from testbed.simulation.compared_world import ComparedWorld
from testbed.simulation.loop import VirtualLoop, run
from testbed.simulation.machine import World
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.rows import Rows

JOIN_S = 60.0  # virtual; whoever has not joined by then never will
LOOK_S = 0.001  # virtual, between two looks at who has joined

_rows = Rows()  # of this process: runs that follow one another learn from the same data set


class NotJoinedError(SkerryError):
    """A world whose devices do not find their coordinators."""


def simulate(spec: RunSpec, place: Place, progress: Callable[[Progress], None]) -> RunResult:
    """Run `spec` and return what it came to; `progress` is called after each evaluation.

    Raises:
        SkerryError: bundle, data or recipe cannot be used.
    """
    bundle = resolve(place.bundle)
    data_dir = None if place.data_dir is None else Path(place.data_dir)
    held_out = _rows.load(spec.world.task.held_out_source(spec.seed), bundle.manifest, held_out=True, data_dir=data_dir)
    with tempfile.TemporaryDirectory(dir=place.scratch) as folder:
        return run(_Run(spec, place, bundle, held_out, Path(folder), progress).result(), seed=spec.seed)


class _Run:
    def __init__(
        self,
        spec: RunSpec,
        place: Place,
        bundle: Bundle,
        held_out: Dataset,
        folder: Path,
        progress: Callable[[Progress], None],
    ) -> None:
        self._spec, self._place, self._bundle, self._held_out = spec, place, bundle, held_out
        self._folder, self._progress = folder, progress
        self._begun_s = perf_counter()
        self._evaluating_s = 0.0
        self._curve: list[CurvePoint] = []
        self._known: dict[tuple[str, str], tuple[Float32, Evaluation]] = {}  # by coordinator and kind, of the last look

    async def result(self) -> RunResult:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        network = SimulatedNetwork(self._spec.seed, loop)
        self._world = World(self._spec.seed, self._folder, network, loop)
        self._trainer: Trainer = self._world.trainers(self._bundle, "onnx", 1, ())
        self._parts = parts = ComparedWorld(
            self._world, self._spec, self._place, _rows, 4 * self._bundle.manifest.layout.size
        )
        for machine in (*parts.coordinators.values(), *parts.devices.values()):
            machine.start()
        await self._join()
        parts.set_distances()
        self._origin_s = loop.time()
        self._sent = parts.bytes_up(), parts.bytes_down(), parts.bytes_peers()
        ended = await self._watch()
        return self._told(ended)

    async def _join(self) -> None:
        """Wait until every device is connected.

        Raises:
            SkerryError: a machine's service ended, or a device does not get there.
        """
        until_s = self._world.loop.time() + JOIN_S
        while not self._parts.joined:
            await self._check()
            if self._world.loop.time() >= until_s:
                raise NotJoinedError(f"not every device has joined within {JOIN_S:g} virtual seconds")
            await asyncio.sleep(LOOK_S)

    async def _check(self) -> None:
        """See that everything still runs.

        Raises:
            SkerryError: a service ended with that.
        """
        for machine in (*self._parts.coordinators.values(), *self._parts.devices.values()):
            if machine.failures:
                raise machine.failures[0]
            if not machine.running:
                await machine.stop()  # raises what it ended with

    async def _watch(self) -> Literal["duration over", "targets reached"]:
        """Evaluate every now and then until the run is over."""
        spec, loop = self._spec, self._world.loop
        looks = int(spec.duration_s / spec.evaluate_every_s + 1e-9)
        for number in range(looks + 1):
            await asyncio.sleep(self._origin_s + number * spec.evaluate_every_s - loop.time())
            await self._check()
            point = self._look(number)
            self._curve.append(point)
            value = point.value(spec.metric, spec.judged)
            self._progress(Progress(at_s=point.at_s, duration_s=spec.duration_s, value=value))
            if targets.may_end(
                self._curve,
                targets=spec.targets,
                metric=spec.metric,
                model=spec.judged,
                hold_s=spec.hold_s,
                patience_s=spec.patience_s,
            ):
                return "targets reached"
        return "duration over"

    def _look(self, number: int) -> CurvePoint:
        """Evaluate every region's own model, and the federated one of the regions in turn: they hardly differ."""
        names = list(self._parts.coordinators)
        with self._evaluating():
            regional = [self._evaluation(name, "regional") for name in names]
            federated = regional[0] if len(names) == 1 else self._evaluation(names[number % len(names)], "federated")
        up, down, peers = self._sent_since()
        return CurvePoint(
            at_s=self._world.loop.time() - self._origin_s,
            regional_accuracy=_mean([one.accuracy for one in regional]),
            regional_loss=_mean([one.loss for one in regional]),
            federated_accuracy=federated.accuracy,
            federated_loss=_mean([federated.loss]),
            updates=sum(len(one.staleness) for one in self._parts.coordinators.values()),
            bytes_up=up,
            bytes_down=down,
            bytes_peers=peers,
        )

    def _evaluation(self, name: str, kind: Literal["regional", "federated"]) -> Evaluation:
        model = self._model(name, kind)
        known = self._known.get((name, kind))
        if known is not None and np.array_equal(known[0], model):
            return known[1]
        evaluation = self._trainer.evaluate(model, self._held_out)
        self._known[name, kind] = model, evaluation
        return evaluation

    def _model(self, name: str, kind: Literal["regional", "federated"] = "regional") -> Float32:
        service = self._parts.coordinators[name].service
        assert service is not None
        return service.engine.model(kind).values

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        begun_s = perf_counter()
        yield
        self._evaluating_s += perf_counter() - begun_s

    def _sent_since(self) -> tuple[int, int, int]:
        """Return bytes up, down and between peers since the clock started."""
        parts, (up, down, peers) = self._parts, self._sent
        return parts.bytes_up() - up, parts.bytes_down() - down, max(0, parts.bytes_peers() - peers)

    def _told(self, ended: Literal["duration over", "targets reached"]) -> RunResult:
        coordinators = list(self._parts.coordinators.values())
        elapsed_s = self._world.loop.time() - self._origin_s
        staleness = np.concatenate([np.array(one.staleness, np.float64) for one in coordinators])
        busy_s = [one.work.busy_s for one in coordinators if one.work is not None]
        per_class = self._per_class() if self._spec.per_class else None
        up, down, peers = self._sent_since()
        wall_s = perf_counter() - self._begun_s
        return RunResult(
            ended=ended,
            elapsed_s=elapsed_s,
            wall_s=wall_s,
            training_wall_share=min(1.0, (self._world.training.seconds + self._evaluating_s) / wall_s),
            messages=self._world.network.arrivals,
            parameters=self._bundle.manifest.layout.size,
            held_out_examples=len(self._held_out),
            curve=tuple(self._curve),
            updates=len(staleness),
            updates_rejected=self._rejected(),
            malicious=tuple(self._parts.malicious),
            quarantined=self._quarantined(),
            staleness_mean=float(staleness.mean()) if len(staleness) else None,
            staleness_p99=float(np.percentile(staleness, 99)) if len(staleness) else None,
            bytes_up=up,
            bytes_down=down,
            bytes_peers=peers,
            idle_devices=fmean(self._idle_shares()),
            idle_servers=1.0 - min(1.0, fmean(busy_s) / elapsed_s) if elapsed_s > 0.0 else 0.0,
            per_class=per_class,
            digest=self._digest(),
        )

    def _rejected(self) -> int:
        services = [one.service for one in self._parts.coordinators.values()]
        return sum(sum(one.engine.status().rejected.values()) for one in services if one is not None)

    def _quarantined(self) -> tuple[str, ...]:
        services = [one.service for one in self._parts.coordinators.values()]
        known = [one.engine.status().devices.items() for one in services if one is not None]
        return tuple(sorted({name for devices in known for name, device in devices if device.quarantine}))

    def _idle_shares(self) -> list[float]:
        """Return what each device told last of the time in which it had nothing to train on."""
        files = [device.disk.folder / FILE_NAME for device in self._parts.devices.values()]
        told = [msgspec.json.decode(file.read_bytes(), type=Status).idle_share for file in files if file.exists()]
        return told or [0.0]

    def _per_class(self) -> tuple[float | None, ...] | None:
        """Return the accuracy of each class: the mean over the models that are judged."""
        held_out, classes = self._held_out, self._bundle.manifest.label.classes
        if classes is None or held_out.y.ndim != 1 or held_out.y.dtype != np.int64:
            return None
        models = [self._model(name, self._spec.judged) for name in self._parts.coordinators]
        found: list[float | None] = []
        for one in range(classes):
            rows = np.flatnonzero(held_out.y == one)
            part = Dataset(held_out.x[rows], held_out.y[rows], held_out.input)
            with self._evaluating():
                found.append(
                    _mean([self._trainer.evaluate(model, part).accuracy for model in models] if len(rows) else [])
                )
        return tuple(found)

    def _digest(self) -> str:
        """Return the hash of every message that has arrived, and of every region's model."""
        digest = hashlib.sha256(self._world.network.digest.encode())
        for name in self._parts.coordinators:
            digest.update(self._model(name).tobytes())
        return digest.hexdigest()


def _mean(values: list[float | None] | list[float]) -> float | None:
    """Return the mean of finite values; None where there is none, or one that is missing or not finite."""
    known = [value for value in values if value is not None and isfinite(value)]
    return fmean(known) if known and len(known) == len(values) else None
