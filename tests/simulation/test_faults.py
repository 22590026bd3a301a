"""What goes wrong on the network: partitions, stalls, resets, processes that die, hosts without power."""

import asyncio
import itertools
import random
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.simulation.path import Path, retried_at_s
from tests.simulation.model_world import Pipe, World, pair
from tests.simulation.test_connector import LATENCY_S, in_world
from tests.simulation.test_connector import World as HttpWorld

ROUND_TRIP_S = 0.1
TIMEOUT_S = ROUND_TRIP_S + 0.2


def close(*ends: Pipe) -> None:
    """Both processes are done with their connection; what they have sent is their kernels' business now."""
    for end in ends:
        end.out.end()
        end.into.leave()
        end.connection.end_left()


def test_what_is_sent_into_a_partition_arrives_with_the_first_repeat_after_it() -> None:
    world, client, server = pair(Path(0.05))
    world.clock.run(10.0)
    world.network.partition("d", "s")
    client.out.write(b"one ")
    world.clock.run(12.0)
    client.out.write(b"two")
    world.clock.run(60.0)
    assert server.arrived == []
    world.network.heal("d", "s")
    world.clock.run()
    assert server.data == b"one two"
    repeated_s = retried_at_s(10.0, 60.0, TIMEOUT_S)
    assert 60.0 < repeated_s < 120.0
    assert server.arrived[0][0] == pytest.approx(repeated_s + 0.05)


def test_what_is_on_its_way_when_the_partition_comes_is_lost_and_repeated() -> None:
    world, client, server = pair(Path(0.05))
    world.clock.run(10.0)
    client.out.write(b"on its way")
    world.clock.run(10.02)
    world.network.partition("s", "d")
    world.clock.run(20.0)
    assert server.arrived == []
    world.network.heal()
    world.clock.run()
    assert server.data == b"on its way"


def test_what_was_sent_later_waits_for_what_was_lost() -> None:
    """With a latency of ten seconds, a segment that left before a short partition meets its end still on its way."""
    world, client, server = pair(Path(10.0))
    world.clock.run(100.0)
    client.out.write(b"first ")
    world.clock.run(105.0)
    client.out.write(b"second")
    world.clock.run(109.9)
    world.network.partition("d")
    world.clock.run(110.1)
    world.network.heal()
    world.clock.run()
    assert server.data == b"first second"
    assert server.arrived[0][0] > 115.0


def test_one_way_lets_the_other_way_pass() -> None:
    world, client, server = pair(Path(0.05))
    world.clock.run(10.0)
    world.network.partition("d", "s", one_way=True)
    client.out.write(b"up")
    server.out.write(b"down")
    world.clock.run(11.0)
    assert server.data == b""
    assert client.data == b"down"
    world.network.heal("s")
    world.clock.run()
    assert server.data == b"up"


def test_a_writer_that_hears_no_acknowledgement_stops_when_its_window_is_full() -> None:
    world, client, server = pair(Path(0.05), up_bytes_per_s=1e6)
    content = random.Random(1).randbytes(2_000_000)
    client.out.write(content[:1])
    world.clock.run(10.0)
    world.network.partition("s", "d", one_way=True)  # the acknowledgements' way
    client.out.write(content[1:])
    world.clock.run(100.0)
    assert 1 < len(server.data) < 500_000
    stuck = client.out.backlog_bytes
    assert stuck > 1_000_000
    world.network.heal()
    world.clock.run()
    assert server.data == content
    assert client.out.backlog_bytes == 0


def test_a_stall_holds_everything_back_and_lets_it_go_at_once() -> None:
    world, client, server = pair(Path(0.05))
    world.network.partition("d")  # once it is over it has no part in what comes
    world.network.heal()
    world.clock.run(10.0)
    world.network.stall("d")
    client.out.write(b"up")
    server.out.write(b"down")
    world.clock.run(300.0)
    assert (server.data, client.data) == (b"", b"")
    world.network.heal("d")
    world.clock.run()
    assert (server.data, client.data) == (b"up", b"down")
    assert server.arrived[0][0] == pytest.approx(300.05)
    assert client.arrived[0][0] == pytest.approx(300.05)


def test_acknowledgements_that_were_stalled_come_at_once() -> None:
    world, client, server = pair(Path(0.05))
    world.clock.run(10.0)
    world.network.stall("s", "d", one_way=True)
    client.out.write(bytes(1_000_000))
    world.clock.run(600.0)
    assert len(server.data) < 100_000
    world.network.heal()
    world.clock.run()
    assert len(server.data) == 1_000_000
    assert server.arrived[-1][0] < 602.0


def test_a_reader_that_goes_on_reading_behind_a_partition_is_heard_of_afterwards() -> None:
    world, client, server = pair(Path(0.05), up_bytes_per_s=1e6)
    server.into.pause()
    client.out.write(bytes(1_000_000))
    world.clock.run(100.0)
    world.network.partition("s", "d", one_way=True)
    server.into.resume()
    world.clock.run(110.0)
    assert 0 < len(server.data) < 1_000_000
    world.network.heal()
    world.clock.run()
    assert len(server.data) == 1_000_000
    assert 110.0 < server.arrived[-1][0] < 240.0


def test_only_the_named_hosts_are_apart() -> None:
    world = World(Path(0.01))
    for name in ("a", "b", "c", "d"):
        world.network.add_host(name)
        world.listen(name)
    ends = {pair: world.joined(*pair) for pair in itertools.combinations("abcd", 2)}
    apart = [(one, other) for one in "ab" for other in "cd"]
    world.network.partition(["a", "b"], ["c", "d"])

    def reached() -> set[tuple[str, str]]:
        for near, _ in ends.values():
            near.out.write(b"x")
        before = {pair: len(far.data) for pair, (_, far) in ends.items()}
        world.clock.run(world.clock.now_s + 1.0)
        return {pair for pair, (_, far) in ends.items() if len(far.data) > before[pair]}

    assert reached() == set(ends) - set(apart)
    world.network.heal("a", "c")
    assert reached() == set(ends) - set(apart) | {("a", "c")}
    world.network.heal("b")
    world.clock.run(world.clock.now_s + 100.0)
    assert reached() == set(ends) - {("a", "d")}
    world.network.heal()
    world.clock.run(world.clock.now_s + 200.0)
    assert reached() == set(ends)
    assert all(len(far.data) == 4 for _, far in ends.values())


def test_a_reset_tells_both_ends_and_nothing_arrives_after_it() -> None:
    world, client, server = pair(Path(0.05))
    other, other_far = world.joined("d", "s")
    client.out.write(b"too late")
    world.network.reset("d", "s")
    world.clock.run()
    for end in (client, server, other, other_far):
        assert isinstance(end.error, ConnectionResetError)
        assert end.data == b""
    assert not world.network.host("d").connections


def test_connections_live_as_long_as_the_path_lets_them() -> None:
    world = World(Path(0.01, lifetime_s=100.0))
    world.network.add_host("d")
    world.network.add_host("s")
    world.listen("s")
    lives: list[float] = []
    for _ in range(400):
        began_s = world.clock.now_s
        client, server = world.joined("d", "s")
        world.clock.run()
        assert isinstance(client.error, ConnectionResetError)
        assert isinstance(server.error, ConnectionResetError)
        lives.append(world.clock.now_s - began_s)
    assert sum(lives) / len(lives) == pytest.approx(100.0, rel=0.15)
    assert min(lives) < 3.0


def test_a_killed_process_resets_its_connections_and_its_port_refuses() -> None:
    world, client, server = pair(Path(0.05))
    world.clock.run(10.0)
    server.out.write(b"last words ")
    world.network.kill("s")
    server.out.write(b"never said")
    world.clock.run()
    assert client.data == b"last words "
    assert isinstance(client.error, ConnectionResetError)
    assert world.clock.now_s == pytest.approx(10.05)
    assert server.error is not None
    world.dial("d", "s")
    world.clock.run()
    assert isinstance(world.failed[0][1], ConnectionRefusedError)
    world.listen("s")
    world.joined("d", "s")


def test_a_process_killed_behind_a_partition_is_found_dead_by_who_writes_to_it() -> None:
    world, client, server = pair(Path(0.05))
    world.network.partition("s")
    world.network.kill("s")
    world.clock.run(50.0)
    world.network.heal()
    world.clock.run(100.0)
    assert client.error is None  # nobody told it, and it did not ask
    client.out.write(b"hello?")
    world.clock.run()
    assert isinstance(client.error, ConnectionResetError)
    assert server.data == b""


def test_a_host_without_power_is_silent_and_resets_the_connections_of_its_past_when_it_is_back() -> None:
    world, client, server = pair(Path(0.05))
    idle, _ = world.joined("d", "s")
    world.clock.run(10.0)
    world.network.power_off("s")
    client.out.write(b"hello?")
    world.clock.run(70.0)
    assert client.error is None
    assert server.error is not None  # what ran there is gone
    world.network.power_on("s")
    world.clock.run(200.0)
    assert isinstance(client.error, ConnectionResetError)
    assert idle.error is None
    world.network.partition("d")
    world.network.power_off("s")
    world.network.power_on("s")
    world.dial("d", "s")
    world.clock.run(201.0)
    assert world.failed == []  # the partition lasts
    world.network.heal()
    world.listen("s")
    world.joined("d", "s")


@pytest.mark.parametrize("power_back_s", [12.0, 70.0])
@pytest.mark.parametrize("heals_s", [11.0, 40.0])
def test_what_the_kernel_repeats_of_a_closed_connection_is_lost_with_the_power(
    heals_s: float, power_back_s: float
) -> None:
    """It may wait for the way to open, or, when that is open again, for TCP's next repeat."""
    world, client, server = pair(Path(0.05))
    world.network.partition("s", "d", one_way=True)
    server.out.write(b"answer")
    close(client, server)
    world.clock.call_at(heals_s, world.network.heal)
    world.clock.call_at(11.5, world.network.power_off, "s")
    world.clock.call_at(power_back_s, world.network.power_on, "s")
    world.clock.run(10.0)
    arrived = world.network.arrivals
    world.clock.run()
    assert world.network.arrivals == arrived


def test_what_waits_for_the_window_of_a_closed_connection_is_lost_with_the_power() -> None:
    world, client, server = pair(Path(0.05))
    heard = bytearray()
    world.network.tap = lambda _, data: heard.extend(data)
    world.clock.run(10.0)
    server.out.write(bytes(60_000))
    close(client, server)
    world.network.power_off("s")
    world.network.power_on("s")
    world.clock.run()
    assert len(heard) == 10 * 1448, "what was on its way, and nothing behind it"


def test_a_killed_process_leaves_its_closed_connections_to_the_kernel() -> None:
    world, client, server = pair(Path(0.05))
    heard = bytearray()
    world.network.tap = lambda _, data: heard.extend(data)
    world.network.partition("s", "d", one_way=True)
    server.out.write(b"answer")
    close(client, server)
    world.network.kill("s")
    world.network.heal()
    world.clock.run()
    assert heard == b"answer"


def test_a_connection_that_comes_when_its_server_has_just_died_is_reset() -> None:
    world = World(Path(0.05))
    world.network.add_host("d")
    world.network.add_host("s")
    world.listen("s")
    made = world.dial("d", "s")
    world.clock.run(0.12)  # established, and the server has not heard of it
    world.network.kill("s")
    made[0].out.write(b"hello?")
    world.listen("s")  # the next process knows nothing of it either
    world.clock.run()
    assert isinstance(made[0].error, ConnectionResetError)
    assert world.accepted == []
    made[0].connection.end_left()
    assert not world.network.host("d").connections


faults = st.lists(
    st.tuples(
        st.floats(0.0, 20.0),
        st.sampled_from(["partition", "stall", "heal", "partition one way", "back one way", "write", "answer"]),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(faults, st.builds(Path, st.floats(0.0, 5.0), st.floats(0.0, 0.5), st.floats(0.0, 0.3)), st.integers(0, 9))
def test_whatever_happens_on_the_way_a_living_connection_delivers_everything_in_order_in_the_end(
    plan: list[tuple[float, str]], path: Path, seed: int
) -> None:
    world, client, server = pair(path, seed, up_bytes_per_s=1e5)
    rng = random.Random(seed)
    sent = {client: b"", server: b""}
    for pause_s, what in plan:
        world.clock.run(world.clock.now_s + pause_s)
        match what:
            case "partition":
                world.network.partition("d", "s")
            case "stall":
                world.network.stall("d", "s")
            case "partition one way":
                world.network.partition("d", "s", one_way=True)
            case "back one way":
                world.network.partition("s", "d", one_way=True)
            case "heal":
                world.network.heal("d", "s")
            case _:
                end = client if what == "write" else server
                data = rng.randbytes(rng.choice((1, 1000, 200_000)))
                sent[end] += data
                end.out.write(data)
        assert sent[client].startswith(server.data)
        assert sent[server].startswith(client.data)
    world.network.heal()
    client.out.end()
    server.out.end()
    world.clock.run()
    assert (server.data, client.data) == (sent[client], sent[server])
    assert (server.error, client.error) == (None, None)
    assert server.ended_at_s is not None
    assert client.ended_at_s is not None


# --- as aiohttp's users see it ---


def test_a_client_of_a_cut_off_server_times_out_connecting() -> None:
    async def program(world: HttpWorld) -> None:
        world.network.partition("eu")
        async with world.session(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0)) as session:
            with pytest.raises(aiohttp.ConnectionTimeoutError):
                await session.get("/hello")
            assert world.now_s == pytest.approx(5.0)
            world.network.heal()
            async with session.get("/hello") as response:
                assert response.status == 200
            async with asyncio.timeout(200.0):
                world.network.power_off("eu")
                with pytest.raises(aiohttp.ClientConnectorError) as caught:
                    await session.get("http://eu:8471/hello", timeout=aiohttp.ClientTimeout(total=None))
            assert isinstance(caught.value.os_error, TimeoutError)

    in_world(program)


def test_a_stream_outlives_a_partition_and_ends_when_its_server_is_killed() -> None:
    async def program(world: HttpWorld) -> None:
        async with world.session() as session, session.ws_connect("/stream") as stream:
            world.network.partition("d1", "eu")
            await stream.send_bytes(b"hello")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30.0):
                    await stream.receive_bytes()
            world.network.heal()
            assert await stream.receive_bytes() == b"hello"
            world.network.kill("eu")
            message = await stream.receive()
            assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
            with pytest.raises(aiohttp.ClientConnectionResetError):
                await stream.send_bytes(b"anybody there?")
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("/hello")

    in_world(program)


def test_a_server_without_power_leaves_its_clients_waiting_until_they_write_to_it_again() -> None:
    async def program(world: HttpWorld) -> None:
        async with world.session() as session, session.ws_connect("/stream") as stream:
            world.network.power_off("eu")
            receiving = asyncio.create_task(stream.receive())
            await asyncio.sleep(600.0)
            assert not receiving.done()
            world.network.power_on("eu")
            await asyncio.sleep(600.0)
            assert not receiving.done()
            began_s = world.now_s
            await stream.send_bytes(b"anybody there?")
            message = await receiving
            assert message.type is not aiohttp.WSMsgType.BINARY
            assert world.now_s - began_s == pytest.approx(2 * LATENCY_S, abs=0.01)

    in_world(program)


def test_a_request_that_is_under_way_fails_with_a_reset() -> None:
    async def program(world: HttpWorld) -> None:
        async def kill() -> None:
            await asyncio.sleep(10.0)
            world.network.reset("eu")

        async with world.session() as session, asyncio.TaskGroup() as tasks:
            tasks.create_task(kill())
            with pytest.raises(aiohttp.ClientOSError, match="reset by peer"):
                await session.post("/slow")
            assert world.now_s == pytest.approx(10.0)

    in_world(program)


def test_a_stopped_client_ends_its_attempts_to_connect() -> None:
    async def program(world: HttpWorld) -> int:
        async def ask(session: aiohttp.ClientSession) -> Any:
            async with session.get("/hello") as response:
                return response.status

        async with world.session() as session:
            for cancelled_after_s in (0.05, 2 * LATENCY_S, 0.12):  # of which the connection needs one round trip
                task = asyncio.create_task(ask(session))
                await asyncio.sleep(cancelled_after_s)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                if cancelled_after_s < 2 * LATENCY_S:
                    await asyncio.sleep(10.0)
                    assert world.network.arrivals == 0  # the server never heard of it
            task = asyncio.create_task(ask(session))
            world.loop.call_later(LATENCY_S, lambda task=task: world.loop.call_later(LATENCY_S, task.cancel))  # type: ignore[misc]
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(10.0)
            return len(world.network.host("d1").connections)

    assert in_world(program) == 0
