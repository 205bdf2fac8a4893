"""The loop itself: a queue of what is ready, a heap of timers, and a time that its owner sets."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from math import inf, isnan
from typing import Any, TypeVar, TypeVarTuple

from turnout.flow import ordered, unwinding
from turnout.flow.clock import Clock
from turnout.flow.errors import Deadlock, TimeLimitReached
from turnout.flow.generators import Generator
from turnout.flow.handles import Handle, Timer, TimerOwner
from turnout.flow.refused import Refuse
from turnout.flow.running import Running
from turnout.flow.scopes import Scope
from turnout.flow.tasks import Future, Task, stack_of

T = TypeVar("T")
Args = TypeVarTuple("Args")
TaskFactory = Callable[..., Any]

OUTSIDE = "c"
"""The scope of what is done outside of every task: in callbacks, and by the owner between two runs."""
CLOSERS = "g"
"""The scope of the tasks that close generators: they shift nobody's paths."""
CANCELLED_TIMERS_MIN = 100
TASKS_SWEPT_MIN = 16
EAGER_FACTORY = getattr(asyncio, "eager_task_factory", None)
NOT_EAGER: dict[str, Any] = {}
EAGER: dict[str, Any] = {"eager_start": True}


class Loop(Running, ordered.Ordered):
    """An event loop that is a function of what its owner does to it. See `turnout.flow`."""

    def __init__(
        self, *, clock: Clock | None = None, timers: TimerOwner | None = None, refuse: Refuse = NotImplementedError
    ) -> None:
        super().__init__(refuse)
        ordered.install()
        self.clock = clock or Clock()
        self.outside = Scope(OUTSIDE)
        self.time_limit = inf
        self._timer_owner = timers
        self._ready: deque[Handle | Timer] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timers_set = 0
        self._timers_cancelled = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self._sweep_at = TASKS_SWEPT_MIN
        self._serials = 0
        self._inert = False
        self._closed = False
        self._stopping = False
        self._draining = False
        self._debug = False
        self._task_factory: TaskFactory | None = None
        self._task_options = NOT_EAGER
        self._closers = Scope(CLOSERS)

    # What the owner does.

    def run_until_idle(self) -> None:
        """Run what is ready, and what becomes ready by that, until nothing is. Never waits, never moves the time.

        What a task raises stays in the task. SystemExit and KeyboardInterrupt come out, as they do in asyncio.
        """
        with self:
            self.drain()

    def drain(self) -> None:
        """Do what `run_until_idle` does, within a ``with loop:`` block of the owner.

        Entering takes as long as a small run: whoever replays a history does it once. What the owner does in the block
        happens with this loop as the running one, but in no task.
        """
        self._check_open()
        if self._draining or asyncio._get_running_loop() is not self:
            raise RuntimeError("a loop is drained within its `with` block, and not by its own tasks")
        self._draining = True
        try:
            while self._run_once():
                pass
        finally:
            self._draining = False
        if len(self._tasks) <= TASKS_SWEPT_MIN:
            self._sweep()

    def advance_to(self, moment: float) -> None:
        """Let the time be `moment`, unless it is later already. Timers due by then are run by the next run."""
        self.clock.advance_to(moment)

    def next_due(self) -> float | None:
        """When the earliest timer that the loop keeps itself is due, or None. May be past."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
            self._timers_cancelled -= 1
        return timers[0][0] if timers else None

    def fire(self, timer: Timer) -> bool:
        """Make a timer that the owner took ready; the time is its due time at least. False if it does not wait."""
        if not (timer.owned and timer._scheduled):
            return False
        self.clock.advance_to(timer._when)
        timer._scheduled = False
        self._ready.append(timer)
        return True

    def create_root(
        self,
        coro: Coroutine[Any, Any, T],
        scope: str | Scope,
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Create a task at the root of the tree: the main task with the path ``0``, a handler with ``h<input>``."""
        self._check_open()
        scope = Scope(scope) if isinstance(scope, str) else scope
        task: asyncio.Task[T] = self._new_task(coro, scope, name, context, NOT_EAGER)
        return task

    def call_root(self, call: Callable[[], T], scope: Scope) -> T:
        """Call code that waits for nothing at the root of the tree, in no task; what it asks for is named as by one."""
        self._check_open()
        outside, self.outside = self.outside, scope
        try:
            return copy_context().run(call)
        finally:
            self.outside = outside

    def drop(self) -> int:
        """Forget everything: nothing of this loop ever runs again, and nobody is told.

        Suspended coroutines have to be unwound, or their frames could never be freed. While that lasts, and ever after,
        nothing that code does has an effect: what it awaits does not come, callbacks and timers are not kept, tasks do
        not begin. Returns how many coroutines have refused to end. What a limit on the thread raises comes out: call it
        again then.
        """
        if self.is_running():
            if asyncio._get_running_loop() is not None:
                raise RuntimeError("a loop cannot be dropped while it runs")
            self._running = self._draining = (
                False  # a limit on the thread has ended the run in the midst of its last lines
            )
        self.condemn()
        self._ready.clear()
        self._timers.clear()
        self._closed = True
        with self:
            stubborn = unwinding.unwind(self, self._tasks)
        self._tasks.clear()
        self._generators.clear()
        self._exception_handler = None
        return stubborn

    def condemn(self) -> None:
        """Let nothing that the loop's code does count from here on. `drop` begins so; this may be called in a run."""
        self.dropped = self._inert = True
        self._timer_owner = None

    @property
    def idle(self) -> bool:
        """Whether nothing is ready to run."""
        due = self.next_due()
        return not self._ready and (due is None or due > self.clock.now)

    @property
    def scope(self) -> Scope:
        """The scope of the task that runs just now, or the one of all that is outside of tasks."""
        task = asyncio.current_task(self)
        return task.scope if isinstance(task, Task) else self.outside

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended, in the order of their creation."""
        self._sweep()
        return self._tasks.copy()

    @property
    def over(self) -> bool:
        """Whether all code that was begun on it has ended, so that `drop` has nothing to unwind."""
        return not self._generators and all(task.done() for task in self._tasks)

    # What asyncio does.

    def time(self) -> float:
        """The virtual time in seconds."""
        return self.clock.now

    def call_soon(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        """Run ``callback(*args)`` after all that is ready already."""
        handle = Handle(callback, args, self, copy_context() if context is None else context)
        if self._inert:
            self._refuse_when_closed()
            handle._cancelled = True
        else:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> Timer:
        """Run ``callback(*args)`` in `delay` seconds."""
        if delay is None:
            raise TypeError("delay must not be None")
        return self.call_at(self.clock.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> Timer:
        """Run ``callback(*args)`` when the time is `when`. An owner of timers is offered it, unless it is due."""
        if when is None:
            raise TypeError("when cannot be None")
        if isnan(when):
            raise ValueError("a timer cannot be due at NaN")
        timer = Timer(when, callback, args, self, copy_context() if context is None else context, self.scope)
        if self._inert:
            self._refuse_when_closed()
            timer._cancelled = True
            timer._scheduled = False
        elif when == inf:
            pass  # it never comes
        elif self._timer_owner is not None and when > self.clock.now and self._timer_owner.timer_created(timer):
            timer.owned = True
        else:
            self._timers_set += 1
            heapq.heappush(self._timers, (when, self._timers_set, timer))
        return timer

    def create_future(self) -> Future:
        """A future of this loop, with a hash that is the same in each replay."""
        return Future(loop=self)

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> Any:
        """Run a coroutine as a task, a child of the task that runs just now."""
        self._check_open()
        if self._task_factory is None or self._inert:
            return self._new_task(coro, self.scope.child(), name, context, options or self._task_options)
        if context is not None:
            options["context"] = context
        task = self._task_factory(self, coro, **options)
        if name is not None:
            task.set_name(name)
        if not isinstance(task, Task):
            self.hold(task)
        return task

    def get_task_factory(self) -> TaskFactory | None:
        """The factory that was set, or None."""
        return self._task_factory if self._task_options is NOT_EAGER else EAGER_FACTORY

    def set_task_factory(self, factory: TaskFactory | None) -> None:
        """Let `factory` make the tasks. asyncio's own factory of eager tasks makes tasks of ours, which are eager."""
        if factory is not None and not callable(factory):
            raise TypeError("task factory must be a callable or None")
        eager = factory is not None and factory is EAGER_FACTORY
        self._task_options = EAGER if eager else NOT_EAGER
        self._task_factory = None if eager else factory

    def run_forever(self) -> None:
        """Run in virtual time until `stop`: when nothing is ready the time jumps to the next timer."""
        self._check_open()
        with self:
            self._draining = True
            try:
                while True:
                    ran = self._run_once()
                    if self._stopping:
                        return
                    if not ran:
                        self._jump()
            finally:
                self._stopping = self._draining = False
                self._sweep()

    def run_until_complete(self, future: Any) -> Any:
        """Run in virtual time until `future` is done, and give its result. A coroutine becomes a task first."""
        self._check_open()
        self.check_running()
        new = not asyncio.isfuture(future)
        future = asyncio.ensure_future(future, loop=self)
        if new:
            future._log_destroy_pending = False
        future.add_done_callback(_stop_its_loop)
        try:
            self.run_forever()
        except BaseException:
            if new and future.done() and not future.cancelled():
                future.exception()
            raise
        finally:
            future.remove_done_callback(_stop_its_loop)
        if not future.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return future.result()

    def stop(self) -> None:
        """Let `run_forever` return after what is ready now."""
        self._stopping = True

    def is_closed(self) -> bool:
        """Whether it has been closed or dropped."""
        return self._closed

    def close(self) -> None:
        """Forget what is ready and what is timed, and take nothing more."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        self._closed = self._inert = True
        self._ready.clear()
        self._timers.clear()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing: there is no executor."""

    def get_debug(self) -> bool:
        """Whether asyncio's debug mode is on."""
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        """Switch asyncio's debug mode."""
        self._debug = enabled

    # What tasks, futures and handles ask for.

    def next_serial(self) -> int:
        """A number that is the same in each replay."""
        self._serials += 1
        return self._serials

    def create_closer(self, generator: Generator) -> None:
        """Create the task that closes a generator which was left before its end."""
        self._new_task(generator.aclose(), self._closers.child(), None, None, self._task_options)

    def _timer_handle_cancelled(self, timer: Timer) -> None:
        if not timer._scheduled:
            return
        timer._scheduled = False
        if timer.owned:
            if self._timer_owner is not None:
                self._timer_owner.timer_cancelled(timer)
        elif timer._when != inf:
            self._timers_cancelled += 1
            if self._timers_cancelled > CANCELLED_TIMERS_MIN and self._timers_cancelled * 2 > len(self._timers):
                # In place: a run holds the list. A cancelled timer counts from here on, although its flag comes later.
                self._timers[:] = [entry for entry in self._timers if entry[2]._scheduled]
                heapq.heapify(self._timers)
                self._timers_cancelled = 0

    def _new_task(
        self, coro: Any, scope: Scope, name: str | None, context: Context | None, options: dict[str, Any]
    ) -> Any:
        task = Task.__new__(Task)
        task.scope = scope
        task.serial = serial = self.next_serial()
        task.context = context = copy_context() if context is None else context
        if self._inert:
            options = NOT_EAGER
        # The hash is asked for in there, and an eager task takes its first step.
        asyncio.Task.__init__(
            task, coro, loop=self, name=f"Task-{serial}" if name is None else name, context=context, **options
        )
        if self._debug:
            task.forget_maker()
        if self._inert:
            unwinding.never_begin(task)
        elif not (options and task.done()):
            self.hold(task)
        return task

    def name_task(self, task: Any) -> None:
        """Give a task of ours its scope and its number."""
        task.scope = self.scope.child()
        task.serial = self.next_serial()

    def hold(self, task: Any) -> None:
        """Keep a task until it has ended: what waits for ever must not meet the garbage collector."""
        self._tasks.append(task)
        if len(self._tasks) > self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Let go of tasks that have ended."""
        self._tasks = [task for task in self._tasks if not task.done()]
        self._sweep_at = max(TASKS_SWEPT_MIN, 2 * len(self._tasks))

    def _run_once(self) -> bool:
        """Run what is ready now, but nothing that becomes ready by that. False when there was nothing."""
        ready = self._ready
        if self._timers:
            self._ready_what_is_due()
        count = len(ready)
        for _ in range(count):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # what a callback raises is reported, and the loop goes on
                self.report_callback(handle, error)
        return count > 0

    def _ready_what_is_due(self) -> None:
        timers, now = self._timers, self.clock.now
        while timers and (timers[0][0] <= now or timers[0][2]._cancelled):
            timer = heapq.heappop(timers)[2]
            if timer._cancelled:
                self._timers_cancelled -= 1
            else:
                timer._scheduled = False
                self._ready.append(timer)

    def _jump(self) -> None:
        due = self.next_due()
        if due is None:
            raise Deadlock(f"nothing can happen any more: nothing is ready, no timer is set.{describe(self.tasks)}")
        if due > self.time_limit:
            raise TimeLimitReached(
                f"the time is {self.clock.now} and nothing happens before {due}, but the limit is {self.time_limit}."
                f"{describe(self.tasks)}"
            )
        self.clock.advance_to(due)

    def _check_open(self) -> None:
        if self._inert:
            self._refuse_when_closed()

    def _refuse_when_closed(self) -> None:
        if not self.dropped:
            raise RuntimeError("Event loop is closed")

    def __repr__(self) -> str:
        state = "dropped" if self.dropped else "closed" if self._closed else f"running={self.is_running()}"
        return f"<{type(self).__name__} {state} time={self.clock.now}>"


def describe(tasks: list[asyncio.Task[Any]]) -> str:
    """Where each task waits, a line for each."""
    lines = []
    for task in tasks:
        stack = stack_of(task)
        path = f" ({task.path})" if isinstance(task, Task) else ""
        lines += [f"\n  {task.get_name()}{path} waits at {stack[-1]}"] if stack else []
    return "".join(lines)


def _stop_its_loop(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and isinstance(future.exception(), (SystemExit, KeyboardInterrupt)):
        return  # it comes out of the run by itself
    future.get_loop().stop()
