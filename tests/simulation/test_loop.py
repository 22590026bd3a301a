"""Virtual time passes only when nothing is left to do, and nothing real gets in."""

import asyncio
import gc
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from testbed.simulation import loop as loop_module
from testbed.simulation.loop import (
    CANCELLED_TIMERS_MIN,
    DeadlockError,
    LivelockError,
    RealWorldError,
    VirtualLoop,
    run,
)


def test_time_jumps_to_the_next_timer() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        seen = [loop.time()]
        await asyncio.sleep(0)
        seen.append(loop.time())
        await asyncio.sleep(86_400.25)
        seen.append(loop.time())
        return seen

    began_s = time.perf_counter()
    assert run(main(), seed=1) == [0.0, 0.0, 86_400.25]
    assert time.perf_counter() - began_s < 5.0


def test_no_time_passes_while_something_is_ready() -> None:
    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run(main(), seed=1) == 0.0


def test_timers_fire_in_order_and_those_of_one_time_in_the_order_in_which_they_were_set() -> None:
    async def main() -> tuple[list[int], list[float]]:
        loop = asyncio.get_running_loop()
        fired: list[int] = []
        times: list[float] = []

        def fire(number: int) -> None:
            fired.append(number)
            times.append(loop.time())

        for number in range(50):
            loop.call_at(2.0 - number % 2, fire, number)
        loop.call_at(1.0 + 1e-12, fire, 99)
        await asyncio.sleep(3.0)
        return fired, times

    fired, times = run(main(), seed=1)
    assert fired == [*range(1, 50, 2), 99, *range(0, 50, 2)]
    assert times == [1.0] * 25 + [1.0 + 1e-12] + [2.0] * 25  # never before it is due, not by a picosecond


def test_a_timer_in_the_past_fires_at_once_and_time_never_goes_back() -> None:
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(5.0)
        fired = loop.create_future()
        loop.call_at(1.0, lambda: fired.set_result(loop.time()))
        return await fired, loop.time()

    assert run(main(), seed=1) == (5.0, 5.0)


def test_cancelled_timers_neither_fire_nor_pile_up() -> None:
    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        fired: list[None] = []
        for _ in range(50):
            for handle in [loop.call_later(1000.0, fired.append, None) for _ in range(CANCELLED_TIMERS_MIN)]:
                handle.cancel()
        held = len(loop._timers)
        loop.call_later(1.0, fired.append, None).cancel()
        await asyncio.sleep(2000.0)
        return held, len(fired)

    held, fired = run(main(), seed=1)
    assert held <= 2 * CANCELLED_TIMERS_MIN
    assert fired == 0


def test_timers_that_have_fired_do_not_count_as_cancelled() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        for _ in range(CANCELLED_TIMERS_MIN - 1):
            await asyncio.sleep(1.0)
            loop.call_later(10.0, int).cancel()
        await asyncio.sleep(100.0)
        return loop._timers_cancelled

    assert run(main(), seed=1) == 0


def test_what_a_callback_raises_is_told_and_the_others_are_called() -> None:
    class ToldError(Exception):
        pass

    async def main() -> tuple[list[dict[str, Any]], asyncio.Handle]:
        loop = asyncio.get_running_loop()
        told: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: told.append(context))
        after = asyncio.Event()

        def fail() -> None:
            raise ToldError

        handle = loop.call_soon(fail)
        loop.call_soon(after.set)
        await after.wait()
        return told, handle

    told, handle = run(main(), seed=1)
    assert [type(one["exception"]) for one in told] == [ToldError]
    assert told[0]["handle"] is handle
    assert "fail" in told[0]["message"]


def test_an_exit_from_a_callback_ends_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.sleep(1.0)

    with pytest.raises(SystemExit) as ended:
        run(main(), seed=1)
    assert ended.value.code == 3


def test_a_deadlock_names_what_waits() -> None:
    async def main() -> None:
        async def starving() -> None:
            await asyncio.Event().wait()

        await asyncio.sleep(3.0)
        await asyncio.create_task(starving(), name="device 7")

    with pytest.raises(DeadlockError) as caught:
        run(main(), seed=1)
    assert "at 3.000000 s" in str(caught.value)
    assert "device 7 in" in str(caught.value)
    assert f"starving ({__file__}:" in str(caught.value)


def test_a_livelock_is_told_from_much_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "TURNS_MAX", 1000)

    async def main(rest_s: float) -> float:
        loop = asyncio.get_running_loop()
        for _ in range(10):
            for _ in range(900):
                await asyncio.sleep(0)
            await asyncio.sleep(rest_s)
        return loop.time()

    assert run(main(0.5), seed=1) == 5.0
    with pytest.raises(
        LivelockError, match=r"livelock at 0\.000000 s: time does not pass; ready are: <_Handle .*; tasks"
    ):
        run(main(0.0), seed=1)


def test_a_timer_that_does_not_move_the_clock_is_a_livelock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "TURNS_MAX", 1000)

    async def main() -> None:
        await asyncio.sleep(100.0)
        while asyncio.get_running_loop().time() < 100.1:  # noqa: ASYNC110 - as it is done by mistake
            await asyncio.sleep(1e-16)

    with pytest.raises(LivelockError, match=r"livelock at 100\.000000 s"):
        run(main(), seed=1)


def test_to_sleep_for_ever_is_to_wait_for_nothing() -> None:
    with pytest.raises(DeadlockError, match=r"at 0\.000000 s"):
        run(asyncio.sleep(float("inf")), seed=1)


async def _subprocess() -> None:
    await asyncio.create_subprocess_exec("true")


async def _shell() -> None:
    await asyncio.create_subprocess_shell("true")


async def _thread() -> None:
    await asyncio.to_thread(int)


async def _executor() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as threads:
        await asyncio.get_running_loop().run_in_executor(threads, int)


async def _connection() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _server() -> None:
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


async def _name() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def _socket() -> None:
    with socket.socket() as real:
        await asyncio.get_running_loop().sock_connect(real, ("127.0.0.1", 9))


async def _reader() -> None:
    with socket.socket() as real:
        asyncio.get_running_loop().add_reader(real, int)


async def _signal() -> None:
    asyncio.get_running_loop().add_signal_handler(10, int)


@pytest.mark.parametrize(
    "ask", [_subprocess, _shell, _thread, _executor, _connection, _server, _name, _socket, _reader, _signal]
)
def test_nothing_real_is_let_in(ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with pytest.raises(RealWorldError, match=r"simulated|real"):
        run(ask(), seed=1)


def test_another_thread_may_not_reach_in() -> None:
    async def main() -> Exception | None:
        loop, caught = asyncio.get_running_loop(), []

        def reach_in() -> None:
            try:
                loop.call_soon_threadsafe(int)
            except RealWorldError as error:
                caught.append(error)

        thread = threading.Thread(target=reach_in, name="stray")
        thread.start()
        thread.join()
        return caught[0] if caught else None

    assert "from thread stray" in str(run(main(), seed=1))


def test_what_stands_for_threads_can_be_handed_in() -> None:
    async def in_thread(work: Callable[[], Any]) -> Any:
        await asyncio.sleep(0.5)
        return work()

    async def main() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.in_thread = in_thread
        return await loop.run_in_executor(None, pow, 2, 10), loop.time()

    assert run(main(), seed=1) == (1024, 0.5)


def test_the_random_sources_of_the_process_follow_the_seed_and_come_back() -> None:
    async def main() -> tuple[object, ...]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(10.0)
        drawn = random.random(), os.urandom(8), secrets.token_hex(4), uuid.uuid4(), random.SystemRandom().random()
        return *drawn, time.time() - 1_767_225_600.0, time.monotonic(), loop.time()

    state, wall_s = random.getstate(), time.time()
    first, again, other = run(main(), seed=5), run(main(), seed=5), run(main(), seed=6)
    assert first == again
    assert all(one != two for one, two in zip(first[:5], other[:5], strict=True))
    assert first[5:] == (10.0, 10.0, 10.0)
    assert random.getstate() == state
    assert 0.0 <= time.time() - wall_s < 60.0
    assert os.urandom(16) != os.urandom(16)
    assert os.urandom.__module__ == "posix"


def test_garbage_is_collected_more_rarely_meanwhile() -> None:
    async def main() -> tuple[int, int, int]:
        return gc.get_threshold()

    usual = gc.get_threshold()
    gc.set_threshold(700, 11, 12)
    try:
        assert run(main(), seed=1) == (10_000, 11, 12)
        assert gc.get_threshold() == (700, 11, 12)
    finally:
        gc.set_threshold(*usual)


def test_a_world_that_is_over_is_garbage() -> None:
    class Thing:
        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()
            self.loop.set_exception_handler(lambda loop, context: self.loop.stop())  # as a world does, which it names

    async def main() -> weakref.ref[Thing]:
        return weakref.ref(Thing())

    thing = run(main(), seed=1)
    gc.collect()
    assert thing() is None


def test_the_random_sources_come_back_after_a_failure() -> None:
    async def main() -> None:
        raise ZeroDivisionError

    state = random.getstate()
    with pytest.raises(ZeroDivisionError):
        run(main(), seed=5)
    assert random.getstate() == state
    assert os.urandom.__module__ == "posix"


def test_tasks_that_are_left_behind_are_cancelled_in_the_order_in_which_they_began() -> None:
    async def main(ended: list[int]) -> None:
        async def work(number: int) -> None:
            try:
                await asyncio.sleep(1e9)
            finally:
                ended.append(number)

        for number in range(200):
            asyncio.get_running_loop().create_task(work(number)).add_done_callback(kept.discard)
        await asyncio.sleep(1.0)

    kept: set[object] = set()
    ended: list[int] = []
    run(main(ended), seed=1)
    assert ended == list(range(200))


ORDER = """
import asyncio
from testbed.simulation.loop import run

async def main():
    order = []
    async def work(number):
        try:
            await asyncio.sleep(1e9)
        finally:
            order.append(number)
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(work(number))
            await asyncio.sleep(1)
            raise KeyError
    except* KeyError:
        pass
    done, _ = await asyncio.wait([asyncio.create_task(asyncio.sleep(0, number)) for number in range(100)])
    return order, [task.result() for task in done], asyncio.current_task().get_name()

print(run(main(), seed=1))
"""


GARBAGE = """
import asyncio
from testbed.simulation.loop import run

class Leaked:
    def __init__(self):
        self.itself, self.loop = self, asyncio.get_running_loop()
    def __del__(self):
        collected.append(self.loop.time())

collected = []

async def main():
    kept, dropped = [], []
    for number in range(10_000):
        if number % 100 == 0:
            dropped.append(Leaked())
        if number == 3000:
            dropped.clear()  # old by now: left to a collection of everything, which comes when much has grown
        kept.append([[number] for _ in range(20)])
        await asyncio.sleep(1)
    return list(collected)

print(run(main(), seed=1))
"""


@pytest.mark.parametrize("program", [ORDER, GARBAGE], ids=["sets of tasks", "collected garbage"])
def test_neither_addresses_nor_what_came_before_decide_about_order(program: str) -> None:
    """The standard library keeps tasks in sets, which go by address as a rule; finalizers may close connections."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", f"junk = [[] for _ in range({junk})]\n{program}"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": str(junk)},
        ).stdout
        for junk in (1, 12_345, 2_000_000)
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 100
