"""Connecting takes its round trips, its retries and its refusals; connections end when they should."""

import errno

import pytest

from testbed.simulation.path import Path
from tests.simulation.model_world import PORT, World, pair


def _two_hosts(path: Path) -> World:
    """Return a world of a device, `d`, and a server, `s`, that nobody listens on yet."""
    world = World(path)
    world.network.add_host("d")
    world.network.add_host("s")
    return world


def test_connecting_takes_a_round_trip_and_the_server_hears_half_a_round_trip_later() -> None:
    world = _two_hosts(Path(0.1))
    world.listen("s")
    times: list[float] = []
    world.dial("d", "s", lambda _: times.append(world.clock.now_s))
    world.clock.run()
    assert times == [pytest.approx(0.2)]
    assert world.accepted[0][0] == pytest.approx(0.3)


def test_further_round_trips_can_be_asked_for() -> None:
    world = _two_hosts(Path(0.1))
    world.listen("s")
    times: list[float] = []
    world.network.connect("d", "s", PORT, lambda _: times.append(world.clock.now_s), world.failed.append, 3)  # type: ignore[arg-type]
    world.clock.run()
    assert times == [pytest.approx(0.6)]


def test_a_closed_port_refuses_and_a_host_that_is_off_says_nothing_for_two_minutes() -> None:
    world = _two_hosts(Path(0.1))
    world.dial("d", "s")
    world.clock.run()
    (at_s, error) = world.failed.pop()
    assert at_s == pytest.approx(0.2)
    assert error.errno == errno.ECONNREFUSED
    world.network.power_off("s")
    world.dial("d", "s")
    world.clock.run()
    (ended_s, error) = world.failed.pop()
    assert ended_s - at_s == pytest.approx(127.0)
    assert error.errno == errno.ETIMEDOUT


def test_connecting_succeeds_with_the_next_retry_after_a_partition() -> None:
    world = _two_hosts(Path(0.1))
    world.listen("s")
    world.network.partition("d")
    times: list[float] = []
    world.dial("d", "s", lambda _: times.append(world.clock.now_s))
    world.clock.run(5.0)
    world.network.heal()
    world.clock.run()
    assert times == [pytest.approx(7.0 + 0.2)]  # tried at 0, 1, 3, 7 s


def test_lost_first_packets_are_repeated_after_1_2_and_4_seconds() -> None:
    took: list[float] = []
    world = _two_hosts(Path(0.1, loss_share=0.4))
    world.listen("s")
    for _ in range(300):
        began_s = world.clock.now_s
        world.dial("d", "s", lambda _, began_s=began_s: took.append(round(world.clock.now_s - began_s - 0.2, 6)))  # type: ignore[misc]
        world.clock.run(began_s + 200.0)
    assert set(took) <= {2.0**tries - 1.0 for tries in range(7)}
    assert took.count(0.0) / 300 == pytest.approx(0.36, abs=0.08)  # both packets came
    assert {0.0, 1.0, 3.0} <= set(took)


def test_a_first_packet_that_meets_a_partition_on_its_way_is_repeated_on_time() -> None:
    world = _two_hosts(Path(0.1))
    world.listen("s")
    times: list[float] = []
    world.dial("d", "s", lambda _: times.append(world.clock.now_s))
    world.clock.run(0.05)
    world.network.partition("s")
    world.clock.run(0.5)
    world.network.heal()
    world.clock.run()
    assert times == [pytest.approx(1.0 + 0.2)]


def test_a_connection_that_comes_when_its_server_has_just_stopped_to_listen_is_reset() -> None:
    world = _two_hosts(Path(0.1))
    world.listen("s")
    made = world.dial("d", "s")
    world.clock.run(0.25)
    world.network.host("s").listeners[PORT].close()
    world.clock.run()
    assert isinstance(made[0].error, ConnectionResetError)
    made[0].connection.end_left()
    assert not world.network.host("s").connections


def test_a_connection_that_has_ended_is_not_reset_any_more() -> None:
    world = _two_hosts(Path(0.1, lifetime_s=1e6))
    world.listen("s")
    client, _ = world.joined("d", "s")
    client.connection.end_left()
    client.connection.end_left()
    world.clock.run()
    assert world.clock.now_s < 10.0
    assert not world.network.host("d").connections


def test_a_path_can_change_under_a_connection() -> None:
    world, client, server = pair(Path(0.1))
    world.network.set_path("s", "d", Path(0.9))
    world.network.set_path("d", "s", Path(0.3))
    world.clock.run(10.0)
    client.out.write(b"x")
    world.clock.run()
    assert server.arrived[-1][0] == pytest.approx(10.3)
    world.clock.run(20.0)
    world.network.partition("d")
    client.out.write(b"y")
    world.clock.run(21.0)
    world.network.heal()
    world.clock.run()
    assert server.arrived[-1][0] == pytest.approx(20.0 + (0.3 + 0.9 + 0.2) + 0.3)  # the new round trip's time-out


def test_an_attempt_can_be_cancelled() -> None:
    world = _two_hosts(Path(0.1))
    world.listen("s")
    attempt = world.network.connect("d", "s", PORT, pytest.fail, pytest.fail)  # type: ignore[arg-type]
    world.clock.run(0.15)
    attempt.cancel()
    world.clock.run()
    assert world.accepted == []
