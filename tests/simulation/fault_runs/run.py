"""One run: a seed's world lives through its faults, and is judged."""

import asyncio
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exception

from testbed.simulation.loop import run
from testbed.simulation.machine import Machine
from tests.simulation.fault_runs.evidence import Evidence, gather
from tests.simulation.fault_runs.federation import Federation
from tests.simulation.fault_runs.inflict import Inflicter
from tests.simulation.fault_runs.liveness import LIVENESS
from tests.simulation.fault_runs.plan import CALM_S, FAULTS_END_S, FullDisk, Plan, draw_plan
from tests.simulation.fault_runs.safety import SAFETY
from tests.simulation.fault_runs.tap import Tap
from tests.simulation.fault_runs.witness import Witness

LOOK_S = 0.25  # between two looks at all coordinators' memories
HEAR_S = 4.0  # virtual; in which coordinators that see one another read each other's ledgers: they ask once a second
STOP_S = 30.0  # virtual; a service that has not stopped by then hangs
MEMORY = Path("/dev/shm")  # in memory, where there is such a folder: faster


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be."""

    invariant: str
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed."""

    seed: int
    digest: str  # of every message and every model: two runs are the same if it is
    updates: int  # in the journals
    violations: tuple[Violation, ...]


def run_seed(seed: int) -> Outcome:
    """Run what `draw_plan` says of a seed."""
    return run_plan(draw_plan(seed))


def run_plan(plan: Plan) -> Outcome:
    """Run a plan in virtual time and judge it."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, prefix="skerry-faults-") as folder:
        try:
            evidence, digest = run(_live(plan, Path(folder)), seed=plan.seed)
        except Exception as error:  # whatever it is: whoever runs a thousand wants to know of which seed
            return Outcome(plan.seed, "", 0, (Violation("the run itself", "".join(format_exception(error))),))
    violations = [
        Violation(invariant.__name__, detail) for invariant in (*SAFETY, *LIVENESS) for detail in invariant(evidence)
    ]
    return Outcome(plan.seed, digest, sum(map(len, evidence.journals.values())), tuple(violations))


async def _live(plan: Plan, folder: Path) -> tuple[Evidence, str]:
    federation = Federation(plan, folder)
    world = federation.world
    witness = Witness(world.loop.time, follows=plan.follows)
    world.network.tap = Tap(witness.hear)
    with witness.noting_differences():
        for machine in federation.machines.values():
            machine.start()
        looking = asyncio.create_task(_look_again_and_again(federation, witness))
        inflicter = Inflicter(federation, witness)
        await inflicter.run()
        await asyncio.sleep(FAULTS_END_S + CALM_S - world.loop.time())
        looking.cancel()
        _look(federation, witness)
        ended_s = world.loop.time()
        models = {
            name: one.service.engine.model().values
            for name, one in federation.coordinators.items()
            if one.running and one.service is not None
        }
        failures = await _stop_all(federation)
    failures += inflicter.defects
    failures += [f"nobody caught {defect}" for defect in world.defects]
    digest = hashlib.sha256(world.network.digest.encode())
    for model in models.values():
        digest.update(model.tobytes())
    return gather(federation, witness, models, failures, ended_s), digest.hexdigest()[:16]


async def _look_again_and_again(federation: Federation, witness: Witness) -> None:
    while True:
        _look(federation, witness)
        await asyncio.sleep(LOOK_S)


def _look(federation: Federation, witness: Witness) -> None:
    for coordinator in federation.coordinators.values():
        witness.look(coordinator)


async def _stop_all(federation: Federation) -> list[str]:
    """Stop all services; return what is wrong with any.

    Devices go first, and the coordinators later. A device whose coordinator stops between its commit and its answer
    offers the update to the next, which takes it, too; so does one that goes home just then. That counts twice until
    they hear of one another, and coordinators that have stopped hear nothing.
    """
    devices, coordinators = federation.devices.values(), federation.coordinators.values()
    failures = [failure for device in devices for failure in await _stop(federation.plan, device)]
    await asyncio.sleep(HEAR_S)
    return failures + [failure for one in coordinators for failure in await _stop(federation.plan, one)]


async def _stop(plan: Plan, machine: Machine) -> list[str]:
    """Stop a service in good order; return what is wrong with it, or was."""
    found = []
    if not machine.running:
        found.append(f"{machine.name} is down at the end")
    try:
        async with asyncio.timeout(STOP_S):
            await machine.stop()
    except Exception as error:  # whatever it is, it is a finding
        found.append(f"{machine.name} ended with {error!r}")
    may_fail = any(isinstance(fault, FullDisk) and fault.machine == machine.name for fault in plan.faults)
    if not may_fail:
        found += [f"{machine.name} failed: {error}" for error in machine.failures]
    return found
