"""Interest in a subject, as its owner holds it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from turnout.nats.messages import Message


@attrs.frozen(eq=False)
class Subscription:
    """Interest in a subject, renewed on every new link until it is closed. Made by `Connection.subscribe`."""

    line: bytes
    callback: Callable[[Message], None]
    _close: Callable[[], None]
    _drain: Callable[[], Awaitable[None]]

    async def close(self) -> None:
        """No callback runs after this. Closing twice does nothing."""
        self._close()

    def end(self) -> None:
        """`close` for whoever can't wait: for a callback, say."""
        self._close()

    async def drain(self) -> None:
        """Close, but take what the server had sent before it knew. No callback runs after this."""
        await self._drain()
