"""Virtual time for several processes: one heap of what is to happen, and hosts that can be frozen, cut off and killed.

Nothing here knows of jobs or of NATS. Everything random comes from one seeded source, so a seed is a whole history. One
event loop runs the code of all hosts; whose a callback is, its context tells.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import sys
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from turnout.flow.errors import Dropped, Killed
from turnout.flow.ordered import Ordered, install

BEGAN_AT = 1_700_000_000.0
"""Unix seconds when the virtual time is 0."""

HOST: contextvars.ContextVar[Host | None] = contextvars.ContextVar("host", default=None)
"""Whose code runs."""

_NO_CONTEXT = contextvars.Context()


class Handle:
    """Something that is to happen, on a host if it has one."""

    __slots__ = ("act", "args", "context", "dead", "host", "moment")

    def __init__(self, act: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context) -> None:
        self.act = act
        self.args = args
        self.context = context
        self.host = context.get(HOST)
        self.dead = False
        self.moment = 0.0

    def cancel(self) -> None:
        self.dead = True

    def cancelled(self) -> bool:
        return self.dead

    def when(self) -> float:
        return self.moment


class Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address."""

    def __init__(self, coro: Any, *, loop: World, serial: int, **options: Any) -> None:
        self._serial = serial
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self._serial


class World(asyncio.AbstractEventLoop, Ordered):
    """The clock, the heap, the dice, and the event loop of all hosts."""

    def __init__(self, seed: int) -> None:
        install()
        self.random = random.Random(seed)
        self.now = 0.0
        """Seconds since the beginning."""
        self.steps = 0
        self.stumbled: list[BaseException | str] = []
        """What processes that live have raised and nobody has caught."""
        self._ready: deque[Handle] = deque()
        self._heap: list[tuple[float, int, Handle]] = []
        self._order = 0
        self._tasks: list[Task] = []
        self._sweep_at = 64
        self._closed = False

    # -- what is to happen ---------------------------------------------------------------------------------------------

    def at(self, moment: float, act: Callable[..., object], *args: object) -> Handle:
        """Have something happen at this moment, outside of every host."""
        return self.place(moment, Handle(act, args, _NO_CONTEXT))

    def after(self, delay_s: float, act: Callable[..., object], *args: object) -> Handle:
        return self.place(self.now + delay_s, Handle(act, args, _NO_CONTEXT))

    def place(self, moment: float, handle: Handle) -> Handle:
        """Have it happen at this moment."""
        self._order += 1
        handle.moment = moment
        heapq.heappush(self._heap, (moment, self._order, handle))
        return handle

    def run_until(self, moment: float) -> None:
        """Let the time pass, and happen what is to happen."""
        ready, heap = self._ready, self._heap
        while True:
            if ready:
                handle = ready.popleft()
            elif heap and heap[0][0] <= moment:
                when, _, handle = heapq.heappop(heap)
                if when > self.now:
                    self.now = when
            else:
                break
            if handle.dead:
                continue
            host = handle.host
            if host is not None and (not host.alive or host.thaw_at > self.now):
                if host.alive:
                    self.place(host.thaw_at, handle)
                continue
            self.steps += 1
            try:
                handle.context.run(handle.act, *handle.args)
            except Killed:
                pass
            except (SystemExit, KeyboardInterrupt):
                raise
            except Exception as error:
                if host is None:
                    raise
                self.stumbled.append(error)
        self.now = max(self.now, moment)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the running event loop of this thread for as long as the world is played with."""
        hooks = sys.get_asyncgen_hooks()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=lambda _: None, finalizer=self._abandoned)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(*hooks)
            events._set_running_loop(None)

    def _abandoned(self, generator: Any) -> None:
        if not self._closed:
            self.create_task(generator.aclose())

    # -- hosts ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free what is suspended: its clean-up code runs, and has no effect."""
        self._closed = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            if not task.done():
                _unwind(self, task)
            elif not task.cancelled():
                task.exception()
        self._ready.clear()
        self._heap.clear()

    # -- an event loop -------------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Any:
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context)
        if not self._closed:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Any:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Any:
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context)
        return handle if self._closed else self.place(when, handle)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None, **options: Any) -> Any:
        task = Task(coro, loop=self, serial=self.next_serial(), name=name, context=context)
        self._tasks.append(task)
        if len(self._tasks) > self._sweep_at:
            self._tasks = [each for each in self._tasks if not each.done()]
            self._sweep_at = 2 * len(self._tasks) + 64
        return task

    def next_serial(self) -> int:
        self._order += 1
        return self._order

    def name_task(self, task: Any) -> None:
        """Its tasks have a number from the beginning."""

    def hold(self, task: Any) -> None:
        """It holds all of them."""

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What a callback or a forgotten task has raised."""
        host, error = HOST.get(), context.get("exception")
        if not self._closed and not isinstance(error, Killed) and (host is None or host.alive):
            self.stumbled.append(f"{host and host.name}: {error!r} {context.get('message')}")


def _unwind(world: World, task: Task) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coro: Any = task.get_coro()
    asyncio.tasks._enter_task(world, task)
    try:
        for _ in range(100):
            coro.throw(Dropped())
    except BaseException:  # it has ended
        pass
    finally:
        asyncio.tasks._leave_task(world, task)


class Host:
    """A process: it lives, stands still for a while, can't be reached, or is gone."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.cut = False
        self.thaw_at = 0.0
        self.well_since = 0.0
        """Since when it was neither frozen nor cut off; in the future while it is frozen."""
        self.context = contextvars.copy_context()
        self.context.run(HOST.set, self)

    @property
    def frozen(self) -> bool:
        return self.thaw_at > self.world.now

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have it run a coroutine."""
        task: asyncio.Task[Any] = self.world.create_task(coro, context=self.context.copy())
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and self.alive:
            self.world.stumbled.append(error)

    def kill(self) -> None:
        """The process is gone; what it had already sent may still arrive. Called by its own code it raises `Killed`."""
        if self.alive:
            self.alive = False
            if HOST.get() is self:
                raise Killed(f"{self.name} was killed")

    def freeze(self, seconds: float) -> None:
        """Stand still. What arrives meanwhile is dealt with afterwards."""
        self.thaw_at = self.well_since = max(self.thaw_at, self.world.now + seconds)

    def set_cut(self, cut: bool) -> None:
        """Be out of reach, or within reach again."""
        self.cut = cut
        self.well_since = max(self.well_since, self.world.now)
