"""Lanes: which an activity has had jobs in, beside that of the default priority: those of other priorities, and express
lanes.

Each has subjects and a consumer of its own, for the server hands out what is on one consumer in the order in which it
came. A lane is noted before its first job is stored: whoever works on the activity finds it there, however late.
"""

from __future__ import annotations

import contextlib

from turnout.core.spec import DEFAULT_PRIORITY
from turnout.errors import TurnoutError
from turnout.nats.connection import Connection
from turnout.nats.stream import kv_stream
from turnout.store.names import Names
from turnout.store.nodes import Nodes
from turnout.store.records import scan


class Lanes:
    """The lanes of one namespace. Errors are those of the connection."""

    def __init__(self, connection: Connection, names: Names, nodes: Nodes) -> None:
        self._connection = connection
        self._names = names
        self._nodes = nodes
        self._stream = kv_stream(names.activities_bucket)
        self._open: set[tuple[str, int]] = set()

    async def open(self, activity: str, priority: int) -> None:
        """See to it that jobs of this lane are asked for; those of the default priority always are."""
        if priority == DEFAULT_PRIORITY or (activity, priority) in self._open:
            return
        subject = self._names.opened(activity, priority)
        if await self._connection.get_message(self._stream, last_by_subj=subject) is None:
            await self._connection.store(subject, b"{}")
            with contextlib.suppress(TurnoutError):  # whoever may submit need not be allowed to look around
                await self._announce(activity)
        self._open.add((activity, priority))

    async def _announce(self, activity: str) -> None:
        """Have the nodes that work on it look at once; those that don't hear of it notice within some seconds."""
        for node in await self._nodes.living():
            if activity in node.activities:
                self._nodes.look(node.id, activity)

    async def all(self, activity: str = "*") -> dict[str, list[int]]:
        """The lanes beside that of the default priority that jobs of each activity have had. May be a moment old."""
        found: dict[str, list[int]] = {}
        async for stored in scan(self._connection, self._stream, self._names.opened(activity)):
            *_, name, priority = stored.subject.split(".")
            if not stored.marker and priority.isdigit():
                found.setdefault(name, []).append(int(priority))
        return found

    async def of(self, activity: str) -> list[int]:
        """Those of one activity, the default one first."""
        return [DEFAULT_PRIORITY, *(await self.all(activity)).get(activity, [])]

    async def subjects(self, activity: str | None) -> list[str]:
        """All the subjects of the stream that jobs of an activity lie on, or of all activities."""
        if activity is None:
            return [self._names.all_jobs]
        return [subject for lane in await self.of(activity) for subject in self._names.waiting(activity, lane)]
