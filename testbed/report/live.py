"""The live view of a run: a full view on a terminal, plain lines of progress everywhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

import msgspec

from testbed.report.quantities import MISSING, duration, number, percent, reached, size
from testbed.run_record import LiveDevice, LiveRegion, LiveState

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

LINE_EVERY_S = 5.0
BAR_CELLS = 24
WIDE_COLUMNS = 96


class LiveView(Protocol):
    """Shows how a run is getting on."""

    def show(self, state: LiveState) -> None:
        """Show `state`, the newest."""


class LineView:
    """Plain lines for logs and pipes: one at each change of phase, else one in `LINE_EVERY_S` of the run's time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._phase = ""
        self._last_at_s = 0.0

    def show(self, state: LiveState) -> None:
        """Write a line if it is time for one."""
        if state.phase == self._phase and state.at_s - self._last_at_s < LINE_EVERY_S:
            return
        self._phase, self._last_at_s = state.phase, state.at_s
        self._stream.write(f"{line(state)}\n")
        self._stream.flush()


class TerminalView:
    """The full view, redrawn in place. What was known last stays in view while services are stopped."""

    def __init__(self, live: "Live") -> None:
        self._live = live
        self._regions: tuple[LiveRegion, ...] = ()
        self._devices: tuple[LiveDevice, ...] = ()

    def show(self, state: LiveState) -> None:
        """Redraw."""
        self._regions = state.regions or self._regions
        self._devices = state.devices or self._devices
        whole = msgspec.structs.replace(state, regions=self._regions, devices=self._devices)
        self._live.update(drawing(whole, self._live.console.width), refresh=True)


@contextmanager
def open_live_view(stream: TextIO) -> Iterator[LiveView]:
    """Give a view on `stream`: full on a terminal that can move its cursor, else lines."""
    console = _terminal(stream)
    if console is None:
        yield LineView(stream)
        return
    from rich.live import Live

    # what others print meanwhile goes above the view
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        yield TerminalView(live)


def line(state: LiveState) -> str:
    """Return `state` in one line."""
    if state.phase != "training":
        return f"{state.at_s:6.1f} s  {state.phase}"
    regions = ", ".join(
        f"{region.name} {reached(region.regional_accuracy, region.regional_loss)}"
        if region.reachable
        else f"{region.name} unreachable"
        for region in state.regions
    )
    central = f" (central {reached(state.central_accuracy, state.central_loss)})" if _has_central(state) else ""
    connected = sum(device.connected for device in state.devices)
    updates = sum(region.updates for region in state.regions)
    sent = sum(device.sent_bytes for device in state.devices)
    return (
        f"{state.at_s:6.1f} s  training  {regions}{central}, {connected} of {len(state.devices)} devices,"
        f" {number(updates)} updates, {size(sent)} sent"
    )


def drawing(state: LiveState, width: int) -> "RenderableType":
    """Return the full view of `state`: head, regions, devices; a narrow one leaves out what is least."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_head(state)]
    if state.regions:
        parts += [Text(), _regions(state)]
    if state.devices:
        parts += [Text(), _devices(state, wide=width >= WIDE_COLUMNS)]
    return Group(*parts)


def _terminal(stream: TextIO) -> "Console | None":
    if not stream.isatty():
        return None
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    return None if console.is_dumb_terminal else console


def _head(state: LiveState) -> "Text":
    from rich.text import Text

    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(state.scenario, style="bold")
    head.append(f"  {state.phase}  ")
    if state.phase == "training":
        head.append_text(_bar(state.at_s / state.duration_s if state.duration_s > 0.0 else 1.0, BAR_CELLS))
        head.append(f"  {duration(state.at_s)} / {duration(state.duration_s)}")
    if _has_central(state):
        head.append("  central ")
        head.append(reached(state.central_accuracy, state.central_loss), style="bold")
    return head


def _has_central(state: LiveState) -> bool:
    return state.central_accuracy is not None or state.central_loss is not None


def _regions(state: LiveState) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("region", "coordinator"):
        table.add_column(name, no_wrap=True)
    for name in ("accuracy", "federated", "updates", "version", "age", "devices"):
        table.add_column(name, justify="right", no_wrap=True)
    for region in state.regions:
        devices = sum(device.region == region.name for device in state.devices)
        table.add_row(
            Text(region.name, style="bold"),
            Text(region.coordinator) if region.reachable else Text("unreachable", style="red"),
            _accuracy(region, state.central_accuracy),
            reached(region.federated_accuracy, region.federated_loss),
            number(region.updates),
            number(region.version),
            number(region.age),
            f"{region.devices_connected}/{devices}",
        )
    return table


def _accuracy(region: LiveRegion, central: float | None) -> "Text":
    from rich.text import Text

    text = Text(reached(region.regional_accuracy, region.regional_loss), style="bold")
    if region.regional_accuracy is not None and central is not None:
        text.append(f" ({100.0 * (region.regional_accuracy - central):+.1f})", style="not bold dim")
    return text


def _devices(state: LiveState, *, wide: bool) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("device", "type") if wide else ("device",):
        table.add_column(name, no_wrap=True)
    for name in ("steps", "steps/s", "updates", "loss", "sent", "idle"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("", no_wrap=True)
    most = max((device.steps_per_cycle for device in state.devices), default=0)
    for device in state.devices:
        kind = Text(device.profile, style="dim") if device.connected else Text("not connected", style="red")
        bar = _bar(device.steps_per_cycle / most if most else 0.0, BAR_CELLS // 2)
        table.add_row(
            Text(device.name, style="bold" if device.connected else "red"),
            *([kind] if wide else []),
            number(device.steps_per_cycle),
            _steps_per_s(device),
            number(device.updates),
            number(device.last_loss),
            size(device.sent_bytes),
            percent(device.idle_share),
            *([bar] if wide else []),
        )
    return table


def _steps_per_s(device: LiveDevice) -> str:
    return number(1.0 / device.seconds_per_step) if device.seconds_per_step else MISSING


def _bar(share: float, cells: int) -> "Text":
    from rich.text import Text

    full = round(min(1.0, max(0.0, share)) * cells)
    return Text("━" * full, style="cyan").append("━" * (cells - full), style="bright_black")
