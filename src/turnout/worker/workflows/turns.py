"""One at a time for each workflow: a task of it, or a query, never both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import attrs


@attrs.define
class _Turn:
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    users: int = 0


class Turns:
    """Locks by the ids of workflows, kept for as long as somebody has or wants one."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    @contextlib.asynccontextmanager
    async def of(self, workflow_id: str) -> AsyncIterator[None]:
        """Within this block nobody else works on that workflow in this process."""
        turn = self._turns.setdefault(workflow_id, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[workflow_id]
