"""How a run ends: in an order that leaves nothing behind which only time would have put right."""

import asyncio
from dataclasses import replace

import pytest

from testbed.simulation.machine import Machine
from tests.simulation.fault_runs.plan import draw_plan
from tests.simulation.fault_runs.run import HEAR_S, run_plan


def test_coordinators_stop_when_no_device_can_move_and_all_have_heard_of_those_that_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop, stops = Machine.stop, {}

    async def noting(machine: Machine) -> None:
        began_s = asyncio.get_running_loop().time()
        await stop(machine)
        stops[machine.name] = began_s, asyncio.get_running_loop().time()

    monkeypatch.setattr(Machine, "stop", noting)
    plan = replace(draw_plan(13), faults=())
    assert run_plan(plan).violations == ()
    assert set(stops) == {*plan.homes, *plan.coordinators}
    last_device_s = max(stops[device][1] for device in plan.homes)
    assert min(stops[coordinator][0] for coordinator in plan.coordinators) >= last_device_s + HEAR_S
