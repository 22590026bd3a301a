"""How a run ends: in an order that leaves nothing behind which only time would have put right."""

from dataclasses import replace

import pytest

from testbed.simulation.machine import Machine
from tests.simulation.fault_runs.plan import draw_plan
from tests.simulation.fault_runs.run import run_plan


def test_no_coordinator_stops_under_a_device_that_may_go_to_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, stopped = Machine.stop, []

    async def noting(machine: Machine) -> None:
        await stop(machine)
        stopped.append(machine.name)

    monkeypatch.setattr(Machine, "stop", noting)
    plan = replace(draw_plan(13), faults=())  # a device of two coordinators is among them
    assert run_plan(plan).violations == ()
    assert stopped == [*plan.homes, *plan.coordinators]
