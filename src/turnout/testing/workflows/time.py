"""Time that stands still while anything happens, and jumps to what is due when nothing does.

What waits durably, timers, retries and delays, waits at the server in memory; so it is enough that the server's clock
can be set forward. Everything else, such as the code of activities, lives in real time; what limits an attempt counts
in both times, and ends it by the one that is there first.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

from turnout.nats.clock import Alarm
from turnout.testing.memory.clock import Clock
from turnout.testing.memory.message import Message
from turnout.testing.memory.network import Arrive, Network, Reachable
from turnout.testing.memory.peer import Peer
from turnout.testing.memory.server import MemoryServer

TURNS = 10
"""So many turns of the loop without any news are taken for silence: code between two questions needs a few."""

BUSY_S = 0.05
"""For how long `advance` waits for activities that say nothing: they may wait for the test."""

SLOW_S = 0.5
"""For so long the code of an attempt may say nothing before it runs into its limit: it lives in real time."""

GRACE_S = 0.1
"""How long nothing must have happened before it is said that nothing can happen any more."""


class _Alarm:
    __slots__ = ("args", "callback", "cancelled")

    def __init__(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class _Limit:
    """Of an attempt, in real time and in the server's."""

    def __init__(self, callback: Callable[[], object], limits: MutableMapping[_Limit, float]) -> None:
        self._callback = callback
        self._limits = limits
        self._context = contextvars.copy_context()
        self.timers: tuple[Alarm, ...] = ()

    def fire(self) -> None:
        self.cancel()
        self._context.run(self._callback)

    def cancel(self) -> None:
        self._limits.pop(self, None)
        for timer in self.timers:
            timer.cancel()


class SkippingClock(Clock):
    """The server's time: it stands still until it is set forward. `began_at`: unix seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, began_at: float) -> None:
        self._loop = loop
        self._now = began_at
        self._context = contextvars.copy_context()
        self._alarms: list[tuple[float, int, _Alarm]] = []
        self._numbers = itertools.count()
        self._limits: dict[_Limit, float] = {}

    def now(self) -> float:
        return self._now

    def now_ns(self) -> int:
        return int(self._now * 1e9)

    def at(self, instant: float, callback: Callable[..., object], *args: object) -> Alarm:
        alarm = _Alarm(callback, args)
        heapq.heappush(self._alarms, (instant, next(self._numbers), alarm))
        return alarm

    def later(self, delay_s: float, callback: Callable[..., object], *args: object) -> Alarm:
        limit = _Limit(partial(callback, *args), self._limits)
        self._limits[limit] = due = self._now + delay_s
        limit.timers = (self._loop.call_later(delay_s, limit.fire), self.at(due, limit.fire))
        return limit

    def next_limit(self) -> float | None:
        """When the next attempt has taken too long."""
        return min(self._limits.values(), default=None)

    def set_forward(self, instant: float) -> None:
        """Let it be this instant, and happen what is due by then; never back."""
        while self._alarms and self._alarms[0][0] <= instant:
            due, _, alarm = heapq.heappop(self._alarms)
            self._now = max(self._now, due)
            if not alarm.cancelled:
                self._context.copy().run(alarm.callback, *alarm.args)
        self._now = max(self._now, instant)


class CountingNetwork(Network):
    """Carries everything in the next turn, also between threads, and knows how much is on its way.

    What the thread of the leases says is not counted: it goes on while nothing happens.
    """

    def __init__(self, server: Reachable) -> None:
        super().__init__(server)
        self.loop = asyncio.get_running_loop()
        self.moving = 0
        self.carried = 0
        self.on_silence: Callable[[], None] = lambda: None
        """Called when nothing is on its way any more."""

    def to_server(self, peer: Peer, arrive: Arrive, *args: object) -> None:
        if peer.loop is not self.loop:
            with contextlib.suppress(RuntimeError):  # the environment has been left
                self.loop.call_soon_threadsafe(arrive, *args)
            return
        self._send()
        self.server.clock.soon(self._arrive, arrive, args)

    def to_client(self, peer: Peer, arrive: Arrive, *args: object) -> None:
        if peer.loop is not self.loop:
            with contextlib.suppress(RuntimeError):  # its loop has ended
                peer.loop.call_soon_threadsafe(arrive, *args, context=peer.context)
            return
        self._send()
        peer.loop.call_soon(self._arrive, arrive, args, context=peer.context)

    def _send(self) -> None:
        self.moving += 1
        self.carried += 1

    def _arrive(self, arrive: Arrive, args: tuple[object, ...]) -> None:
        try:
            arrive(*args)
        finally:
            self.moving -= 1
            if not self.moving:
                self.on_silence()


class Skipper:
    """Sets the clock forward, from one thing that is due to the next, when nothing else happens.

    `ignored`: what comes by itself but brings no workflow on, as a message of the server.
    """

    def __init__(self, server: MemoryServer, network: CountingNetwork, clock: SkippingClock) -> None:
        self._server = server
        self._network = network
        self._clock = clock
        self._stirred: asyncio.Event = asyncio.Event()
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._skipping: asyncio.Task[None] | None = None
        self.working = 0
        """How many things are under way that the network does not see."""
        self.stuck: set[str] = set()
        """The ids of workflows that are tried again for ever, in vain."""
        self.asleep: Callable[[], int] = lambda: 0
        """How many messages are held only until some time has gone by, for the retries of local activities."""
        self._naps: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        network.on_silence = self._stirred.set

    # --- waiting ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def skipping(self) -> Any:
        """Within this block the time goes on by itself. What is given is done when nothing can happen any more."""
        over: asyncio.Future[None] = self._network.loop.create_future()
        self._waiting[over] = None
        if self._skipping is None or self._skipping.done():
            self._skipping = self._network.loop.create_task(self._skip())
        try:
            yield over
        finally:
            self._waiting.pop(over, None)
            self._stirred.set()

    async def _skip(self) -> None:
        while self._waiting:
            await self._silence()
            if not self._waiting:
                return
            due = self._next_due(self._idle)
            if due is not None:
                self._set_forward(due)
            elif await self._still_silent():
                for over in self._waiting:
                    if not over.done():
                        over.set_result(None)
                return

    async def _still_silent(self) -> bool:
        carried = self._network.carried
        await asyncio.sleep(GRACE_S)
        return self._network.carried == carried and not self._busy

    async def advance(self, seconds: float) -> None:
        """Let so much time pass, and happen what is due meanwhile."""
        target = self._clock.now() + seconds
        while True:
            await self._silence(BUSY_S)
            found = self._next_due(self._in_vain), self._clock.next_limit()
            due = min((each for each in found if each is not None), default=None)
            if due is None or due > target:
                break
            if due == found[1]:
                await self._silence(SLOW_S)
                if found != (self._next_due(self._in_vain), self._clock.next_limit()):
                    continue  # the attempt has come to its end
            self._set_forward(due)
        self._set_forward(target)
        await self._silence(BUSY_S)

    async def sleep(self, seconds: float) -> None:
        """Wait until so much of this time has gone by."""
        woken: asyncio.Future[None] = self._network.loop.create_future()
        heapq.heappush(self._naps, (self._clock.now() + seconds, next(self._numbers), woken))
        self._stirred.set()
        await woken

    def _next_due(self, ignored: Callable[[Message], bool]) -> float | None:
        while self._naps and self._naps[0][2].done():
            heapq.heappop(self._naps)
        due = self._server.next_due(ignored)
        return min([due for due in (due, *(nap[0] for nap in self._naps[:1])) if due is not None], default=None)

    def _set_forward(self, instant: float) -> None:
        self._clock.set_forward(instant)
        while self._naps and self._naps[0][0] <= instant:
            woken = heapq.heappop(self._naps)[2]
            if not woken.done():
                woken.set_result(None)

    # --- whether anything happens -------------------------------------------------------------------------------------

    async def _silence(self, busy_s: float | None = None) -> None:
        """Return when nothing happens; with `busy_s` also when nobody who is busy has said anything for so long."""
        while True:
            if self._busy:
                self._stirred.clear()
                try:
                    async with asyncio.timeout(busy_s):
                        await self._stirred.wait()
                except TimeoutError:
                    if not self._network.moving:
                        return
                continue
            carried = self._network.carried
            for _ in range(TURNS):
                await asyncio.sleep(0)
            if self._network.carried == carried and not self._busy:
                return

    @property
    def _busy(self) -> bool:
        if self._network.moving or self.working:
            return True
        consumers = (each for stream in self._server.streams.values() for each in stream.consumers.values())
        asleep = self.asleep()
        if not asleep:
            return any(consumer.holds for consumer in consumers)
        return sum(consumer.held for consumer in consumers) > asleep

    def begin(self) -> None:
        """Something begins that the network does not see."""
        self.working += 1

    def end(self) -> None:
        """It has ended."""
        self.working -= 1
        self._stirred.set()

    def _in_vain(self, message: Message) -> bool:
        """Whether this is an input of a workflow that is stuck: it is handed over again for ever."""
        parts = message.subject.split(".")
        return len(parts) > 4 and parts[1] == "workflows" and parts[3] in self.stuck

    def _idle(self, message: Message) -> bool:
        target = message.headers.get("Nats-Schedule-Target", "")
        return target.endswith(".gc") or self._in_vain(message)
