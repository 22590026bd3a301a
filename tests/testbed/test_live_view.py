"""The live view: everything at a glance on a terminal, few lines in a log."""

import io
from typing import Literal

import msgspec
import pytest
from rich.console import Console

from testbed.report import live
from testbed.report.live import LineView, TerminalView, drawing, line, open_live_view
from testbed.run_record import LiveDevice, LiveRegion, LiveState

Phase = Literal["starting", "central baseline", "training", "stopping", "collecting"]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def state(at_s: float = 12.0, phase: Phase = "training", name: str = "paris-pi") -> LiveState:
    return LiveState(
        scenario="quickstart",
        phase=phase,
        at_s=at_s,
        duration_s=60.0,
        central_accuracy=0.941,
        regions=(
            LiveRegion(
                name="paris", coordinator="paris-1", reachable=True, version=120, age=118.5, updates=110,
                devices_connected=1, regional_accuracy=0.921, federated_accuracy=0.93,
            ),
            LiveRegion(name="sydney", coordinator="sydney-1", reachable=False),
        ),
        devices=(
            LiveDevice(
                name=name, region="paris", profile="raspberry-pi-4b", connected=True, updates=110,
                steps_per_cycle=100, seconds_per_step=0.005, idle_share=0.012, sent_bytes=61_000, last_loss=0.31,
            ),
            LiveDevice(name="sydney-zero", region="sydney", profile="raspberry-pi-zero-2w"),
        ),
    )  # fmt: skip


def lines_of(*states: LiveState) -> list[str]:
    stream = io.StringIO()
    view = LineView(stream)
    for one in states:
        view.show(one)
    return stream.getvalue().splitlines()


def without_accuracy() -> LiveState:
    told = state()
    paris = msgspec.structs.replace(
        told.regions[0], regional_accuracy=None, federated_accuracy=None, regional_loss=0.03125, federated_loss=0.5
    )
    return msgspec.structs.replace(told, central_accuracy=None, central_loss=0.01, regions=(paris, *told.regions[1:]))


def test_a_task_without_accuracy_is_told_by_its_loss() -> None:
    assert "  training  paris loss 0.0312, sydney unreachable (central loss 0.01), " in line(without_accuracy())
    stream = io.StringIO()
    console = Console(file=stream, width=120)
    console.print(drawing(without_accuracy(), 120))
    assert "central loss 0.01" in stream.getvalue()
    assert "loss 0.0312" in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()
    assert "%" not in stream.getvalue().split("device", 1)[0]


def test_a_line_says_what_matters() -> None:
    assert line(state()) == (
        "  12.0 s  training  paris 92.1 %, sydney unreachable (central 94.1 %), 1 of 2 devices, 110 updates, 61 kB sent"
    )


def test_outside_of_training_a_line_is_the_phase() -> None:
    assert line(state(0.0, "starting")) == "   0.0 s  starting"


def test_there_is_a_line_every_five_seconds_of_training() -> None:
    lines = lines_of(*(state(at_s=float(second)) for second in range(21)))
    assert [float(one.split()[0]) for one in lines] == [0.0, 5.0, 10.0, 15.0, 20.0]


def test_a_change_of_phase_is_told_at_once() -> None:
    lines = lines_of(
        state(0.0, "central baseline"), state(0.5, "starting"), state(0.9), state(1.5), state(2.0, "stopping")
    )
    assert [one.split("  ")[-1] if "training" not in one else "training" for one in lines] == [
        "central baseline", "starting", "training", "stopping",
    ]  # fmt: skip


def test_anything_but_a_terminal_gets_lines() -> None:
    with open_live_view(io.StringIO()) as view:
        assert isinstance(view, LineView)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with open_live_view(Terminal()) as view:
        assert isinstance(view, LineView)


def test_a_terminal_gets_the_full_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "40")
    stream = Terminal()
    with open_live_view(stream) as view:
        assert isinstance(view, TerminalView)
        view.show(state())
    shown = stream.getvalue()
    for words in ("quickstart", "paris-pi", "sydney-zero", "not connected", "unreachable", "92.1 %"):
        assert words in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back at the end


def drawn(one: LiveState, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(live.drawing(one, width))
    return stream.getvalue().splitlines()


def test_the_full_view_tells_each_device_on_a_line() -> None:
    lines = drawn(state(), 120)
    (busy,) = (one for one in lines if one.startswith("paris-pi"))
    assert busy.split()[:8] == ["paris-pi", "raspberry-pi-4b", "100", "200", "110", "0.31", "61", "kB"]
    (silent,) = (one for one in lines if one.startswith("sydney-zero"))
    assert "not connected" in silent
    (paris,) = (one for one in lines if one.startswith("paris "))
    assert "(-2.0)" in paris
    assert paris.endswith("1/1")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = drawn(state(), width)
    assert all(len(one) <= width for one in lines)
    assert len(lines) == len(drawn(state(), 200))


def test_eighty_columns_show_every_number_whole() -> None:
    lines = drawn(state(name="sydney-jetson-orin"), 80)
    assert not any("…" in one for one in lines)
    (busy,) = (one for one in lines if one.startswith("sydney-jetson-orin"))
    assert busy.split()[1:] == ["100", "200", "110", "0.31", "61", "kB", "1.2", "%"]


def test_what_was_known_last_stays_in_view_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with open_live_view(stream) as view:
        view.show(state())
        written = len(stream.getvalue())
        view.show(msgspec.structs.replace(state(phase="stopping"), regions=(), devices=()))
    last = stream.getvalue()[written:]
    assert "stopping" in last
    assert "paris-pi" in last


def test_names_are_shown_as_they_are() -> None:
    assert any("[red]paris[/red]" in one for one in drawn(state(name="[red]paris[/red]"), 120))


@pytest.mark.parametrize("at_s", [0.0, 60.0, 75.0])
def test_the_bar_has_a_beginning_and_an_end(at_s: float) -> None:
    assert any("━" * live.BAR_CELLS in one for one in drawn(state(at_s), 120))


def test_before_anything_is_known_there_is_a_view() -> None:
    empty = LiveState(
        scenario="quickstart", phase="starting", at_s=0.0, duration_s=0.0, central_accuracy=None, regions=(), devices=()
    )
    assert any("quickstart" in one for one in drawn(empty, 80))
    assert line(empty).endswith("starting")
