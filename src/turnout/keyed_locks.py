"""One at a time for each key, in one process."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Hashable


class _Lock(asyncio.Lock):
    """The lock of one key, for `async with` alone. `forget` is called when nobody has or wants it any more."""

    def __init__(self, forget: Callable[[], object]) -> None:
        super().__init__()
        self._forget = forget
        self._users = 0

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            self._forget()


class KeyedLocks:
    """Locks by keys, kept for as long as somebody has or wants one."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, _Lock] = {}

    def of(self, key: Hashable) -> _Lock:
        """Within `async with` of it nobody else in this process is in one of the same key; who came first is first."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = _Lock(functools.partial(self._locks.pop, key))
        return lock
