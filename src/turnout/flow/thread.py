"""One plain thread that runs pieces of work for an asyncio program, and a watch for a piece that holds it for too long.

    thread = WorkThread(on_slow=warn, on_stuck=hand_over)
    result = await thread.run(lambda: instance.step(inputs))
    await thread.close()

After `warn_after` seconds `on_slow` is called, with the stack of the thread. After `fail_after` an exception is raised
in the midst of that work, and again each second; `run` raises `HeldTooLong` when it has ended. Code that waits in C for
a lock never meets an exception: after `stuck_after` more `on_stuck` is called, `run` raises without waiting for the
end, and the thread is of no use until the work ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys
import threading
import time
import traceback
from asyncio import events
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from turnout.flow.errors import Overrun

T = TypeVar("T")
Work = Callable[[], Any]

RAISE_AGAIN_AFTER = 1.0
CHECKS_PER_LIMIT = 10
CHECK_EVERY_MIN = 0.005
monotonic = time.monotonic  # the real one: the module's may come to ask for a workflow's time
yield_thread = time.sleep


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a piece of work may hold the thread, in seconds."""

    warn_after: float = 2.0
    fail_after: float = 10.0
    stuck_after: float = 5.0
    """How long after `fail_after` the work counts as stuck."""


@dataclass(frozen=True, slots=True)
class Held:
    """A piece of work that holds the thread."""

    work: Work
    seconds: float
    stack: str
    """Where the thread is, as a traceback shows it."""


class HeldTooLong(RuntimeError):
    """The work was ended because it held the thread for too long, or, if `stuck`, could not be ended."""

    def __init__(self, held: Held, *, stuck: bool) -> None:
        end = "cannot be ended" if stuck else "was ended"
        super().__init__(
            f"it held its thread for {held.seconds:.1f} s without a pause and {end}; it was at\n{held.stack}"
        )
        self.held = held
        self.stuck = stuck


class LeftByExit(RuntimeError):
    """The work raised what must not reach an event loop, such as SystemExit; its cause is that."""


class _Job(Generic[T]):
    __slots__ = (
        "error",
        "future",
        "held",
        "loop",
        "raised_at",
        "raising",
        "result",
        "started",
        "stuck",
        "thread",
        "warned",
        "work",
    )

    def __init__(self, work: Callable[[], T], loop: asyncio.AbstractEventLoop, thread: WorkThread) -> None:
        self.work = work
        self.loop = loop
        self.thread = thread
        self.future: asyncio.Future[T] = loop.create_future()
        self.result: T | None = None
        self.error: BaseException | None = None
        self.started = 0.0
        self.raised_at = 0.0
        self.raising = False
        self.warned = False
        self.stuck = False
        self.held: Held | None = None


class WorkThread:
    """A thread that runs one piece of work at a time, in the order in which they were given."""

    def __init__(
        self,
        *,
        on_slow: Callable[[Held], object],
        on_stuck: Callable[[Held], object],
        limits: Limits | None = None,
        name: str = "workflows",
    ) -> None:
        self.limits = limits or Limits()
        self._on_slow = on_slow
        self._on_stuck = on_stuck
        self._queue: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._current: _Job[Any] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    @property
    def ident(self) -> int:
        """The thread's identity, as `threading.get_ident` gives it there."""
        return self._thread.ident or 0

    @property
    def stuck(self) -> bool:
        """Whether the work that holds the thread could not be ended."""
        job = self._current
        return job is not None and job.stuck

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` on the thread, after what was given before; its result, or what it raises.

        When the caller is cancelled, the work goes on and its result is lost. Raises `HeldTooLong`, and `LeftByExit` in
        place of SystemExit, KeyboardInterrupt and CancelledError.
        """
        job = _Job(work, asyncio.get_running_loop(), self)
        self._give(job)
        try:
            return await job.future
        finally:
            job.thread._waiting -= 1

    def hand_on(self, other: WorkThread) -> None:
        """Give `other` the work that has not begun here: this thread is stuck."""
        with contextlib.suppress(Empty):
            while True:
                job = self._queue.get_nowait()
                if job is None:
                    other._queue.put(None)
                    continue
                self._waiting -= 1
                job.thread = other
                other._give(job)

    def _give(self, job: _Job[Any]) -> None:
        self._waiting += 1
        self._queue.put(job)
        if self._watch is None:
            self._watch = job.loop.call_later(self._check_every, self._check, job.loop)

    async def close(self, timeout: float = 1.0) -> bool:
        """Let the thread end after the work that it has; whether it did within `timeout` seconds."""
        self._queue.put(None)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        return await asyncio.get_running_loop().run_in_executor(None, self._ended.wait, timeout)

    # On the loop's side: the watch.

    @property
    def _check_every(self) -> float:
        shortest = min(self.limits.warn_after, self.limits.fail_after, self.limits.stuck_after)
        return max(CHECK_EVERY_MIN, shortest / CHECKS_PER_LIMIT)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watch = None
        job = self._current
        if self._waiting or job is not None:
            self._watch = loop.call_later(self._check_every, self._check, loop)
        if job is not None:
            self._judge(job, monotonic() - job.started)

    def _judge(self, job: _Job[Any], seconds: float) -> None:
        limits = self.limits
        if seconds >= limits.warn_after and not job.warned:
            job.warned = True
            self._on_slow(self._look_at(job, seconds))
        if seconds >= limits.fail_after and monotonic() - job.raised_at >= RAISE_AGAIN_AFTER:
            job.held = job.held or self._look_at(job, seconds)
            job.raised_at = monotonic()
            self._raise_in(job)
        if seconds >= limits.fail_after + limits.stuck_after and not job.stuck and self._current is job:
            job.stuck = True
            held = self._look_at(job, seconds)
            if not job.future.done():
                job.future.set_exception(HeldTooLong(held, stuck=True))
            _absorb(threading.get_ident())
            self._on_stuck(held)

    def _look_at(self, job: _Job[Any], seconds: float) -> Held:
        frame = sys._current_frames().get(self.ident)
        return Held(job.work, seconds, "".join(traceback.format_stack(frame)) if frame is not None else "")

    def _raise_in(self, job: _Job[Any]) -> None:
        # The thread waits for `raising` to end after it has let go of the job, so the exception meets no other job.
        job.raising = True
        try:
            if self._current is job:
                _set_async_exception(self.ident, Overrun)
        finally:
            job.raising = False

    # On the thread's side.

    def _main(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                self._ended.set()
                return
            while True:
                try:
                    if not job.started:
                        self._do(job)
                    self._let_go(job)
                    break
                except Overrun:  # it came late, in these lines
                    continue
            self._tell(job)
            del job

    def _do(self, job: _Job[Any]) -> None:
        job.started = monotonic()
        self._current = job
        try:
            job.result = job.work()
        except BaseException as error:  # whatever the work raises goes to the caller
            job.error = error

    def _let_go(self, job: _Job[Any]) -> None:
        self._current = None
        while job.raising:
            yield_thread(0)
        if job.held is not None:
            _absorb(self.ident)
            # The exception may have hit the lines with which a loop gives the thread back.
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(None, None)

    def _tell(self, job: _Job[Any]) -> None:
        error, job.error = job.error, None
        if job.held is not None:
            late, error = error, HeldTooLong(job.held, stuck=False)
            error.__cause__ = late
        elif error is not None and (not isinstance(error, Exception) or isinstance(error, StopIteration)):
            cause, error = error, LeftByExit(f"the work raised {type(error).__name__}: {error}")
            error.__cause__ = cause
        try:
            job.loop.call_soon_threadsafe(_settle, job, error)
        except RuntimeError:
            return  # the loop has closed: nobody waits any more


def _settle(job: _Job[Any], error: BaseException | None) -> None:
    if job.future.done():
        return
    if error is None:
        job.future.set_result(job.result)
    else:
        job.future.set_exception(error)


def _absorb(this_thread: int) -> None:
    """Take what is on its way to this thread, and with it the interpreter's note that some thread is to be interrupted.

    Until an exception of the kind is met by some thread, that note slows all of them down, and up to Python 3.11 a
    thread that is traced comes to a halt. Code that waits in C never meets its own.
    """
    try:
        _set_async_exception(this_thread, Overrun)
        while True:
            yield_thread(0)
    except Overrun:
        return


def _set_async_exception(thread: int, kind: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))
