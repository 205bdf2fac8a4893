"""What the server tells of one job, or of one workflow: each of its records, once it is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from turnout.nats.connection import Connection, Message
from turnout.nats.subscription import Subscription


class Notices:
    """Keeps the newest record that was told of, for one who waits. Nothing is told twice, and nothing for sure.

    `wanted` says whether a message is worth waking for.
    """

    def __init__(self, connection: Connection, wanted: Callable[[Message], bool] | None = None) -> None:
        self._connection = connection
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self.heard = False
        """Whether anything was told at all: then it began in time for all that follows."""
        self._woken = False
        self._newest: Message | None = None
        self._subscription: Subscription | None = None
        self._forget: tuple[Callable[[], None], ...] = ()

    async def begin(self, subject: str) -> None:
        """Listen. What is asked for after this goes the same way: it sees what was stored too early to be told of."""
        self._subscription = await self._connection.subscribe(subject, self._hear, confirmed=False)
        self._forget = (self._connection.on_up(self._wake), self._connection.on_down(self._wake))

    async def end(self) -> None:
        for forget in self._forget:
            forget()
        subscription, self._subscription, self._forget = self._subscription, None, ()  # which refer to this one
        if subscription is not None:
            await subscription.close()

    async def within(self, seconds: float) -> bool:
        """Whether something was told in that time, or the connection came or went, and it is time to look again."""
        if not self._woken:
            self._waiter = waiter = self._loop.create_future()
            timer = self._loop.call_later(seconds, _release, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                self._waiter = None
        return self._woken

    def take(self) -> Message | None:
        """The message with the newest record, if one was told of since this was called last.

        `within` waits for what follows.
        """
        newest, self._newest, self._woken = self._newest, None, False
        return newest

    def _hear(self, received: Message) -> None:
        self.heard = True
        if self._wanted is None or self._wanted(received):
            self._newest = received
            self._wake()

    def _wake(self) -> None:
        self._woken = True
        if self._waiter is not None:
            _release(self._waiter)


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
