"""An event loop whose time is virtual, and the way to run a world on it.

Nothing in it waits: when nothing is ready, its clock jumps to the next timer. Nothing real is let in either: no socket,
no thread, no process; what runs on it depends on its seed alone.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from concurrent.futures import Executor
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from typing import Any, NoReturn, TypeVar, TypeVarTuple

from testbed.simulation.ambient import collecting_anew, seeded

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]

WAITING_MAX = 12  # tasks that the message of a deadlock names
TURNS_MAX = 1_000_000  # at one time: whatever takes more goes round in circles
CANCELLED_TIMERS_MIN = 256  # and more than half of all: then they are thrown out


class RealWorldError(NotImplementedError):
    """Code that runs in virtual time asked for something real."""


class DeadlockError(RuntimeError):
    """Everything waits and nothing will ever wake it."""


class LivelockError(RuntimeError):
    """Something is always ready, and time never passes."""


class VirtualTask(asyncio.Task[T]):
    """A task whose hash is its number, so that sets of tasks have the same order in every process.

    The standard library cancels the tasks of a group in the order of a set.
    """

    __slots__ = ("_number",)

    def __init__(
        self, coroutine: Generator[Any, None, T] | Coroutine[Any, Any, T], loop: "VirtualLoop", number: int, **more: Any
    ) -> None:
        self._number = number  # first: the base class puts the new task into a set
        super().__init__(coroutine, loop=loop, **more)

    def __hash__(self) -> int:
        return self._number


class _Handle(asyncio.Handle):
    """A handle that knows no debug mode: most of what one costs is asking for it. The loop fills it in."""

    __slots__ = ()

    _args: Sequence[Any]
    _callback: Callable[..., object]
    _context: Context
    _loop: "VirtualLoop"
    _repr = _source_traceback = None

    def cancel(self) -> None:
        """Do not call it."""
        self._cancelled = True
        self._callback, self._args = _nothing, ()


class _TimerHandle(asyncio.TimerHandle):
    """The same, of a timer; it tells the loop where it is cancelled before its time."""

    __slots__ = ()

    _args: Sequence[Any]
    _callback: Callable[..., object]
    _context: Context
    _loop: "VirtualLoop"
    _repr = _source_traceback = None
    _scheduled: bool
    _when: float

    def cancel(self) -> None:
        """Do not call it."""
        if not self._cancelled:
            self._cancelled = True
            self._callback, self._args = _nothing, ()
            if self._scheduled:  # else it is about to be called: `sleep` cancels its timer at the end
                self._loop.timer_cancelled()


_new_handle = object.__new__


def _nothing() -> None:
    """Stand in for what was cancelled."""


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module."""

    _ready: deque["_Handle | _TimerHandle"]
    _closed: bool
    _stopping: bool
    _thread_id: int | None
    _check_closed: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.task_made: Callable[[asyncio.Task[Any]], None] | None = None  # told of every task in its maker's context
        self.callback_run: Callable[[Context], None] | None = None  # told of every callback behind it: in which context
        self.in_thread: InThread | None = None  # what stands for the default executor; None: threads are refused
        self._now_s = 0.0
        self._timers: list[tuple[float, int, _TimerHandle]] = []  # a heap: due at, number, what
        self._timers_made = 0
        self._timers_cancelled = 0
        self._tasks_made = 0

    # --- time ---

    def time(self) -> float:
        """Return the virtual time in seconds; a new loop's is 0."""
        return self._now_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call in the next turn, behind what is to be called then already."""
        if self._closed:
            self._check_closed()
        handle = _new_handle(_Handle)
        handle._context = copy_context() if context is None else context
        handle._callback, handle._args, handle._loop, handle._cancelled = callback, args, self, False
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call at virtual time `when`; what is due at the same time is called in the order of these calls."""
        if self._closed:
            self._check_closed()
        handle = _new_handle(_TimerHandle)
        handle._context = copy_context() if context is None else context
        handle._callback, handle._args, handle._loop, handle._cancelled = callback, args, self, False
        handle._when, handle._scheduled = when, True  # the latter: it tells the loop when it is cancelled
        self._timers_made += 1
        heappush(self._timers, (when, self._timers_made, handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call after `delay` virtual seconds."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def timer_cancelled(self) -> None:
        """One of the timers that are set was cancelled."""
        self._timers_cancelled += 1
        if self._timers_cancelled >= CANCELLED_TIMERS_MIN and 2 * self._timers_cancelled > len(self._timers):
            self._timers = [timer for timer in self._timers if not timer[2]._cancelled]
            heapify(self._timers)
            self._timers_cancelled = 0

    def _run_once(self) -> None:
        """Run what is ready, turn after turn, until the loop is stopped; if nothing is, let time pass."""
        ready = self._ready
        next_handle = ready.popleft
        turns = 0  # since time has passed
        while True:
            turns += 1
            if not ready and not self._stopping and self._jump():
                turns = 0
            timers, now_s = self._timers, self._now_s
            while timers and timers[0][0] <= now_s:
                timer = heappop(timers)[2]
                timer._scheduled = False
                if timer._cancelled:
                    self._timers_cancelled -= 1
                else:
                    ready.append(timer)
            if turns > TURNS_MAX:
                told = "; ".join(map(str, list(ready)[:WAITING_MAX]))
                raise LivelockError(
                    f"livelock at {self._now_s:.6f} s: time does not pass; ready are: {told}; {self._waiting()}"
                )
            for _ in range(len(ready)):
                handle = next_handle()
                if handle._cancelled:
                    continue
                try:  # as `Handle._run` does, without a call of it
                    handle._context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self._failed(handle, error)
                if self.callback_run is not None:
                    self.callback_run(handle._context)
            if self._stopping:
                return

    def _failed(self, handle: asyncio.Handle, error: BaseException) -> None:
        """Tell what a callback raised."""
        told = {"message": f"Exception in callback {handle!r}", "exception": error, "handle": handle}
        self.call_exception_handler(told)

    def _jump(self) -> bool:
        """Let time pass until the next timer; return whether any has passed."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
            self._timers_cancelled -= 1
        if not timers or timers[0][0] == math.inf:
            raise DeadlockError(f"deadlock at {self._now_s:.6f} s: nothing is scheduled; {self._waiting()}")
        passes = timers[0][0] > self._now_s
        if passes:
            self._now_s = timers[0][0]
        return passes

    def _waiting(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=hash)
        told = "; ".join(_where(task) for task in tasks[:WAITING_MAX])
        more = f"; and {len(tasks) - WAITING_MAX} more" if len(tasks) > WAITING_MAX else ""
        return f"tasks that wait: {told or 'none'}{more}"

    # --- tasks ---

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Start a task; its name, where none is given, counts this loop's tasks."""
        self._check_closed()
        self._tasks_made += 1
        number = self._tasks_made
        task = VirtualTask(coro, self, number, name=f"Task-{number}" if name is None else name, context=context)
        if self.task_made is not None:
            self.task_made(task)
        return task

    # --- nothing real ---

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Call soon; only from the loop's own thread.

        Raises:
            RealWorldError: another thread called: when it does so is not for a seed to say.
        """
        if self._thread_id not in {None, threading.get_ident()}:
            raise RealWorldError(
                f"call_soon_threadsafe({callback!r}) from thread {threading.current_thread().name}: a real thread has "
                "no place in virtual time; hand the service a simulated one (`run_in_thread`)"
            )
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run `func` as `in_thread` says, which stands for the default executor.

        Raises:
            RealWorldError: a real executor was given, or nothing stands for the default one.
        """
        if executor is not None or self.in_thread is None:
            raise RealWorldError(
                f"run_in_executor({func!r}): a real thread has no place in virtual time; hand the service a simulated "
                "one (`run_in_thread`), or set the loop's `in_thread`"
            )
        return asyncio.ensure_future(self.in_thread(lambda: func(*args)), loop=self)


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(_self: VirtualLoop, *args: Any, **more: Any) -> NoReturn:
        what = ", ".join([*(repr(arg) for arg in args), *(f"{key}={value!r}" for key, value in more.items())])
        raise RealWorldError(
            f"{name}({what}): nothing real has a place in virtual time; use the simulated network "
            "(testbed/simulation/connector.py)"
        )

    return refuse


for _name in (
    *("add_reader", "add_writer", "add_signal_handler", "connect_read_pipe", "connect_write_pipe"),
    *("create_connection", "create_server", "create_datagram_endpoint", "create_unix_connection", "create_unix_server"),
    *("connect_accepted_socket", "getaddrinfo", "getnameinfo", "sendfile", "start_tls"),
    *("sock_accept", "sock_connect", "sock_recv", "sock_recv_into", "sock_sendall", "sock_sendfile"),
    *("subprocess_exec", "subprocess_shell"),
):
    setattr(VirtualLoop, _name, _refused(_name))


def _where(task: asyncio.Task[Any]) -> str:
    """Return a task's name and the line at which it waits."""
    frames = task.get_stack(limit=1)
    if not frames:
        return task.get_name()
    code = frames[-1].f_code
    return f"{task.get_name()} in {code.co_qualname} ({code.co_filename}:{frames[-1].f_lineno})"


def run(main: Coroutine[Any, Any, T], *, seed: int) -> T:
    """Run `main` in virtual time and return what it returns; tasks that it leaves behind are cancelled.

    What the process gives to whoever asks (random numbers, the wall clock) is virtual meanwhile, too, see `ambient`.

    Raises:
        DeadlockError: everything waits and nothing is scheduled.
        LivelockError: something is always ready, and time never passes.
    """
    with collecting_anew():
        loop = VirtualLoop()
        with seeded(seed, loop.time), asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(main)
