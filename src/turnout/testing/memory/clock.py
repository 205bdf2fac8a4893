"""The time of the server in memory: that of its event loop, which may be virtual."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

from turnout.nats.clock import Alarm

BEGAN_AT = 1_700_000_000.0
"""Unix seconds when the loop's time was 0."""


class Clock:
    """The instant, and timers that run in no client's context."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._context = contextvars.copy_context()

    def now(self) -> float:
        """Unix seconds."""
        return BEGAN_AT + self._loop.time()

    def now_ns(self) -> int:
        """Unix nanoseconds."""
        return int((BEGAN_AT + self._loop.time()) * 1e9)

    def at(self, instant: float, callback: Callable[..., object], *args: object) -> Alarm:
        """Call at this instant (unix seconds)."""
        return self._loop.call_at(instant - BEGAN_AT, callback, *args, context=self._context)

    def later(self, delay_s: float, callback: Callable[..., object], *args: object) -> Alarm:
        """Call in so many seconds, in the context of whoever asks: a limit of an attempt."""
        return asyncio.get_running_loop().call_later(delay_s, callback, *args)

    def soon(self, callback: Callable[..., object], *args: object) -> None:
        """Call in the loop's next turn."""
        self._loop.call_soon(callback, *args, context=self._context)
