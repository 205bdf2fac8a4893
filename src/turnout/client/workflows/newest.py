"""The workflows that were started last, found from the end of the histories' stream: without a look at all of them.

Whatever was started after a moment has a record that was stored after it. So once the records behind a moment are read,
nobody is missing among those who were started later.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterable

from turnout.core.workflows.values import RecordKind
from turnout.errors import UnreadableRecord
from turnout.nats.direct import Raw
from turnout.nats.pages import Backward, forward, stored_since
from turnout.nats.stream import Stream
from turnout.store.histories import entry_in, left_out
from turnout.store.perform import Store
from turnout.wire.entries import Glance, glance_at

MANY = 2_000
"""Of fewer workflows than that all entries are read: they are few, and come without their records."""

SHARE = 4
BYTES_EACH = 200
"""So much of the stream is read for each workflow that there is, at most: one record in `SHARE`, and so many bytes. For
those who look for what is rare the entries of all workflows are cheaper then."""

CLOCKS_S = 1.0
"""By how much the clock of whoever starts a workflow may differ from the server's."""

Started = tuple[float, str]


async def newest_started(store: Store, matches: Callable[[Glance], bool], limit: int) -> list[Started] | None:
    """When the `limit` workflows were started that match and were started last, and their ids, the newest first.

    None where the end of the stream does not tell: read the entries of all.
    """
    workflows = (await Stream(store.connection, store.names.history).info())["state"].get("num_subjects", 0)
    if workflows < max(MANY, limit * SHARE):
        return None
    found = _Found(matches)
    most, bytes_left, reach = workflows // SHARE, workflows * BYTES_EACH, None
    messages_left = most
    walk = Backward(store.connection, store.names.history, store.names.records("*"))
    async with contextlib.aclosing(walk.windows()) as windows:
        async for window in windows:
            found.look(reversed(window))
            messages_left -= len(window)
            bytes_left -= sum(len(raw.data) for raw in window)
            newest = found.newest(limit)
            behind = newest[-1][0] - CLOCKS_S if len(newest) == limit else None
            if window and behind is not None and behind > window[0].time_ns / 1e9:
                break
            if behind is not None and reach is None:  # so far is left to go, at most
                reach = await stored_since(store.connection, store.names.history, store.names.records("*"), behind)
            if messages_left < 0 or bytes_left < 0 or (reach or 0) > most:
                return None
    # What was written during the walk: it may have taken the place of a record that was not read yet.
    pages = forward(store.connection, store.names.history, store.names.records("*"), walk.top + 1)
    async with contextlib.aclosing(pages) as written:
        async for page in written:
            found.look(page)
    return found.newest(limit)


class _Found:
    """What was found so far, each workflow by the first of its records that was looked at."""

    def __init__(self, matches: Callable[[Glance], bool]) -> None:
        self._matches = matches
        self._known: set[bytes] = set()
        self._started: list[Started] = []

    def look(self, records: Iterable[Raw]) -> None:
        for raw in records:
            if raw.subject in self._known:
                continue
            self._known.add(raw.subject)
            workflow_id = raw.subject.decode("utf-8", "replace").rpartition(".")[2]
            try:
                entry = entry_in(raw.block, glance_at)
            except UnreadableRecord as error:
                left_out(workflow_id, error)
                continue
            if entry is not None and entry.kind is not RecordKind.deleted and self._matches(entry):
                self._started.append((entry.started_at, workflow_id))

    def newest(self, limit: int) -> list[Started]:
        return heapq.nlargest(limit, self._started)
