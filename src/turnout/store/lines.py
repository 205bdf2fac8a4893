"""The lines of limits: who waits for a place of a key, and whose turn it is (P13).

Who waits is parked: its record says so, and an entry on a subject of the key stands for it. Jobs of the default
priority wait in one lane of the line, those of each other priority in one of their own; within a lane the stream's
order counts. An entry says nothing of itself: what the record says of a job was written before it, so one that lies in
another lane than its job's priority, or whose job does not wait any more, is put right by whoever finds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Collection, Iterable
from itertools import islice

import attrs

from turnout.core.limits import LimitKey, hashed, next_turn
from turnout.core.record import JobRecord
from turnout.core.spec import PRIORITIES
from turnout.errors import UnreadableRecord
from turnout.nats.connection import Connection, StoredMessage
from turnout.nats.stream import ON_SUBJECT, ROLLUP, Stream
from turnout.once import warn_once
from turnout.store.names import Names
from turnout.store.records import Registry
from turnout.wire.limits import dump_key, load_key

logger = logging.getLogger("turnout.store")

_AHEAD = 100
"""So many entries of a lane are read at once, at most."""


@attrs.frozen
class Parked:
    """A job that waits in a line, and where its entry lies; at 0 if it has none."""

    seq: int
    subject: str
    record: JobRecord


@attrs.define
class Line:
    """How many wait for a key, of which priorities, and of which activities."""

    waiting: int = 0
    lanes: set[int] = attrs.field(factory=set)
    activities: set[str] = attrs.field(factory=set)


class Lines:
    """The lines of all keys. Errors are those of the connection."""

    def __init__(self, connection: Connection, names: Names, registry: Registry) -> None:
        self._connection = connection
        self._names = names
        self._registry = registry
        self._work = Stream(connection, names.work)

    async def enter(self, record: JobRecord) -> None:
        """Put the job at the end of its lane of the line that its record says it waits in."""
        await self._connection.store(self._entry(record), dump_key(key_of(record)), {ROLLUP: ON_SUBJECT})

    async def leave(self, record: JobRecord) -> None:
        """Take the job out of that lane."""
        await self._work.purge(self._entry(record))

    async def remove(self, subject: str, seq: int) -> None:
        """Remove an entry, unless the job has joined the lane again since."""
        await self._work.purge(subject, below=seq + 1)

    async def find(self, record: JobRecord) -> Parked:
        """The job in its lane of the line that its record says it waits in."""
        stored = await self._at(self._entry(record))
        return Parked(0 if stored is None else stored.seq, self._entry(record), record)

    async def holds(self, activity: str, job_id: str, key: str, priority: int) -> bool:
        """Whether the job waits in this lane of the key's line."""
        return await self._at(self._names.parked(hashed(key), activity, job_id, priority)) is not None

    async def move(self, activity: str, job_id: str, key: str, priority: int) -> bool:
        """Have the job wait in this lane of the key's line, if it waits in another one: whether it did."""
        lanes = (priority, *(each for each in PRIORITIES if each != priority))
        subjects = [self._names.parked(hashed(key), activity, job_id, each) for each in lanes]
        right, *others = await asyncio.gather(*map(self._at, subjects))
        wrong = [stored for stored in others if stored is not None]
        if wrong and right is None:
            await self._connection.store(subjects[0], wrong[0].data, {ROLLUP: ON_SUBJECT})
        for stored in wrong:
            await self.remove(stored.subject, stored.seq)
        return bool(wrong)

    async def all(self, known: Iterable[LimitKey] = (), activity: str = "*") -> dict[LimitKey, Line]:
        """The keys that jobs wait for, and their lines; those that are `known` need not be looked up. As if none but
        jobs of this activity waited."""
        found: dict[str, Line] = {}
        some: dict[str, str] = {}
        async for subject, _ in self._work.subjects(self._names.parked("*", activity, "*")):
            if (named := self._names.parked_of(subject)) is not None:
                line = found.setdefault(named.key, Line())
                line.waiting += 1
                line.activities.add(named.activity)
                line.lanes.add(named.priority)
                some[named.key] = subject
        keys = {key.hash: key for key in known}
        for token, subject in some.items():
            if token not in keys and (key := await self._key(subject)) is not None:
                keys[token] = key
        return {keys[token]: line for token, line in found.items() if token in keys}

    async def activities(self, key: str, priority: int) -> set[str]:
        """Of which activities jobs wait in this lane of the key's line."""
        subjects = self._work.subjects(self._names.parked(hashed(key), "*", "*", priority))
        named = [self._names.parked_of(subject) async for subject, _ in subjects]
        return {each.activity for each in named if each is not None}

    async def some(
        self, key: str, priority: int, begin: int, count: int, activities: Collection[str] = ("*",)
    ) -> list[StoredMessage]:
        """So many entries of this lane of the key's line, from this sequence on; of several activities the first one.

        That there are none is the word of the leader; there may be some that were removed a moment ago.
        """
        subjects = [self._names.parked(hashed(key), each, "*", priority) for each in activities]
        found = await asyncio.gather(*(self._next(subject, begin) for subject in subjects))
        first = min(filter(None, found), key=lambda each: each.seq, default=None)
        if first is None or count == 1 or len(subjects) > 1:
            return [] if first is None else [first]
        # A replica may be behind, but knows all that lies before the last that it knows.
        body = {"seq": first.seq + 1, "next_by_subj": subjects[0], "batch": count - 1}
        return [first, *[stored async for stored in self._connection.direct_get(self._names.work, body)]]

    async def parked(self, stored: StoredMessage, key: str) -> Parked | None:
        """The job of this entry by the word of the leader. If it does not wait for the key, the entry is removed."""
        named = self._names.parked_of(stored.subject)
        if named is not None:
            try:
                record = (await self._registry.load(named.activity, named.id)).record
            except UnreadableRecord:
                return None  # newer nodes are at work, and will know what to do
            if record is not None and record.waits_for is not None and record.waits_for.name == key:
                return Parked(stored.seq, stored.subject, record)
        # What the record says was written before the entry: this one has had its turn, and a later one lies elsewhere.
        await self.remove(stored.subject, stored.seq)
        return None

    async def _key(self, subject: str) -> LimitKey | None:
        """The key of the line that the entry on this subject is in; None if it has gone, or can't be read."""
        stored = await self._at(subject)
        try:
            return None if stored is None else load_key(stored.data)
        except UnreadableRecord as error:
            warn_once(logger, subject, "the line of %s can't be told: %s", subject, error)
            return None

    async def _next(self, subject: str, begin: int) -> StoredMessage | None:
        return await self._connection.get_message(self._names.work, seq=begin, next_by_subj=subject)

    async def _at(self, subject: str) -> StoredMessage | None:
        return await self._connection.get_message(self._names.work, last_by_subj=subject)

    def _entry(self, record: JobRecord) -> str:
        key = key_of(record)
        return self._names.parked(key.hash, record.activity, record.id, record.spec.priority)


class Head:
    """Entries of a line that were read and have not had their turn: the first of each lane, without a gap.

    It lasts from one look to the next. Others may have handed on in between: what a record says now counts.
    """

    def __init__(self) -> None:
        self.entries: defaultdict[int, deque[StoredMessage]] = defaultdict(deque)
        self.begin: defaultdict[int, int] = defaultdict(lambda: 1)
        """Where the entries of a lane begin that were not read."""
        self.many = 1
        """How many are read next at once: the more, the longer it lasts."""

    def copy(self) -> Head:
        """One to go back to, should the turns that are taken from this one come to nothing."""
        copied = Head()
        copied.entries.update((lane, deque(entries)) for lane, entries in self.entries.items())
        copied.begin.update(self.begin)
        copied.many = self.many
        return copied


class Look:
    """One look at the line of a key: who has his turn, one after the other. Each lane is read as far as it takes, and
    no further than what is known of it from the `head`.

    Jobs of the activities that are `idle` are passed over.
    """

    def __init__(self, lines: Lines, key: str, lanes: Iterable[int], idle: Collection[str], head: Head) -> None:
        self._lines = lines
        self._key = key
        self._idle = idle
        self._head = Head() if idle else head
        self._most = 1 if idle else _AHEAD
        """How many entries are read at once, at most: where some are passed over, the next is found by name."""
        self._ahead: dict[int, Parked | None] = {}
        """Of entries of the head, by their sequence, who waits there."""
        self._others: dict[int, set[str]] = {}
        """Lanes that began with a job that is passed over, and of which activities jobs wait there beside those."""
        self._begin = dict.fromkeys(sorted(lanes), 1)
        self._first: dict[int, Parked | None] = {}
        """Who is the first of each lane that was read; None: nobody."""
        self._gained: set[int] = set()
        """Lanes into which somebody was moved meanwhile."""

    @property
    def lanes(self) -> tuple[int, ...]:
        """The lanes, without those that were found to be empty."""
        empty = [lane for lane, first in self._first.items() if first is None and lane not in self._others]
        return tuple(sorted(lane for lane in self._begin if lane not in empty))

    async def read(self, count: int) -> None:
        """Read at once what so many turns take."""
        if self._idle:
            return
        self._head.many = max(self._head.many, min(count, self._most))
        await asyncio.gather(*(self._fill(lane) for lane in self._begin if not self._head.entries[lane]))
        entries: list[StoredMessage] = []
        for lane in sorted(self._begin):
            entries += islice(self._head.entries[lane], max(1, count - len(entries)))
        found = await asyncio.gather(*(self._lines.parked(entry, self._key) for entry in entries))
        self._ahead = {entry.seq: parked for entry, parked in zip(entries, found, strict=True)}

    async def next(self, passed: int) -> tuple[Parked, int] | None:
        """Who has his turn, where so many have passed who has waited longest, and how many will have then; None when
        nobody waits. It stays his until he is taken."""
        while unread := [lane for lane in self._begin if lane not in self._first]:
            found = await asyncio.gather(*map(self._read, unread))
            self._first.update(zip(unread, found, strict=True))
            for lane in self._gained:
                self._begin.setdefault(lane, 1)
                if self._first.get(lane) is None:
                    self._first.pop(lane, None)
            self._gained.clear()
        firsts = {lane: first for lane, first in self._first.items() if first is not None}
        if not firsts:
            return None
        lane, passed = next_turn({lane: first.seq for lane, first in firsts.items()}, passed)
        return firsts[lane], passed

    def take(self, parked: Parked) -> None:
        """He has had his turn."""
        lane = parked.record.spec.priority
        self._begin[lane] = parked.seq + 1
        self._head.entries[lane].popleft()
        del self._first[lane]

    async def _read(self, lane: int) -> Parked | None:
        """The first of this lane that has not had his turn. Those that belong into another one are moved there."""
        begin = self._begin[lane]
        while (parked := await self._known(lane, begin)) is not None:
            record = parked.record
            begin = parked.seq + 1
            if record.activity in self._idle:  # there may be thousands: the others are found by name
                self._others[lane] = (await self._lines.activities(self._key, lane)).difference(self._idle)
            elif record.spec.priority == lane:
                return parked
            else:
                await self._lines.move(record.activity, record.id, self._key, record.spec.priority)
                self._gained.add(record.spec.priority)
        return None

    async def _known(self, lane: int, begin: int) -> Parked | None:
        entries = self._head.entries[lane]
        while True:
            while entries:
                entry = entries[0]
                if entry.seq >= begin:
                    known = entry.seq in self._ahead
                    parked = self._ahead[entry.seq] if known else await self._lines.parked(entry, self._key)
                    if parked is not None:
                        return parked
                entries.popleft()
            await self._fill(lane)
            if not entries:
                return None

    async def _fill(self, lane: int) -> None:
        head = self._head
        activities = self._others.get(lane, ("*",))
        found = await self._lines.some(self._key, lane, head.begin[lane], head.many, activities)
        if found:
            head.entries[lane].extend(found)
            head.begin[lane] = found[-1].seq + 1
            head.many = min(2 * head.many, self._most)


def key_of(record: JobRecord) -> LimitKey:
    """What a parked job waits for."""
    assert record.waits_for is not None
    return LimitKey(record.waits_for.name, record.waits_for.limit)
