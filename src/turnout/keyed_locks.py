"""One at a time for each key, in one process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Hashable

import attrs


@attrs.define
class _Held:
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    users: int = 0


class KeyedLocks:
    """Locks by keys, kept for as long as somebody has or wants one."""

    def __init__(self) -> None:
        self._held: dict[Hashable, _Held] = {}

    @contextlib.asynccontextmanager
    async def of(self, key: Hashable) -> AsyncIterator[None]:
        """Within this block nobody else in this process is in one of the same key; who came first is first."""
        held = self._held.setdefault(key, _Held())
        held.users += 1
        try:
            async with held.lock:
                yield
        finally:
            held.users -= 1
            if not held.users:
                del self._held[key]
