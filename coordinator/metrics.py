"""What this coordinator can be watched by, in Prometheus' text form.

The hot path adds to plain integers; everything else is read when it is asked for. One registry per service.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coordinator.engine import EngineStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labelled = Mapping[tuple[str, ...], int]  # figures by the values of their labels

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which says when this process started

_STALENESS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 1000)
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics(Collector):
    """The figures of one coordinator; also the engine's observer."""

    def __init__(self, note_staleness: Callable[[float], object] = lambda _: None) -> None:
        """`note_staleness` is told that of each update: a histogram is too coarse for a lab."""
        self._note_staleness = note_staleness
        self.registry = CollectorRegistry()
        self.frames_received = 0
        self.frames_received_bytes = 0
        self.frames_sent_bytes = 0
        self.frames_delayed = 0
        self.frames_refused: Counter[str] = Counter()  # by reason: malformed, too_large, protocol, superseded, busy
        self.connections_refused: Counter[str] = Counter()  # by reason, see `admission`; silent: cut later
        self.peer_bytes: Counter[tuple[str, ...]] = Counter()  # (peer, direction)
        self.peer_failures: Counter[str] = Counter()  # by peer
        self.peers_reachable: dict[str, bool] = {}
        self.accuracy: dict[str, float] = {}  # by kind of model, on the held-out data
        self.loss: dict[str, float] = {}
        self.partial_updates_bytes: Callable[[], int] = lambda: 0
        self.status: Callable[[], EngineStatus] | None = None  # None until the engine runs
        self._commit_seconds = Histogram(
            "skerry_commit_seconds", "Time to bring one group to disk.", registry=self.registry, buckets=_SECONDS
        )
        self._commit_updates = Histogram(
            "skerry_commit_updates",
            "Updates that one commit brought to disk.",
            registry=self.registry,
            buckets=[1 << power for power in range(13)],
        )
        self._staleness = Histogram(
            "skerry_update_staleness",
            "How far the model's age had moved on since the base of an update.",
            registry=self.registry,
            buckets=_STALENESS,
        )
        self.registry.register(self)

    def committed(self, seconds: float, updates: int) -> None:
        """Count one group that was written."""
        self._commit_seconds.observe(seconds)
        self._commit_updates.observe(updates)

    def update_applied(self, staleness: float) -> None:
        """Count one update that was weighed."""
        self._staleness.observe(staleness)
        self._note_staleness(staleness)

    def text(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)

    def describe(self) -> Iterator[Metric]:
        """Name nothing in advance, so that registering does not collect."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the figures that are kept as plain numbers."""
        yield from self._network()
        yield from self._quality()
        if self.status is not None:
            yield from _of_engine(self.status())

    def _network(self) -> Iterator[Metric]:
        yield _counter("skerry_frames_received", "Frames from agents.", self.frames_received)
        directions: Labelled = {("received",): self.frames_received_bytes, ("sent",): self.frames_sent_bytes}
        yield _counters("skerry_frames_bytes", "Bytes of agents' frames.", ("direction",), directions)
        yield _counter(
            "skerry_frames_delayed", "Frames of devices that send faster than they may.", self.frames_delayed
        )
        refused = _by_one(self.frames_refused)
        yield _counters("skerry_streams_refused", "Streams that were ended for a reason.", ("reason",), refused)
        yield _counters(
            "skerry_connections_refused",
            "Connections turned away or cut.",
            ("reason",),
            _by_one(self.connections_refused),
        )
        yield _gauge("skerry_partial_updates_bytes", "Unfinished updates in memory.", self.partial_updates_bytes())
        yield _counters("skerry_peer_bytes", "Bytes of peers' messages.", ("peer", "direction"), self.peer_bytes)
        failures = _by_one(self.peer_failures)
        yield _counters("skerry_peer_failures", "Requests to a peer that failed.", ("peer",), failures)
        reachable = {(peer,): float(up) for peer, up in self.peers_reachable.items()}
        yield _gauges(
            "skerry_peer_reachable", "1 if the peer answered the last request for its status.", "peer", reachable
        )

    def _quality(self) -> Iterator[Metric]:
        accuracy = {(kind,): value for kind, value in self.accuracy.items()}
        yield _gauges("skerry_model_accuracy", "Share of held-out examples predicted correctly.", "kind", accuracy)
        loss = {(kind,): value for kind, value in self.loss.items()}
        yield _gauges("skerry_model_loss", "Mean loss on the held-out examples.", "kind", loss)


def _of_engine(status: EngineStatus) -> Iterator[Metric]:
    yield _gauge("skerry_model_version", "Changes of the regional model.", status.version)
    yield _gauge("skerry_model_age", "How much training the regional model holds.", status.age)
    yield _gauge("skerry_checkpoint_version", "Version in the newest checkpoint.", status.checkpoint_version)
    yield _gauge("skerry_publication", "Newest publication to the peers.", status.publication)
    yield _gauge("skerry_cycle_seconds", "Time one round of local steps should take.", status.cycle_s)
    connected = sum(device.connected for device in status.devices.values())
    yield _gauge("skerry_devices_connected", "Devices with a stream.", connected)
    yield _gauge("skerry_devices_known", "Devices that ever sent an update or are connected.", len(status.devices))
    paces = {(pace,): float(count) for pace, count in status.paces.items()}
    yield _gauges("skerry_devices", "Connected devices at this pace, as they told last.", "pace", paces)
    held_out, where = status.held_out, "on the connected devices' own held-out rows"
    yield _gauge("skerry_device_held_out_examples", f"Predictions that were scored {where}.", held_out.examples)
    yield _gauge("skerry_device_held_out_correct", f"Right ones of the regional model {where}.", held_out.correct)
    own = "where the device has an own head"
    yield _gauge("skerry_device_held_out_personal_examples", f"Those of them {own}.", held_out.personal_examples)
    yield _gauge(
        "skerry_device_held_out_personal_correct", f"Right ones of the own heads {where}.", held_out.personal_correct
    )
    yield _gauge("skerry_updates_uncommitted", "Updates on their way to the disk.", status.uncommitted_updates)
    yield _gauge("skerry_updates_held", "Updates that the arrival rule holds back.", status.held_updates)
    if status.round is not None:
        yield _gauge("skerry_round", "The round under way, or the last one.", status.round)
    if status.server_rate is not None:
        yield _gauge("skerry_server_rate", "Weight of a fresh update now.", status.server_rate)
    yield _gauge("skerry_waits_for_peers", "1 while an exchange of models holds up updates.", status.waits_for_peers)
    yield _counter("skerry_updates_accepted", "Updates in the journal.", status.updates_accepted)
    yield _counter("skerry_updates_repeated", "Repeats, acknowledged and not applied again.", status.repeats)
    yield _counter("skerry_updates_taken_back", "Taken out again: another region has them, too.", status.taken_back)
    rejected = _by_one(status.rejected)
    yield _counters("skerry_updates_rejected", "Updates that will never be applied.", ("reason",), rejected)
    quarantined = sum(bool(device.quarantine) for device in status.devices.values())
    yield _gauge("skerry_devices_quarantined", "Devices whose updates the guard does not let in.", quarantined)
    yield _counter("skerry_guard_alarms", "Devices that went into quarantine or came out of it.", status.alarms)
    yield _counter("skerry_merges", "Models of peers merged into the regional one.", status.merges)
    refused = {(peer,): float(bool(one.refused)) for peer, one in status.peers.items()}
    yield _gauges("skerry_peer_refused", "1 while the peer's model is too far away to be merged.", "peer", refused)
    models = _by_one(status.peer_models_refused)
    yield _counters("skerry_peer_models_refused", "Models of peers that were not merged for that.", ("peer",), models)
    yield _counter("skerry_commits", "Groups brought to disk.", status.commits)


def _by_one(values: Mapping[str, int]) -> Labelled:
    return {(key,): value for key, value in values.items()}


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, label: str, values: dict[tuple[str], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for labels, value in sorted(values.items()):
        family.add_metric(list(labels), value)
    return family


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, labels: tuple[str, ...], values: Labelled) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(list(key), value)
    return family
