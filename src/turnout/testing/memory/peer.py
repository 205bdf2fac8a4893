"""Who is connected to the server in memory."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Protocol


class Peer(Protocol):
    """Who is connected: a link, or a connection in memory."""

    context: contextvars.Context
    loop: asyncio.AbstractEventLoop
    party: object
    """Whose it is: a process may have several."""

    def arrived(self, sid: int, subject: str, reply: str, data: bytes, block: bytes) -> None:
        """A message that it has subscribed to."""

    def lose(self, reason: str) -> None:
        """The connection ends here and now."""
