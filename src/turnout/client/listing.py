"""Listing jobs without holding them: hundreds of thousands of ended ones may lie beside a few that run.

Ended jobs are known by their records alone: the registry is walked backwards. All others have a message, or a timer, in
the work stream: that is walked backwards too, and their records are looked up. Where both are wanted, the two walks are
merged. What runs, or waits for a retry, has both: it is looked for where fewer others lie. What changes during the
walks is looked for at the ends of the streams last of all, so that no job is missed; none is shown twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

from turnout.client.filters import Filters
from turnout.client.found import Finder, Found
from turnout.client.keys import Keys
from turnout.core.record import JobRecord, JobState
from turnout.nats.direct import Raw
from turnout.nats.pages import Backward, forward
from turnout.nats.stream import Stream, kv_stream
from turnout.store.perform import Store

Seen = Callable[[JobRecord], JobRecord]
"""Gives the record as its reader shall see it: one whose deadline has passed has ended."""

_RECORDED = frozenset({JobState.queued, JobState.running, JobState.retrying})
"""Jobs in a line, or on a route, are one of these."""

_BEGUN = frozenset({JobState.running, JobState.retrying})
"""Jobs in these states have a record, and its message tells nothing else of them."""

_CLOCKS_S = 1.0
"""A job that was submitted so long after the listing began may be shown, if it comes up."""


class Listing:
    """One listing of the jobs that match, the newest first.

    What one window of a walk holds (the 1,000 or 2,000 records that were written last, and so on) is in the order of
    submission; from window to window it is the order of the last write. A job that changes while it is listed is shown
    as it was or as it is, maybe at the end.
    """

    def __init__(self, store: Store, filters: Filters, seen: Seen) -> None:
        self._store = store
        self._filters = filters
        self._seen = seen
        self._finder = Finder(store, filters)
        self._began = store.connection.now()
        activity = filters.activity or "*"
        self._registry = Backward(
            store.connection, kv_stream(store.names.jobs_bucket), store.names.record(activity, "*")
        )
        self._work: list[Backward] = []
        self._by_records = filters.ended
        """Whether the registry is walked."""

    async def records(self) -> AsyncGenerator[JobRecord]:
        """Every job that matches, once, by its record or the one that its message tells."""
        if not self._filters.wanted:
            return
        shown = Keys()
        subjects = await work_subjects(self._store, self._filters)
        if self._filters.wanted <= _BEGUN and await self._fewer_records():
            self._by_records, subjects = True, []
        self._work = [Backward(self._store.connection, self._store.names.work, subject) for subject in subjects]
        async with contextlib.aclosing(self._all()) as jobs:
            async for found in jobs:
                if found.key in shown:
                    continue
                record = self._finder.record(found)
                if record is not None and self._filters.match(record := self._seen(record)):
                    shown.add(found.key)
                    yield record

    async def _all(self) -> AsyncGenerator[Found]:
        walks = [self._open(walk) for walk in self._work]
        if self._by_records:
            walks.insert(0, self._ended())  # the first to begin: the others ask how far it goes
        async with contextlib.aclosing(_merged(walks)) as merged:
            async for found in merged:
                yield found
        async with contextlib.aclosing(self._moved()) as moved:
            async for found in moved:
                yield found

    async def _ended(self) -> AsyncGenerator[Found]:
        """By the records: whatever has one."""
        async with contextlib.aclosing(self._registry.windows()) as windows:
            async for window in windows:
                for found in await self._finder.by_records(window):
                    yield found
                if self._too_old(window):
                    return

    async def _open(self, walk: Backward) -> AsyncGenerator[Found]:
        """By the messages: whatever has not ended."""
        async with contextlib.aclosing(walk.windows()) as windows:
            async for window in windows:
                for found in await self._finder.by_messages(window, self._revision_floor):
                    yield found
                if self._too_old(window):
                    return

    async def _moved(self) -> AsyncGenerator[Found]:
        """What was written during the walks. A job that was submitted meanwhile is none of this listing."""
        connection, names = self._store.connection, self._store.names
        if self._by_records:
            stream, walk = kv_stream(names.jobs_bucket), self._registry
            async with contextlib.aclosing(forward(connection, stream, walk.subject, walk.top + 1)) as pages:
                async for page in pages:
                    for found in filter(self._was_there, await self._finder.by_records(page)):
                        yield found
        for walk in self._work:
            async with contextlib.aclosing(forward(connection, names.work, walk.subject, walk.top + 1)) as pages:
                async for page in pages:
                    for found in filter(self._was_there, await self._finder.by_messages(page, self._revision_floor)):
                        yield found

    @property
    def _revision_floor(self) -> int | None:
        """The revision up to which the walk of the registry shows what has a record; None where there is no such."""
        return self._registry.top if self._by_records else None

    async def _fewer_records(self) -> bool:
        """Whether the registry has fewer records than the work stream has messages."""
        names = self._store.names
        streams = (Stream(self._store.connection, name) for name in (kv_stream(names.jobs_bucket), names.work))
        records, messages = [int((await stream.info())["state"]["messages"]) for stream in streams]
        return records < messages

    def _too_old(self, window: Sequence[Raw]) -> bool:
        return bool(window) and window[-1].time_ns / 1e9 < self._filters.oldest_write

    def _was_there(self, found: Found) -> bool:
        return found.submitted_at <= self._began + _CLOCKS_S or found.requeued


async def work_subjects(store: Store, filters: Filters) -> list[str]:
    """Where in the work stream there may be messages of jobs that match."""
    names, activity, wanted = store.names, filters.activity, filters.wanted
    if not any(not state.final for state in wanted):
        return []
    subjects = await store.lanes.subjects(activity)
    if not filters.ended and not wanted.isdisjoint(_RECORDED):  # else their records tell of them
        if activity is None:
            subjects.append(f"{names.ns}.parked.>")
        else:
            subjects += [names.parked("*", activity, "*"), names.routed("*", activity, "*")]
    if JobState.scheduled in wanted and not filters.ended:  # else their records tell of them
        subjects.append(names.timer(activity or "*", "*"))
    return subjects


async def _merged(walks: Sequence[AsyncGenerator[Found]]) -> AsyncGenerator[Found]:
    """What all of them give, at each step the newest of what comes next."""
    async with contextlib.AsyncExitStack() as stack:
        for walk in walks:
            stack.push_async_callback(walk.aclose)
        heads: list[tuple[Found, AsyncGenerator[Found]]] = []
        for walk in walks:
            if (head := await anext(walk, None)) is not None:
                heads.append((head, walk))
        while heads:
            newest = max(range(len(heads)), key=lambda at: heads[at][0].order)
            found, walk = heads[newest]
            yield found
            if (head := await anext(walk, None)) is not None:
                heads[newest] = (head, walk)
            else:
                del heads[newest]
