"""The timers of a workflow's code, by when they are due.

The server fires timers that are due close together, or that came due while it was away, in any order. The code sees
them in the order of their times, as it does in asyncio.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping

from turnout.core.workflows.values import Command, CommandKind


class Timers:
    """The timers among what is waited for, which changes while a task goes on."""

    def __init__(self, pending: Mapping[str, Command]) -> None:
        self._pending = pending
        self._order = itertools.count()
        self._heap: list[tuple[float, int, str]] | None = None

    def add(self, commands: Iterable[Command]) -> None:
        """The code has asked for these as well."""
        if self._heap is not None:
            for command in commands:
                self._push(self._heap, command)

    def first(self) -> str | None:
        """The id of the timer that is due first."""
        if self._heap is None:
            self._heap = []
            for command in self._pending.values():
                self._push(self._heap, command)
        while self._heap and self._heap[0][2] not in self._pending:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def _push(self, heap: list[tuple[float, int, str]], command: Command) -> None:
        if command.kind is CommandKind.timer and command.at is not None:
            heapq.heappush(heap, (command.at, next(self._order), command.id))
