"""Bytes leave a link when latency and bandwidth say so, in order, none lost and none made up."""

import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.processes.link import END, PACKET_BYTES, Link, Pipe, Shape, Wire

MBIT = 1e6

chunks = st.lists(st.tuples(st.floats(0.0, 0.5), st.binary(min_size=1, max_size=2000)), max_size=30)
shapes = st.builds(
    Shape,
    st.floats(0.0, 0.3),
    st.one_of(st.none(), st.floats(1e4, 1e8)),
    st.floats(0.0, 0.1),
    st.floats(0.0, 0.5),
)


def drained(pipe: Pipe) -> list[bytes]:
    """Everything in the pipe, pulled at the moments that it names."""
    arrived: list[bytes] = []
    while pipe.wake_at_s is not None:
        arrived += pipe.pull(pipe.wake_at_s)
    return arrived


def test_a_chunk_takes_its_time_on_the_wire_and_one_latency() -> None:
    wire = Wire(Shape(0.040, 10 * MBIT))
    assert wire.send(12_500, 1.0) == pytest.approx(1.0 + 0.010 + 0.040)


def test_connections_share_the_wire() -> None:
    wire = Wire(Shape(0.0, 1 * MBIT))
    first, second = Pipe(wire), Pipe(wire)
    first.push(bytes(125_000), 0.0)
    second.push(b"x", 0.0)
    assert first.wake_at_s == pytest.approx(1.0)
    assert second.wake_at_s == pytest.approx(1.0 + 8e-6)


def test_an_idle_wire_saves_up_nothing() -> None:
    wire = Wire(Shape(0.0, 1 * MBIT))
    wire.send(1, 0.0)
    assert wire.send(125_000, 10.0) == pytest.approx(11.0)


def test_without_a_limit_only_latency_counts() -> None:
    assert Wire(Shape(0.25)).send(10**9, 2.0) == 2.25


def test_the_two_directions_are_independent() -> None:
    link = Link(Shape(0.010), Shape(0.030))
    assert link.a_to_b.send(100, 0.0) == 0.010
    assert link.b_to_a.send(100, 0.0) == 0.030
    assert link.round_trip_s == pytest.approx(0.040)


@given(shapes, chunks)
def test_everything_arrives_once_and_in_order(shape: Shape, sent: list[tuple[float, bytes]]) -> None:
    pipe, now_s, arrived = Pipe(Wire(shape, random.Random(0))), 0.0, []
    for gap_s, data in sent:
        now_s += gap_s
        arrived += pipe.pull(now_s)
        pipe.push(data, now_s)
    pipe.push(END, now_s)
    arrived += drained(pipe)
    assert arrived == [data for _, data in sent] + [END]
    assert pipe.queued_bytes == 0


@given(shapes, st.binary(min_size=1, max_size=2000), st.floats(0.0, 100.0))
def test_nothing_arrives_early(shape: Shape, data: bytes, now_s: float) -> None:
    pipe = Pipe(Wire(shape, random.Random(0)))
    pipe.push(data, now_s)
    assert pipe.wake_at_s is not None
    assert pipe.wake_at_s >= now_s + shape.latency_s
    assert pipe.pull(now_s + shape.latency_s * 0.99 - 1e-9) == []


@given(shapes, chunks, chunks)
def test_a_stall_delays_and_loses_nothing(
    shape: Shape, before: list[tuple[float, bytes]], during: list[tuple[float, bytes]]
) -> None:
    wire = Wire(shape, random.Random(0))
    pipe, now_s = Pipe(wire), 0.0
    for gap_s, data in before:
        now_s += gap_s
        pipe.push(data, now_s)
    wire.stalled = True
    for gap_s, data in during:
        now_s += gap_s
        pipe.push(data, now_s)
    assert pipe.wake_at_s is None
    assert pipe.pull(now_s + 1e6) == []
    wire.stalled = False
    pipe.resume(now_s)
    if during:
        last_arrival_s = pipe._flying[-1][0]
        assert last_arrival_s >= now_s + shape.latency_s
    assert drained(pipe) == [data for _, data in before + during]


def test_a_full_pipe_says_so_until_its_bytes_have_left() -> None:
    pipe = Pipe(Wire(Shape(0.1, 1 * MBIT)))
    pipe.push(bytes(70_000), 0.0)
    assert not pipe.has_room
    pipe.pull(10.0)
    assert pipe.has_room


def test_jitter_is_late_by_its_mean_and_never_early() -> None:
    wire = Wire(Shape(0.010, None, 0.004), random.Random(1))
    late = [wire.send(100, 0.0) - 0.010 for _ in range(4000)]
    assert min(late) >= 0.0
    assert mean(late) == pytest.approx(0.004, rel=0.1)


@pytest.mark.parametrize("packets", [1, 5])
def test_a_lost_packet_makes_its_chunk_a_round_trip_late(packets: int) -> None:
    wire = Wire(Shape(0.010, None, 0.0, 0.05), random.Random(1))
    trips = [round((wire.send(packets * PACKET_BYTES, 0.0) - 0.010) / 0.020, 6) for _ in range(4000)]
    assert all(trip.is_integer() for trip in trips)
    assert mean(trip > 0.0 for trip in trips) == pytest.approx(1.0 - 0.95**packets, rel=0.15)
    assert mean(trips) == pytest.approx((1.0 - 0.95**packets) / 0.95, rel=0.15)  # a repeat is lost as easily


def test_the_same_seed_draws_the_same_delays() -> None:
    shape = Shape(0.010, 1e6, 0.004, 0.1)
    first, second = (Wire(shape, random.Random("a device")) for _ in range(2))
    assert [first.send(9000, 0.0) for _ in range(50)] == [second.send(9000, 0.0) for _ in range(50)]
