"""What the engine keeps and tells of devices, traffic and its own work."""

import asyncio
from typing import Any

from coordinator.events import Evaluated, TelemetryArrived, TrafficCounted
from coordinator.history import read_history
from skerry.algorithms.arrival import Constant
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation
from skerry.protocol.messages import ModelVersion, Telemetry
from skerry.recipe import Recipe

PLAIN = Recipe(arrival=Constant(weight=0.5), downlink=Newest(), federation=NoFederation())


async def test_telemetry_evaluations_and_traffic_are_kept(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    config, outlet = config_of(PLAIN), new_listener()
    async with open_engine(config, outlet) as engine:
        for uptime_s in (1.0, 2.0):
            report = Telemetry(uptime_s, 1.0, 0.0, 1, 20, 0.1, 1, 1, 1, 0, 48.5)
            engine.submit(TelemetryArrived("kite", report))
        engine.submit(Evaluated(3, 2.5, "federated", 100, 93, 0.25))
        engine.submit(TrafficCounted("device", "kite", 10, 20))
        engine.submit(TrafficCounted("device", "kite", 1, 2))
        engine.submit(TrafficCounted("peer", "kite", 5, 6))
        engine.submit(words.update("kite", 1, engine.version, loss=0.75))
        await outlet.until_accepted(1)
    history = read_history(config.state_dir)
    assert history.telemetry["kite"].uptime_s == 2.0
    assert history.telemetry["kite"].at_s == 1_700_000_000.0
    (evaluation,) = history.evaluations
    assert (evaluation.kind, evaluation.version, evaluation.correct, evaluation.loss) == ("federated", 3, 93, 0.25)
    assert {(one.party, one.name): (one.sent_bytes, one.received_bytes) for one in history.traffic} == {
        ("device", "kite"): (11, 22),
        ("peer", "kite"): (5, 6),
    }
    (row,) = history.updates
    assert (row.steps, row.examples, row.loss, row.seconds_per_step) == (20, 100, 0.75, 0.05)
    assert row.payload_bytes + 90 == row.frame_bytes
    assert (row.received_at_s, row.base_number, row.age) == (1_700_000_000.0, 0, 1.0)


async def test_status_tells_of_devices_and_the_model(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    outlet = new_listener()
    async with open_engine(config_of(PLAIN), outlet) as engine:
        engine.submit(words.hello("kite"))
        engine.submit(words.update("kite", 3, engine.version))
        engine.submit(words.update("kite", 3, engine.version))
        engine.submit(words.update("tern", 1, ModelVersion("there/1", 0)))
        await outlet.until(lambda: len(outlet.sent) == 4)
        status = engine.status()
        assert (status.version, status.age, status.updates_accepted, status.repeats) == (1, 1.0, 1, 1)
        assert status.rejected == {"unknown_base": 1}
        assert set(status.devices) == {"kite"}
        kite = status.devices["kite"]
        assert (kite.connected, kite.last_sequence, kite.updates, kite.seconds_per_step) == (True, 3, 1, 0.05)
        peer = engine.peer_status("0" * 64)
        assert (peer.coordinator, peer.version, peer.devices) == ("here-1", 1, 1)


async def test_the_observer_hears_of_commits_and_staleness(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    class Ear:
        def __init__(self) -> None:
            self.updates = 0
            self.staleness: list[float] = []

        def committed(self, seconds: float, updates: int) -> None:
            assert seconds >= 0.0
            self.updates += updates

        def update_applied(self, staleness: float) -> None:
            self.staleness.append(staleness)

    ear, outlet = Ear(), new_listener()
    async with open_engine(config_of(PLAIN), outlet, observer=ear) as engine:
        for sequence in (1, 2, 3):
            engine.submit(words.update("kite", sequence, ModelVersion(engine.lineage, 0)))
        await outlet.until_accepted(3)
        await asyncio.sleep(0)
    assert ear.updates == 3
    assert ear.staleness == [0.0, 1.0, 2.0]
