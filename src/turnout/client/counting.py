"""Counting jobs by state: one pass over the messages and one over the records, of which a few bytes each are kept."""

from __future__ import annotations

import contextlib
from array import array

import attrs

from turnout import wire
from turnout.client.filters import Filters
from turnout.client.found import GENERATION, Finder, Found, has_deadline
from turnout.client.keys import Keys
from turnout.client.listing import Seen
from turnout.core.record import FINAL, RETRYABLE, JobState
from turnout.nats.direct import Raw
from turnout.nats.pages import forward
from turnout.nats.stream import Stream, kv_stream
from turnout.store.perform import Store

_STATES = tuple(JobState)
_CODES = {state: code for code, state in enumerate(_STATES)}
_NONE = 7
"""The code of a record that is not counted. All codes fit into three bits, which a hash can spare."""


class Counting:
    """One count of the jobs that match. The messages are read first: a job that starts meanwhile has a record then.

    A record that is written during the pass moves to the end of the stream and may be met twice: the newer one counts.
    """

    def __init__(self, store: Store, filters: Filters, seen: Seen) -> None:
        self._store = store
        self._filters = filters
        self._seen = seen
        self._finder = Finder(store, attrs.evolve(filters, states=None, node=None))
        self._must_contain = filters.must_contain
        self._wanted = filters.wanted
        beyond_peek = (filters.node, filters.label, filters.workflow, filters.schedule, filters.group, filters.error)
        self._parsing = any(each is not None for each in beyond_peek)
        self._since = filters.since or 0.0
        self._waiting = Keys()
        """Jobs that have a message and match as queued ones: those of them that turn out to have a record are not."""
        self._lives: dict[bytes, Raw] = {}
        """Messages that may be newer than their job's record."""

    async def count(self) -> dict[JobState, int]:
        store = self._store
        await self._read_messages()
        stream = kv_stream(store.names.jobs_bucket)
        subject = store.names.record(self._filters.activity or "*", "*")
        top = await Stream(store.connection, stream).last_seq()
        counts, recorded = [0] * (_NONE + 1), 0
        counted = array("q")
        moved: dict[int, tuple[int, bool]] = {}
        async with contextlib.aclosing(forward(store.connection, stream, subject)) as pages:
            async for page in pages:
                for raw in page:
                    code = self._code(raw)
                    if code is None:
                        code = await self._parsed_code(raw)
                    short = hash(raw.subject) & ~_NONE
                    waiting = bool(self._waiting) and bool(raw.data) and raw.subject in self._waiting
                    waiting = waiting and raw.subject not in self._finder.garbled
                    if raw.seq > top:
                        moved[short] = (code, waiting)
                    else:
                        counts[code] += 1
                        counted.append(short | code)
                        recorded += waiting
        twice = set()
        for entry in counted if moved else ():
            if (short := entry & ~_NONE) in moved:
                twice.add(short)
                counts[entry & _NONE] -= 1
        for short, (code, waiting) in moved.items():
            counts[code] += 1
            recorded += waiting and short not in twice
        counts[_CODES[JobState.queued]] += len(self._waiting) - recorded
        return dict(zip(_STATES, counts, strict=False))

    async def _read_messages(self) -> None:
        names = self._store.names
        if self._wanted.isdisjoint({JobState.queued, *RETRYABLE}):
            return
        for subject in await self._store.lanes.subjects(self._filters.activity):
            async with contextlib.aclosing(forward(self._store.connection, names.work, subject)) as pages:
                async for page in pages:
                    for raw in page:
                        await self._read_message(raw)

    async def _read_message(self, raw: Raw) -> None:
        name = self._finder.key_of(raw)
        if name is None:
            return
        key = name.encode()
        if GENERATION in raw.block:
            self._lives[key] = raw
        if JobState.queued not in self._wanted or raw.time_ns / 1e9 < self._since:
            return
        if self._parsing or has_deadline(raw.block):
            record = self._finder.record(Found(0.0, key, None, raw))
            if record is None or not self._filters.match(self._seen(record)):
                return
        self._waiting.add(key)

    def _code(self, raw: Raw) -> int | None:
        """What the record counts as; None: it has to be parsed to be told."""
        data = raw.data
        state = wire.state_of(data)
        if state is None:
            return None if data else _NONE
        if state not in FINAL:
            if has_deadline(data):
                return None
        elif self._lives and raw.subject in self._lives:
            return None
        if state not in self._wanted:
            return _NONE
        if self._parsing:
            return None if self._must_contain in data else _NONE
        if self._since:
            peek = wire.peek(data)
            return None if peek is None else _CODES[state] if peek.submitted_at >= self._since else _NONE
        return _CODES[state]

    async def _parsed_code(self, raw: Raw) -> int:
        record = self._finder.record(Found(0.0, raw.subject, raw.data, self._lives.get(raw.subject)))
        if record is None or not self._filters.match(record := self._seen(record)):
            return _NONE
        return _CODES[record.state]
