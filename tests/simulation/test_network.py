"""The network model by itself: what goes in comes out, in order, not too soon, and not faster than the wires carry."""

import errno
import itertools
import random
import socket
from collections.abc import Callable
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.path import GIVE_UP_S, PACKET_BYTES, Path, retried_at_s
from testbed.simulation.route import SEGMENT_BYTES_MAX
from tests.simulation.model_world import World, pair

paths = st.builds(Path, st.floats(0.0, 0.3), st.floats(0.0, 0.1), st.floats(0.0, 0.3))
rates = st.one_of(st.none(), st.floats(1e4, 1e8))
writes = st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(1, 100_000)), max_size=20)


@settings(max_examples=60, deadline=None)
@given(paths, rates, rates, writes, st.integers(0, 5))
def test_all_that_is_written_arrives_once_in_order_and_not_too_soon(
    path: Path, up: float | None, down: float | None, plan: list[tuple[float, int]], seed: int
) -> None:
    world = World(path, seed)
    world.network.add_host("d", up)
    world.network.add_host("s", None, down)
    world.listen("s")
    client, server = world.joined("d", "s")
    content = random.Random(seed).randbytes(sum(size for _, size in plan))
    began_s = world.clock.now_s
    written, first_write_s = 0, None
    for pause_s, size in plan:
        world.clock.run(world.clock.now_s + pause_s)
        first_write_s = world.clock.now_s if first_write_s is None else first_write_s
        client.out.write(content[written : written + size])
        written += size
    client.out.end()
    world.clock.run()

    assert server.data == content
    assert server.error is None
    assert server.ended_at_s is not None
    assert client.out.backlog_bytes == 0
    if first_write_s is not None:
        assert server.arrived[0][0] >= first_write_s + path.latency_s
    for rate in (up, down):
        if rate is not None:
            assert_within(rate, server.arrived, began_s)


def assert_within(rate: float, arrived: list[tuple[float, bytes]], began_s: float) -> None:
    """Since the beginning never more has arrived than the rate carries."""
    total = 0
    for at_s, data in arrived:
        assert len(data) <= SEGMENT_BYTES_MAX
        total += len(data)
        assert total <= rate * (at_s - began_s) * (1 + 1e-9) + 1e-3


@settings(max_examples=40, deadline=None)
@given(
    st.floats(1e4, 1e6),
    st.floats(0.0, 0.2),
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 0.2), st.integers(1, 60_000)), min_size=1, max_size=30),
)
def test_connections_of_a_host_together_get_no_more_than_its_bandwidth(
    rate: float, latency_s: float, plan: list[tuple[int, float, int]]
) -> None:
    world = World(Path(latency_s))
    world.network.add_host("d", rate, rate)
    for name in ("s", "t"):
        world.network.add_host(name)
        world.listen(name)
    ends = [world.joined("d", name) for name in ("s", "t", "s", "t")]
    began_s = world.clock.now_s
    for number, pause_s, size in plan:
        world.clock.run(world.clock.now_s + pause_s)
        ends[number][0].out.write(bytes(size))
        ends[number][1].out.write(bytes(size))
    world.clock.run()
    for side in (0, 1):  # what the device received, what it sent
        arrived = sorted((entry for pipes in ends for entry in pipes[side].arrived), key=lambda entry: entry[0])
        assert sum(len(data) for _, data in arrived) == sum(size for _, _, size in plan)
        assert_within(rate, arrived, began_s)
        for (before_s, _), (at_s, data) in itertools.pairwise(arrived):  # each segment has the wire for itself
            assert len(data) <= rate * (at_s - before_s) * (1 + 1e-6) + 1e-3


def test_connections_take_turns_on_a_wire() -> None:
    world, first, first_far = pair(Path(0.01), up_bytes_per_s=1e5)
    second, second_far = world.joined("d", "s")
    began_s = world.clock.now_s
    first.out.write(bytes(1_000_000))  # ten seconds
    second.out.write(b"heartbeat")
    world.clock.run()
    assert second_far.arrived[0][0] - began_s < 1.0  # behind what the other has under way, not behind all of it
    assert first_far.arrived[-1][0] - began_s == pytest.approx(10.0, rel=0.02)


def test_the_two_directions_do_not_share() -> None:
    world, client, server = pair(Path(0.01), up_bytes_per_s=1e5, down_bytes_per_s=1e6)
    began_s = world.clock.now_s
    client.out.write(bytes(500_000))
    server.out.write(bytes(500_000))
    world.clock.run()
    assert server.arrived[-1][0] - began_s == pytest.approx(5.0, rel=0.05)
    assert client.arrived[-1][0] - began_s == pytest.approx(0.5, rel=0.4)


def test_a_long_fat_path_is_filled_only_after_some_round_trips() -> None:
    """Slow start: 14 KB in the first round trip, twice as much in each that follows; again after a pause."""
    world, client, server = pair(Path(0.1))
    for _ in range(2):
        began_s, before = world.clock.now_s, len(server.arrived)
        client.out.write(bytes(400_000))
        world.clock.run()
        took_s = server.arrived[-1][0] - began_s
        assert took_s == pytest.approx(0.1 + 4 * 0.2)  # 14, 43, 101, 217, 449 KB
        by_then = sum(len(data) for at_s, data in server.arrived[before:] if at_s - began_s < 0.2)
        assert by_then == 10 * PACKET_BYTES
        world.clock.run(world.clock.now_s + 10.0)


def test_jitter_is_exponential_with_its_mean_and_reorders_connections_but_never_bytes() -> None:
    world, client, server = pair(Path(0.05, jitter_s=0.02))
    late_s = []
    for number in range(4000):
        began_s = world.clock.now_s
        client.out.write(bytes([number % 256]))
        world.clock.run(began_s + 1.0)
        late_s.append(server.arrived[-1][0] - began_s - 0.05)
    assert min(late_s) >= 0.0
    assert mean(late_s) == pytest.approx(0.02, rel=0.05)
    assert mean(late > 0.04 for late in late_s) == pytest.approx(0.135, rel=0.15)

    ends = [world.joined("d", "s") for _ in range(50)]
    for near, _ in ends:
        near.out.write(b"a")
        near.out.write(b"b")
    world.clock.run(world.clock.now_s + 10.0)
    order = [far.arrived[0][0] for _, far in ends]
    assert order != sorted(order)
    assert all(far.data == b"ab" for _, far in ends)


def test_losses_delay_by_timeouts_that_double() -> None:
    world, client, server = pair(Path(0.05, loss_share=0.3))
    took_s = []
    for _ in range(2000):
        began_s = world.clock.now_s
        client.out.write(b"x")
        world.clock.run(began_s + 1000.0)
        took_s.append(round(server.arrived[-1][0] - began_s, 6))
    possible = [0.05 + 0.3 * (2**losses - 1) for losses in range(9)]
    assert set(took_s) <= {round(each, 6) for each in possible}
    for losses in range(4):
        assert took_s.count(round(possible[losses], 6)) / 2000 == pytest.approx(0.7 * 0.3**losses, rel=0.25)


def test_a_loss_within_a_long_segment_costs_a_round_trip() -> None:
    path = Path(0.05, loss_share=0.05)
    late_s = {round(path.late_s(10 * PACKET_BYTES, 0.1, random.Random(seed)), 6) for seed in range(100)}
    assert min(late_s) == 0.0
    assert sorted(late_s)[1] == 0.1


@given(paths, st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_one_connections_traffic_does_not_change_anothers_luck(path: Path, seed: int) -> None:
    """Of two connections, one is used much or not at all: the other's bytes arrive at the same times."""

    def arrivals(busy: int) -> list[tuple[float, bytes]]:
        world, client, server = pair(path, seed)
        other, _ = world.joined("d", "s")
        for number in range(20):
            for _ in range(busy):
                other.out.write(bytes(1000))
            client.out.write(bytes([number]))
            world.clock.run(world.clock.now_s + 0.05)
        world.clock.run()
        return server.arrived

    assert arrivals(0) == arrivals(1) == arrivals(5)


def test_the_digest_tells_time_ends_and_bytes_apart() -> None:
    def digest(source: str, data: bytes, pause_s: float, seed: int = 1, jitter_s: float = 0.0) -> str:
        world = World(Path(0.01, jitter_s), seed)
        for name in ("d", "e", "s"):
            world.network.add_host(name)
        world.listen("s")
        client, _ = world.joined(source, "s")
        world.clock.run(10.0 + pause_s)
        client.out.write(data)
        world.clock.run()
        return world.network.digest

    plain = digest("d", b"a", 0.0)
    assert plain == digest("d", b"a", 0.0)
    others = {digest("e", b"a", 0.0), digest("d", b"b", 0.0), digest("d", b"a", 1e-6), digest("d", b"aa", 0.0)}
    assert len({plain, *others}) == 5
    assert digest("d", b"a", 0.0, seed=2) == plain  # without chance, no seed matters
    assert digest("d", b"a", 0.0, 1, 0.01) != digest("d", b"a", 0.0, 2, 0.01)


# --- windows ---


@pytest.mark.parametrize(("first", "round_trips"), [({}, 2), ({"window_bytes_first": 1 << 20}, 0)])
def test_slow_start_takes_round_trips_unless_the_first_window_holds_everything(
    first: dict[str, int], round_trips: int
) -> None:
    world, client, server = pair(Path(0.1, **first))
    content = random.Random(1).randbytes(60_000)  # 10 packets, then 20, then the rest
    began_s = world.clock.now_s
    client.out.write(content)
    world.clock.run()
    assert server.data == content
    assert server.arrived[-1][0] - began_s == pytest.approx(0.1 + round_trips * 0.2, abs=0.001)


def test_a_tap_hears_the_data_that_arrives_and_of_which_flow() -> None:
    heard: list[tuple[str, bytes]] = []
    world, client, server = pair(Path(0.05))
    world.network.tap = lambda flow, data: heard.append((flow, data))
    client.out.write(b"ping")
    world.clock.run()
    server.out.write(b"pong")
    client.out.end()
    world.clock.run()
    assert heard == [("d>s#1 there", b"ping"), ("d>s#1 back", b"pong")]


def test_a_reader_that_pauses_stalls_the_writer_and_loses_nothing() -> None:
    world, client, server = pair(Path(0.02), up_bytes_per_s=1e6)
    server.into.pause()
    content = random.Random(1).randbytes(3_000_000)
    client.out.write(content)
    world.clock.run(world.clock.now_s + 100.0)
    assert server.arrived == []
    stuck = client.out.backlog_bytes
    assert stuck > 2_500_000  # little more than the window is on the other side
    server.into.resume()
    world.clock.run()
    assert server.data == content
    assert client.out.backlog_bytes == 0


def test_what_is_written_before_word_of_new_room_comes_does_not_overtake_what_waits() -> None:
    world, client, server = pair(Path(0.02), up_bytes_per_s=1e6)
    server.into.pause()
    client.out.write(b"a" * 500_000)
    world.clock.run(10.0)
    server.into.resume()
    client.out.write(b"b")
    world.clock.run()
    assert server.data == b"a" * 500_000 + b"b"


def test_a_message_is_cut_into_segments_that_occupy_the_wire_for_20_ms() -> None:
    world, client, server = pair(Path(0.02), up_bytes_per_s=1e5)
    client.out.write(bytes(9000))
    world.clock.run()
    assert [len(data) for _, data in server.arrived] == [2000, 2000, 2000, 2000, 1000]


def test_the_writers_kernel_takes_only_so_much() -> None:
    world, client, _ = pair(Path(0.02), up_bytes_per_s=1e5)
    client.out.write(bytes(50_000))
    assert client.out.backlog_bytes == 0
    client.out.write(bytes(1_000_000))
    before = client.out.backlog_bytes
    assert 800_000 < before < 1_000_000
    client.out.unsent_bytes_max = 0
    assert client.out.backlog_bytes > before
    seen = [client.out.backlog_bytes]
    for _ in range(100):
        world.clock.run(world.clock.now_s + 0.1)
        seen.append(client.out.backlog_bytes)
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 50  # it moves while the link does


def test_what_the_kernel_has_not_taken_can_be_dropped() -> None:
    world, client, server = pair(Path(0.02), up_bytes_per_s=1e5)
    content = random.Random(1).randbytes(1_000_000)
    for start in range(0, len(content), 30_000):
        client.out.write(content[start : start + 30_000])
    kept = len(content) - client.out.backlog_bytes
    client.out.drop_backlog()
    client.out.end()
    world.clock.run()
    assert server.data == content[:kept]
    assert server.ended_at_s is not None


def test_a_window_may_shrink_below_what_is_under_way() -> None:
    world, client, server = pair(Path(0.5), up_bytes_per_s=1e6)
    client.out.unsent_bytes_max = 0
    client.out.write(bytes(3_000_000))
    world.clock.run(world.clock.now_s + 6.0)
    for way in (("d", "s"), ("s", "d")):
        world.network.set_path(*way, Path(0.0))
    world.clock.run(world.clock.now_s + 0.02)
    client.out.drop_backlog()
    assert client.out.backlog_bytes >= 0
    client.out.end()
    world.clock.run()
    assert server.ended_at_s is not None
    assert 0 < len(server.data) < 3_000_000


# --- the world ---


def test_hosts_have_names_and_loopback_addresses_of_their_own() -> None:
    world = World()
    for number in range(600):
        world.network.add_host(f"d{number}")
    addresses = {world.network.address(f"d{number}") for number in range(600)}
    assert len(addresses) == 600
    assert all(address.startswith("127.") for address in addresses)
    assert world.network.host(world.network.address("d7")).name == "d7"
    with pytest.raises(socket.gaierror):
        world.network.host("elsewhere")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda network: network.add_host("d"),
        lambda network: network.add_host("*"),
        lambda network: network.add_host("e", 0.0),
        lambda network: network.add_host("f", None, -1.0),
        lambda network: network.partition("d", "x"),
        lambda _: Path(-0.1),
        lambda _: Path(0.1, -0.1),
        lambda _: Path(0.1, 0.0, 1.0),
        lambda _: Path(0.1, lifetime_s=0.0),
        lambda _: Path(float("nan")),
    ],
)
def test_impossible_worlds_are_refused(wrong: Callable[[SimulatedNetwork], object]) -> None:
    world = World()
    world.network.add_host("d")
    with pytest.raises(ValueError, match=r"host|must be"):
        wrong(world.network)


@given(st.floats(0.0, 1e4), st.floats(0.0, 1e4), st.floats(0.2, 10.0))
def test_retries_come_at_doubling_pauses_and_never_before_now(since_s: float, passed_s: float, first_s: float) -> None:
    now_s = since_s + passed_s
    at_s = retried_at_s(since_s, now_s, first_s)
    assert now_s <= at_s <= now_s + max(first_s, min(passed_s + first_s, 120.0)) * (1 + 1e-9)


def test_it_gives_up_after_a_quarter_of_an_hour_without_an_acknowledgement() -> None:
    world, client, server = pair(Path(0.05))
    world.network.partition("d")
    began_s = world.clock.now_s
    client.out.write(b"lost")
    world.clock.run(began_s + GIVE_UP_S - 1.0)
    assert client.error is None
    world.clock.run(began_s + GIVE_UP_S + 1.0)
    assert client.error is not None
    assert client.error.errno == errno.ETIMEDOUT
    world.network.heal()
    world.clock.run()
    assert server.data == b""
