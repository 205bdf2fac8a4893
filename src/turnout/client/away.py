"""A connection that is away for a moment, while its server restarts say: whoever asks a client then waits for it."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from turnout.nats.messages import NoResponders
from turnout.nats.once import AWAY_S
from turnout.store.perform import Store

T = TypeVar("T")
Asks = TypeVar("Asks", bound=Callable[..., Any])


def outwaits(method: Asks) -> Asks:
    """Gives a method of a client or of a handle the patience that storing has: ServerUnavailable after `AWAY_S`.

    The wait comes before anything is sent. What is lost on the way is told: whoever asked knows whether to ask again.
    """
    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def listed(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            await is_there(self._store)
            async with contextlib.aclosing(method(self, *args, **kwargs)) as found:
                async for each in found:
                    yield each

        return cast("Asks", listed)

    @functools.wraps(method)
    async def asked(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        store: Store = self._store
        if not store.connection.up:
            await is_there(store)
        return await method(self, *args, **kwargs)

    return cast("Asks", asked)


async def is_there(store: Store) -> None:
    """Wait for the connection; ServerUnavailable after `AWAY_S`, or at once if the client is closed."""
    await store.connection.wait_up(timeout_s=AWAY_S)


async def unless_away(store: Store, answer: Awaitable[T]) -> T | None:
    """The answer, or None while the server or the stream's leader is away: ask again. A closed client raises."""
    try:
        return await answer
    except (ConnectionError, TimeoutError, NoResponders):
        if store.connection.closed:
            raise
        return None
