"""The places of limits: taken before an attempt starts, handed on when it ends (P13).

Who holds the places of a key is one message, changed by compare-and-set. Who waits for one is parked: its record says
so, and an entry on a subject of the key stands for it; the stream's order is the line. Nobody polls. Whoever frees a
place gives it to the first in the line with the same write, and puts that job's message back into the stream. Whoever
joins the line looks once more, after its entry is stored, whether there is room; whoever has made room looks once more
at the line, after that is stored. So one of the two sees the other.

Tokens of a rate come with time. The record says who wakes the line for the next one: whoever has given out the last, or
has found the line without anybody who does. That one sets an alarm, and nobody else does. Nobody overtakes the line
meanwhile. For an alarm that died with its process the supervisor's look is enough: it gives out what is due, and so the
alarm is its own.

All that goes on at one node about one key goes through a desk, which does it together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from turnout.core.evolve import evolve
from turnout.core.limits import Entry, Holder, LimitKey, Places, Rule, hashed
from turnout.core.record import JobRecord
from turnout.crashpoints import reach
from turnout.errors import TurnoutError, UnreadableRecord
from turnout.nats.connection import Connection, StoredMessage, WrongLastSequence
from turnout.nats.messages import EXPECTED
from turnout.nats.stream import ON_SUBJECT, ROLLUP, TTL, Stream, for_seconds
from turnout.store.limits import Limits
from turnout.store.names import Names
from turnout.store.queue import SubjectTaken, WorkQueue
from turnout.store.records import Registry, scan
from turnout.wire.limits import dump_key, dump_places, load_key, load_places

logger = logging.getLogger("turnout.store")

_EMPTY_TTL_S = 60
"""For so long it is remembered of a key that nobody holds a place of it: there may be a key per customer."""

_TOGETHER = 100
"""So many places are handed on with one write, at most."""

_ALARM_S = 600.0
"""An alarm looks at the clock as often as this, at least."""

_LATE_S = 0.001
"""So much later than a token is due its alarm rings, rather than too early."""

_LONGEST_S = 10 * 365 * 86_400.0


@attrs.frozen
class _Wish:
    """What somebody wants of a desk: a place, one to be free, or with neither that free places are handed on.
    `unused`: it was taken for nothing, and so was its token."""

    done: asyncio.Future[Entry]
    take: Holder | None = None
    leave: Holder | None = None
    unused: bool = False


@attrs.frozen
class Parked:
    """A job that waits in a line, and where its entry lies."""

    seq: int
    record: JobRecord


class PlaceDesks:
    """The places of all keys. Errors are those of the connection; whatever raised one may be asked for again."""

    def __init__(
        self, connection: Connection, names: Names, registry: Registry, queue: WorkQueue, limits: Limits
    ) -> None:
        self._connection = connection
        self._names = names
        self._work = Stream(connection, names.work)
        self._registry = registry
        self._queue = queue
        self._limits = limits
        self._desks: dict[str, _Desk] = {}
        self._alarms: dict[str, asyncio.TimerHandle] = {}
        self._ringing: set[asyncio.Task[None]] = set()
        self.nonce = secrets.token_hex(8)
        """What it is called as the one who wakes a line."""

    async def take(self, key: LimitKey, holder: Holder) -> Entry:
        """Whether this attempt has a place now, or has had a token where that is all it needs."""
        return await self._ask(key, take=holder)

    async def leave(self, key: LimitKey, holder: Holder, *, unused: bool = False) -> None:
        """Free the place of this attempt, if it has one, and hand it on. `unused`: its token was taken for nothing,
        and is handed on as well."""
        await self._ask(key, leave=holder, unused=unused)

    async def hand_on(self, key: LimitKey) -> None:
        """Give what is free to those who wait in the line."""
        await self._ask(key)

    async def park(self, record: JobRecord) -> None:
        """Put the job into the line that its record says it waits in, and hand on what is free of it."""
        key = key_of(record)
        await self._connection.store(self._entry(record), dump_key(key), {ROLLUP: ON_SUBJECT})
        reach("places.parked")
        await self.hand_on(key)

    async def unpark(self, record: JobRecord) -> None:
        """Take the job out of that line."""
        await self._work.purge(self._entry(record))

    async def knows(self, activity: str, job_id: str, key: str) -> bool:
        """Whether the job waits in the line of this key, or has been given a place of it."""
        if await self.in_line(activity, job_id, key):
            return True
        places = (await self.load(key))[0]
        return places is not None and any((each.activity, each.id) == (activity, job_id) for each in places.holders)

    async def in_line(self, activity: str, job_id: str, key: str) -> bool:
        """Whether the job waits in the line of this key."""
        subject = self._names.parked(hashed(key), activity, job_id)
        return await self._connection.get_message(self._names.work, last_by_subj=subject) is not None

    async def ever_used(self) -> bool:
        """Whether anybody has ever said anything of a limit in this namespace."""
        return bool(await Stream(self._connection, self._names.limits).last_seq())

    async def all(self) -> list[Places]:
        """The places of every key that was used lately. May be a moment old."""
        found = []
        async for stored in scan(self._connection, self._names.limits, self._names.places("*")):
            try:
                found.append(load_places(stored.data))
            except UnreadableRecord as error:
                logger.warning("who holds places of %s can't be read: %s", stored.subject, error)
        return found

    async def lines(self, known: Iterable[LimitKey] = ()) -> dict[LimitKey, int]:
        """The keys that jobs wait for, and how many do; those that are `known` need not be looked up."""
        counts: Counter[str] = Counter()
        some: dict[str, str] = {}
        async for subject, _ in self._work.subjects(self._names.parked("*", "*", "*")):
            if (named := self._names.parked_of(subject)) is not None:
                counts[named[0]] += 1
                some[named[0]] = subject
        keys = {key.hash: key for key in known}
        for token, subject in some.items():
            if token not in keys and (key := await self._key(subject)) is not None:
                keys[token] = key
        return {keys[token]: count for token, count in counts.items() if token in keys}

    async def _key(self, subject: str) -> LimitKey | None:
        """The key of the line that the entry on this subject is in; None if it has gone, or can't be read."""
        stored = await self._connection.get_message(self._names.work, last_by_subj=subject)
        try:
            return None if stored is None else load_key(stored.data)
        except UnreadableRecord as error:
            logger.warning("the line of %s can't be told: %s", subject, error)
            return None

    async def put_back(self, record: JobRecord) -> None:
        """Put the message of a job that was given a place back into the stream, and take the job out of the line."""
        stored = await self._connection.get_message(self._names.work, last_by_subj=self._entry(record))
        await self.release(Parked(0 if stored is None else stored.seq, record))

    async def load(self, key: str) -> tuple[Places | None, int]:
        """Who holds the places of a key, and the revision; by the word of the leader."""
        stored = await self._connection.get_message(self._names.limits, last_by_subj=self._names.places(hashed(key)))
        return (None, 0) if stored is None or not stored.data else (load_places(stored.data), stored.seq)

    async def store(self, places: Places, revision: int, rule: Rule) -> None:
        """Write them, if nobody has since they were read; WrongLastSequence."""
        headers = {EXPECTED: str(revision)}
        if not places.holders:
            spent_s = min(max(0.0, places.refilled(rule) - self.now()), _LONGEST_S)
            headers[TTL] = for_seconds(_EMPTY_TTL_S + spent_s)
        await self._connection.store(self._names.places(hashed(places.key)), dump_places(places), headers)

    async def first(self, key: str, seq: int = 1) -> Parked | None:
        """The first job from this sequence on that waits in the key's line. Entries of jobs that do not are removed."""
        subject = self._names.parked(hashed(key), "*", "*")
        while True:
            stored = await self._connection.get_message(self._names.work, seq=seq, next_by_subj=subject)
            if stored is None:
                return None
            found = await self._parked(stored, key)
            if found is not None:
                return found
            seq = stored.seq + 1

    async def _parked(self, stored: StoredMessage, key: str) -> Parked | None:
        named = self._names.parked_of(stored.subject)
        if named is not None:
            try:
                record = (await self._registry.load(named[1], named[2])).record
            except UnreadableRecord:
                return None  # newer nodes are at work, and will know what to do
            if record is not None and record.waits_for is not None and record.waits_for.name == key:
                return Parked(stored.seq, record)
        # What the record says was written before the entry: this one has had its turn, and a later one lies elsewhere.
        await self._remove(stored.subject, stored.seq)
        return None

    async def release(self, parked: Parked) -> None:
        """Put the job's message back into the stream; its place has been stored. Whoever does it twice does no harm."""
        reach("places.granted")
        record, queue = parked.record, self._queue
        while True:
            found = await queue.find_named(record.activity, record.id, record.spec.priority)
            if found is not None and not found.message.same(record.message):
                break  # it is there already
            # The message with which it was parked may be on its way out yet: then it is replaced.
            with contextlib.suppress(SubjectTaken):
                expected = 0 if found is None else found.message.seq
                await queue.replace(record.spec, expected, 1, secrets.token_hex(8))
                break
        reach("places.released")
        if parked.seq:
            await self._remove(self._entry(record), parked.seq)

    async def _remove(self, subject: str, seq: int) -> None:
        """Remove an entry, unless the job has joined the line again since."""
        await self._work.purge(subject, below=seq + 1)

    async def rule(self, key: LimitKey) -> Rule:
        return await self._limits.rule(key)

    def now(self) -> float:
        return self._connection.now()

    def wake_at(self, key: LimitKey, due: float) -> None:
        """Look at the line of this key when a token is due; instead of what was asked before."""
        if (alarm := self._alarms.pop(key.key, None)) is not None:
            alarm.cancel()
        wait_s = min(max(0.0, due - self.now()) + _LATE_S, _ALARM_S)
        self._alarms[key.key] = asyncio.get_running_loop().call_later(wait_s, self._ring, key)

    def _ring(self, key: LimitKey) -> None:
        del self._alarms[key.key]
        task = asyncio.get_running_loop().create_task(self._wake(key))
        self._ringing.add(task)
        task.add_done_callback(self._ringing.discard)

    async def _wake(self, key: LimitKey) -> None:
        try:
            await self.hand_on(key)
        except TurnoutError as error:  # the supervisor will
            logger.info("the line of limit %s can't be woken now: %s", key.key, error)

    async def _ask(
        self, key: LimitKey, take: Holder | None = None, leave: Holder | None = None, *, unused: bool = False
    ) -> Entry:
        desk = self._desks.get(key.key)
        if desk is None:
            desk = self._desks[key.key] = _Desk(self, key)
        try:
            return await desk.ask(take, leave, unused=unused)
        finally:
            if desk.idle and self._desks.get(key.key) is desk:
                del self._desks[key.key]

    def _entry(self, record: JobRecord) -> str:
        assert record.waits_for is not None
        return self._names.parked(hashed(record.waits_for.name), record.activity, record.id)


def key_of(record: JobRecord) -> LimitKey:
    """What a parked job waits for."""
    assert record.waits_for is not None
    return LimitKey(record.waits_for.name, record.waits_for.limit)


class _Desk:
    """All that this node wants of one key, done together: one read and one write for as many as ask meanwhile."""

    def __init__(self, places: PlaceDesks, key: LimitKey) -> None:
        self._places = places
        self._key = key
        self._loop = asyncio.get_running_loop()
        self._wishes: list[_Wish] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return self._task is None

    async def ask(self, take: Holder | None, leave: Holder | None, *, unused: bool) -> Entry:
        done: asyncio.Future[Entry] = self._loop.create_future()
        self._wishes.append(_Wish(done, take, leave, unused))
        if self._task is None:
            self._task = self._loop.create_task(self._work())
        return await done

    async def _work(self) -> None:
        try:
            while self._wishes:
                wishes, self._wishes = self._wishes, []
                try:
                    await self._fulfil(wishes)
                except Exception as error:  # whatever it is, those who asked are told, and ask again
                    for wish in wishes:
                        if not wish.done.done():
                            wish.done.set_exception(error)
        finally:
            self._task = None
            for wish in self._wishes:
                wish.done.cancel()

    async def _fulfil(self, wishes: Sequence[_Wish]) -> None:
        """One round, and while it has made room that nobody has taken another look at the line."""
        looks = any(wish.take is None for wish in wishes)
        changed = await self._round(wishes, looks=looks)
        while looks and changed:
            changed = await self._round((), looks=True)

    async def _round(self, wishes: Sequence[_Wish], *, looks: bool) -> bool:
        """Whether there may be room for somebody who has joined the line meanwhile, or nobody to wake them."""
        while True:
            (before, revision), rule = await asyncio.gather(
                self._places.load(self._key.key), self._places.rule(self._key)
            )
            old = places = before or Places(self._key.key, self._key.name)
            for wish in wishes:
                if wish.leave is not None:
                    places = (
                        places.never_begun(wish.leave, rule, self._places.now())
                        if wish.unused
                        else places.without(wish.leave)
                    )
            granted: list[Parked] = []
            if looks:
                places, granted = await self._granted(places, rule)
            answers: list[Entry] = []
            for wish in wishes:
                places, answer = self._taken(places, wish.take, rule)
                answers.append(answer)
            if places.waker and math.isinf(old.due(rule)) and not math.isinf(places.due(rule)):
                places = evolve(places, waker=self._places.nonce)  # until now no alarm could be set
            if places != old:
                try:
                    await self._places.store(places, revision, rule)
                except WrongLastSequence:
                    continue
                reach("places.stored")
            break
        for wish, answer in zip(wishes, answers, strict=True):
            if not wish.done.done():
                wish.done.set_result(answer)
        for parked in granted:
            try:
                await self._places.release(parked)
            except TurnoutError as error:  # the place is the job's; the supervisor will see that it waits still
                logger.info("job %s has a place and is not put back yet: %s", parked.record.id, error)
        if places.waker == self._places.nonce and not math.isinf(due := places.due(rule)):
            self._places.wake_at(self._key, due)
        return places != old and (places.room(rule, self._places.now()) or bool(old.waker and not places.waker))

    def _taken(self, places: Places, holder: Holder | None, rule: Rule) -> tuple[Places, Entry]:
        """With a place for this holder, if it wants one and there is one that nobody waits for."""
        if holder is None:
            return places, Entry.passed
        promised = any(each.same_job(holder) for each in places.holders)
        waited_for = rule.rate is not None and places.waker and not promised
        taken = None if waited_for else places.taken_by(holder, rule, self._places.now())
        if taken is None:
            return places, Entry.refused
        return taken, Entry.held if rule.counts else Entry.passed

    async def _granted(self, places: Places, rule: Rule) -> tuple[Places, list[Parked]]:
        """With places for the first in the line, as far as there is room, and somebody to wake the next one."""
        granted: list[Parked] = []
        seq, waker = 1, places.waker
        while (room := places.room(rule, self._places.now())) and len(granted) < _TOGETHER:
            parked = await self._places.first(self._key.key, seq)
            if parked is None:
                break
            seq, record = parked.seq + 1, parked.record
            now = self._places.now()
            holder = Holder(record.activity, record.id, record.generation, record.begun + 1, now)
            held = any(each.same(holder) for each in places.holders)
            places = places if held else places.taken_by(holder, rule, now) or places
            granted.append(parked)
        if room or rule.rate is None or not places.vacant(rule):
            return evolve(places, waker=""), granted
        if await self._places.first(self._key.key, seq) is None:
            return evolve(places, waker=""), granted
        return evolve(places, waker=waker if waker and not granted else self._places.nonce), granted
