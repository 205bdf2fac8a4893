"""The places of limits: taken before an attempt starts, handed on when it ends (P13).

Who holds the places of a key is one message, changed by compare-and-set. Who waits for one is in the key's line
(store/lines.py). Nobody polls. Whoever frees a place gives it to who has his turn with the same write, and puts that
job's message back into the stream. Whoever joins the line looks once more, after its entry is stored, whether there is
room; whoever has made room looks once more at the line, after that is stored. So one of the two sees the other.

The same write notes in which lanes of the line jobs wait, and how many have passed who has waited longest: where none
is noted nobody waits, and nothing is read. Whoever joins a lane notes it when it looks; one that is found to be empty
is not noted any more, and looked at once more after that is stored. Of a lane that nobody has noted, for want of time,
the supervisor's look tells.

Noted is there as well of which activities nobody can start a job now, by whoever pauses one, or by the supervisor: a
place for such a job would be held for nothing.

Tokens of a rate come with time. The record says who wakes the line for the next one: whoever has given out the last, or
has found the line without anybody who does. That one sets an alarm, and nobody else does. Nobody overtakes the line
meanwhile. For an alarm that died with its process the supervisor's look is enough: it gives out what is due, and so the
alarm is its own.

All that goes on at one node about one key goes through a desk, which does it together. What the desk has written last
it believes until a write fails, for somebody else has written: so it mostly reads nothing, or the line alone. What
comes to no write is looked at by the word of the leader before it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import Collection, Iterable, Sequence, Set
from operator import attrgetter
from typing import Protocol

from turnout.core.evolve import evolve
from turnout.core.limits import Entry, Holder, LimitKey, Places, Rule, hashed, staying
from turnout.core.record import JobRecord
from turnout.core.spec import is_express
from turnout.core.struct import struct
from turnout.crashpoints import reach
from turnout.errors import StorageRefused, TurnoutError, UnreadableRecord
from turnout.nats.connection import Connection, WrongLastSequence
from turnout.nats.messages import EXPECTED
from turnout.nats.once import SubjectTaken
from turnout.nats.stream import TTL, Stream, for_seconds
from turnout.once import log_rarely, warn_once
from turnout.store.limits import BELIEVED_S, Limits
from turnout.store.lines import Head, Lines, Look, Parked, key_of
from turnout.store.names import Names
from turnout.store.queue import WorkQueue
from turnout.store.records import Registry, scan
from turnout.wire.limits import dump_places, load_places

logger = logging.getLogger("turnout.store")

_EMPTY_TTL_S = 60
"""For so long it is remembered of a key that nobody holds a place of it: there may be a key per customer."""

_TOGETHER = 100
"""So many places are handed on with one write, at most."""

_RELEASED_S = 1.0
"""So long it takes at most, mostly, until a job that was given a place has its message back."""

_ALARM_S = 600.0
"""An alarm looks at the clock as often as this, at least."""

_LATE_S = 0.001
"""So much later than a token is due its alarm rings, rather than too early."""

_LONGEST_S = 10 * 365 * 86_400.0

_LOOK_S = 0.1
"""Who waits at a desk is told of places that are freed elsewhere after so long, at most."""

_IDLE_S = 1.0
"""For so long a desk at which nobody asks remembers what it knows."""

_SETTLING_LOOK_S = 0.01

_AGAIN_S = 0.5
"""So long after a failure what nobody waits for is tried again."""

_BY_RANK = attrgetter("rank")

_FIRST = 1, 1
"""The order of a job's first attempt."""


class Patience(Protocol):
    """How long an attempt may wait at the desk for its place."""

    def lasts(self, *, brisk: bool) -> bool:
        """Whether it may wait now, where places change hands quickly or not; asked whenever it comes to that."""
        ...


@struct
class _Wish:
    """What somebody wants of a desk: a place, one to be free, or with neither that free places are handed on.
    `unused`: it was taken for nothing, and so was its token. `lanes`: in these jobs may wait.
    `idle`, `busy`: of these activities nobody can start a job now, of those somebody can again. `rank`: those of a
    lower one have their turn first. `patience`: it may wait for the place. `done`: who waits for the answer; None:
    nobody, and it is seen to whatever comes in between."""

    take: Holder | None = None
    leave: Holder | None = None
    unused: bool = False
    lanes: Collection[int] = ()
    idle: Collection[str] = ()
    busy: Collection[str] = ()
    rank: int = 0
    patience: Patience | None = None
    done: asyncio.Future[Entry] | None = None


class PlaceDesks:
    """The places of all keys. Errors are those of the connection; whatever raised one may be asked for again."""

    def __init__(
        self, connection: Connection, names: Names, registry: Registry, queue: WorkQueue, limits: Limits
    ) -> None:
        self._connection = connection
        self._names = names
        self.lines = Lines(connection, names, registry)
        self._queue = queue
        self._limits = limits
        self._desks: dict[str, _Desk] = {}
        self._alarms: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.leaving = 0
        """How many were let go and are not free yet."""
        self.nonce = secrets.token_hex(8)
        """What it is called as the one who wakes a line."""

    def take(
        self, key: LimitKey, holder: Holder, rank: int = 0, patience: Patience | None = None
    ) -> asyncio.Future[Entry]:
        """Whether this attempt has a place now, or has had a token where that is all it needs. With `patience` it may
        have waited for that here, behind those who wait in the line and those of a lower `rank`."""
        desk = self._desks.get(key.key) or self._opened(key)
        done = desk.loop.create_future()
        desk.wishes.append(_Wish(holder, rank=rank, patience=patience, done=done))
        if desk.task is None:
            desk.begin()
        return done

    def hurry(self) -> None:
        """Some of those who wait here may not do so any longer."""
        for desk in list(self._desks.values()):
            desk.look()

    def leave(self, key: LimitKey, holder: Holder, *, unused: bool = False) -> asyncio.Future[Entry]:
        """Free the place of this attempt, if it has one, and hand it on. `unused`: its token was taken for nothing,
        and is handed on as well."""
        desk = self._desks.get(key.key) or self._opened(key)
        done = desk.loop.create_future()
        desk.ask(_Wish(leave=holder, unused=unused, done=done))
        return done

    def let_go(self, key: LimitKey, holder: Holder) -> None:
        """Free the place of this attempt, if it has one, and hand it on, as soon as the server can be reached."""
        self.leaving += 1
        desk = self._desks.get(key.key) or self._opened(key)
        desk.wishes.append(_Wish(leave=holder))
        if desk.task is None:
            desk.begin()

    async def settled(self) -> None:
        """Wait until all that was let go is free."""
        while self.leaving:
            await asyncio.sleep(_SETTLING_LOOK_S)

    async def hand_on(
        self, key: LimitKey, lanes: Collection[int] = (), idle: Collection[str] = (), busy: Collection[str] = ()
    ) -> None:
        """Give what is free to those who wait in the line. `lanes`: jobs wait in these, be that noted or not. From now
        on jobs of the activities that are `idle` are passed over, and those of the `busy` ones are not."""
        desk = self._desks.get(key.key) or self._opened(key)
        done = desk.loop.create_future()
        desk.ask(_Wish(lanes=lanes, idle=idle, busy=busy, done=done))
        await done

    async def park(self, record: JobRecord) -> None:
        """Put the job into the line that its record says it waits in, and hand on what is free of it."""
        await asyncio.gather(self._queue.open_lane(record.spec), self.lines.enter(record))
        reach("places.parked")
        await self.hand_on(key_of(record), [record.spec.priority])

    async def unpark(self, record: JobRecord) -> None:
        """Take the job out of that line."""
        await self.lines.leave(record)

    async def rank(self, record: JobRecord) -> None:
        """Have the job, if it waits in that line, wait among those of its priority."""
        key = key_of(record)
        if await self.lines.move(record.activity, record.id, key.key, record.spec.priority):
            await self.hand_on(key, [record.spec.priority])

    async def knows(self, activity: str, job_id: str, key: str, priority: int) -> bool:
        """Whether the job waits in the line of this key, or has been given a place of it."""
        return await self.in_line(activity, job_id, key, priority) or await self.holds(activity, job_id, key)

    async def holds(self, activity: str, job_id: str, key: str) -> bool:
        """Whether the job has been given a place of this key."""
        places = (await self.load(key))[0]
        return places is not None and any((each.activity, each.id) == (activity, job_id) for each in places.holders)

    async def was_given(self, activity: str, job_id: str, key: LimitKey) -> bool:
        """Whether the job, which has no record any more, was given a place of this key before; it will not be now.

        Whoever has read its record, and is about to let it in, has read before that who holds the places. That is
        written once more, as it is: so he fails, and reads again.
        """
        rule, (places, revision) = await asyncio.gather(self.rule(key), self.load(key.key))
        # Somebody may have written it since, which is as good. Where there is no room for it there is none for him.
        with contextlib.suppress(WrongLastSequence, StorageRefused):
            await self.store(places or Places(key.key, key.name), revision, rule)
        return await self.holds(activity, job_id, key.key)

    async def in_line(self, activity: str, job_id: str, key: str, priority: int) -> bool:
        """Whether the job, which is of this priority, waits in the line of this key.

        If among others than those of its priority, it is moved: whoever has changed that died before he could.
        """
        lines = self.lines
        return await lines.holds(activity, job_id, key, priority) or await lines.move(activity, job_id, key, priority)

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
                warn_once(logger, stored.subject, "who holds places of %s can't be read: %s", stored.subject, error)
        return found

    async def put_back(self, record: JobRecord) -> None:
        """Put the message of a job that was given a place back into the stream, and take the job out of the line."""
        await self.release(await self.lines.find(record))

    async def load(self, key: str, known: tuple[Places | None, int] = (None, 0)) -> tuple[Places | None, int]:
        """Who holds the places of a key, and the revision; by the word of the leader. What is `known` is not
        decoded again."""
        stored = await self._connection.get_message(self._names.limits, last_by_subj=self._names.places(hashed(key)))
        if stored is None or not stored.data:
            return None, 0
        return known if stored.seq == known[1] else (load_places(stored.data), stored.seq)

    async def store(self, places: Places, revision: int, rule: Rule) -> int:
        """Write them, if nobody has since they were read, and return the new revision; WrongLastSequence."""
        headers = {EXPECTED: str(revision)}
        if not places.holders and not places.idle and not places.lanes:
            spent_s = min(max(0.0, places.refilled(rule) - self.now()), _LONGEST_S)
            headers[TTL] = for_seconds(_EMPTY_TTL_S + spent_s)
        return (await self._connection.store(self._names.places(hashed(places.key)), dump_places(places), headers)).seq

    async def release(self, parked: Parked) -> None:
        """Put the job's message back into the stream; its place has been stored. Whoever does it twice does no harm."""
        reach("places.granted")
        record, queue = parked.record, self._queue
        # The message with which it was parked is out by now, mostly, and there is nothing to be found.
        expected = None if is_express(record.spec.lane) else 0
        while expected is None or not await self._replaced(record, expected):
            found = await queue.find_named(record.activity, record.id, record.spec.lane)
            if found is not None and not found.message.same(record.message):
                break  # it is there already
            # That message may be on its way out yet: then it goes first. To replace it would cost others their turn.
            if found is not None and found.message.priority == record.spec.lane:
                await queue.remove(found.message)
            expected = 0
        reach("places.released")
        if parked.seq:
            await self.lines.remove(parked.subject, parked.seq)

    def release_soon(self, granted: Iterable[Parked]) -> None:
        """Do so for all of these while others go on."""

        async def one(parked: Parked) -> None:
            try:
                await self.release(parked)
            except TurnoutError as error:  # the place is the job's; the supervisor will see that it waits still
                logger.info("job %s has a place and is not put back yet: %s", parked.record.id, error)

        for parked in granted:
            self._keep(asyncio.get_running_loop().create_task(one(parked)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replaced(self, record: JobRecord, expected_seq: int) -> bool:
        """Whether the job's message has been put in place of the one at this sequence."""
        try:
            await self._queue.replace(record.spec, expected_seq, 1, secrets.token_hex(8))
        except SubjectTaken:
            return False
        return True

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
        self._keep(asyncio.get_running_loop().create_task(self._wake(key)))

    async def _wake(self, key: LimitKey) -> None:
        try:
            await self.hand_on(key)
        except TurnoutError as error:  # the supervisor will
            logger.info("the line of limit %s can't be woken now: %s", key.key, error)

    def close(self, key: LimitKey) -> None:
        """Nobody wants anything of this key now."""
        self._desks.pop(key.key, None)

    def _opened(self, key: LimitKey) -> _Desk:
        desk = self._desks[key.key] = _Desk(self, key)
        return desk


class _Desk:
    """All that this node wants of one key, done together: one read and one write for as many as ask meanwhile."""

    def __init__(self, places: PlaceDesks, key: LimitKey) -> None:
        self._places = places
        self._key = key
        self.loop = asyncio.get_running_loop()
        self.wishes: list[_Wish] = []
        self._standing: list[_Wish] = []
        """Those who wait here, in the order of their turns."""
        self._looking: asyncio.TimerHandle | None = None
        self._look_sure = False
        self.task: asyncio.Task[None] | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._forget()
        self._owed: Set[int] | None = None
        """The lanes that have to be looked at again with the line, if any have: there may be room for somebody who has
        joined it meanwhile, or nobody to wake them, or nobody knows any more that they wait there."""

    def _forget(self) -> None:
        self._known: tuple[Places | None, int] = (None, 0)
        """Who held the places when that was read or written last. It is mostly so still."""
        self._head = Head()
        self._rule = Rule()
        self._rule_until = 0.0

    def ask(self, wish: _Wish) -> None:
        self.wishes.append(wish)
        if self.task is None:
            self.begin()

    def look(self) -> None:
        """See whether there are places for those who wait here: others free some as well."""
        self._look_sure = bool(self._standing)
        if self._standing and self.task is None:
            self.begin()

    def begin(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self.task = self.loop.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self.wishes or self._owed is not None or self._look_sure:
                wishes = [wish for wish in self._standing if wish.done is not None and not wish.done.done()]
                wishes += [wish for wish in self.wishes if wish.done is None or not wish.done.done()]
                wishes.sort(key=_BY_RANK)
                self.wishes, self._standing = [], []
                try:
                    await self._round(wishes)
                except Exception as error:  # whatever it is, those who asked are told, and ask again
                    self._forget()
                    self._failed(wishes, error)
        finally:
            self.task = None
            if self._looking is not None:
                self._looking.cancel()
            self._looking = self.loop.call_later(_LOOK_S, self.look) if self._standing else None
            self._closing = self.loop.call_later(_IDLE_S, self._places.close, self._key)
            for wish in self.wishes:
                if wish.done is not None:
                    wish.done.cancel()

    def _ask_all(self, wishes: Iterable[_Wish]) -> None:
        for wish in wishes:
            self.ask(wish)

    def _failed(self, wishes: Sequence[_Wish], error: Exception) -> None:
        for wish in wishes:
            if wish.done is not None and not wish.done.done():
                wish.done.set_exception(error)
        if left := [wish for wish in wishes if wish.done is None]:
            log_rarely(logger, logging.INFO, "places", "places of limit %s are not free yet: %s", self._key.key, error)
            self.loop.call_later(_AGAIN_S, self._ask_all, left)

    async def _round(self, wishes: Sequence[_Wish]) -> None:
        """Fulfil these with one write, and look at the line if anybody has made room or a look is owed."""
        owed, self._owed = self._owed, None
        opens = any(wish.take is None for wish in wishes)
        lanes = {lane for wish in wishes for lane in wish.lanes}.union(owed or ())
        looked_at = lanes if opens or owed is not None else None
        sure, self._look_sure = self._look_sure, False
        while True:
            head, believing = self._head.copy(), self._known[0] is not None and not sure
            old, places, revision, rule, look = await self._read(wishes, looked_at, sure)
            granted: list[Parked] = []
            if look is not None:
                places, granted = await self._granted(places, rule, look)
            places, answers = self._seated(places, wishes, rule)
            if places.waker and math.isinf(old.due(rule)) and not math.isinf(places.due(rule)):
                places = evolve(places, waker=self._places.nonce)  # until now no alarm could be set
            brisk = places.brisk(self._places.now())
            waits = [
                answer is Entry.refused and self._waits(wish, rule, brisk=brisk)
                for wish, answer in zip(wishes, answers, strict=True)
            ]
            waits = staying([wish.rank for wish in wishes], answers, waits)
            if places == old and (not believing or all(waits)):
                break
            with contextlib.suppress(WrongLastSequence):
                if places != old:
                    revision = await self._places.store(places, revision, rule)
                    reach("places.stored")
                    break
            self._head, sure = head, True
        self._known = places, revision
        self._standing = [wish for wish, stays in zip(wishes, waits, strict=True) if stays]
        let_go = 0
        for wish, answer, stays in zip(wishes, answers, waits, strict=True):
            if wish.done is None:
                let_go += 1
            elif not stays and not wish.done.done():
                wish.done.set_result(answer)
        self._places.leaving -= let_go
        self._places.release_soon(granted)
        if places.waker == self._places.nonce and not math.isinf(due := places.due(rule)):
            self._places.wake_at(self._key, due)
        room, woken = places.room(rule, self._places.now()), bool(old.waker and not places.waker)
        known = lanes | set(old.lanes)
        again = (room and (opens or granted)) or woken or not known <= set(places.lanes)
        if look is not None and places != old and known and again:
            self._owed = known

    async def _read(
        self, wishes: Sequence[_Wish], lanes: Set[int] | None, sure: bool
    ) -> tuple[Places, Places, int, Rule, Look | None]:
        """Who holds the places, and who does without those who leave; what holds for them; and the line, if these lanes
        of it are to be looked at. What is known is believed but for `sure`."""
        (places, revision), rule, look, now = self._known, self._rule, None, self.loop.time()
        if places is None or sure:
            (places, revision), rule = await asyncio.gather(
                self._places.load(self._key.key, self._known), self._places.rule(self._key)
            )
            places = places or Places(self._key.key, self._key.name)
            self._rule_until = now + BELIEVED_S
        elif now >= self._rule_until:
            rule, look = await asyncio.gather(
                self._places.rule(self._key), self._line(places, self._left(places, wishes, rule), rule, lanes)
            )
            self._rule_until = now + BELIEVED_S
        left = self._left(places, wishes, rule)
        if look is None:
            look = await self._line(places, left, rule, lanes)
        self._rule = rule
        return places, left, revision, rule, look

    async def _line(self, before: Places, places: Places, rule: Rule, lanes: Set[int] | None) -> Look | None:
        """A look at the line, which is read as far as there is room; None: none is wanted, and no place was freed."""
        if lanes is None and places.holders != before.holders:
            lanes = frozenset()
        if lanes is None or not (lanes or places.lanes or places.waker):
            return None
        if places.idle:
            self._head = Head()
        look = Look(self._places.lines, self._key.key, lanes | set(places.lanes), places.idle, self._head)
        if places.room(rule, self._places.now()):
            await look.read(min(places.free(rule), _TOGETHER))
        return look

    def _left(self, places: Places, wishes: Sequence[_Wish], rule: Rule) -> Places:
        """Without those who want to be free, and with what is noted. Who begins once more is behind those who wait."""
        leaving = [wish.leave for wish in wishes if wish.leave is not None and not wish.unused]
        places = places.without(*leaving) if leaving else places
        again = [wish.take for wish in wishes if wish.take is not None and wish.take.order > _FIRST]
        places = places.without_earlier(*again) if again else places
        for wish in wishes:
            if wish.leave is not None and wish.unused:
                places = places.never_begun(wish.leave, rule, self._places.now())
            if wish.idle or wish.busy:
                places = places.noting(wish.idle, wish.busy)
        return places

    def _seated(self, places: Places, wishes: Sequence[_Wish], rule: Rule) -> tuple[Places, list[Entry]]:
        """With places for those who want one, as far as there are any that nobody waits for; what to answer to all."""
        wanting = {number: wish.take for number, wish in enumerate(wishes) if wish.take is not None}
        answers = [Entry.refused if number in wanting else Entry.passed for number in range(len(wishes))]
        if rule.rate is not None and places.waker:
            wanting = {number: each for number, each in wanting.items() if any(map(each.same_job, places.holders))}
        places, seated = places.seating(wanting.values(), rule, self._places.now())
        entry = Entry.held if rule.counts else Entry.passed
        for number, has in zip(wanting, seated, strict=True):
            if has:
                answers[number] = entry
        return places, answers

    def _waits(self, wish: _Wish, rule: Rule, *, brisk: bool) -> bool:
        """Whether it stays here, though there is no place for it. For tokens nobody does: they have an alarm."""
        return wish.patience is not None and rule.rate is None and wish.patience.lasts(brisk=brisk)

    async def _granted(self, places: Places, rule: Rule, look: Look) -> tuple[Places, list[Parked]]:
        """With places for those who have their turn, as far as there is room, and somebody to wake the next one."""
        granted: list[Parked] = []
        waker = places.waker
        while (room := places.room(rule, self._places.now())) and len(granted) < _TOGETHER:
            turn = await look.next(places.passed)
            if turn is None:
                break
            parked, passed = turn
            look.take(parked)
            record, now = parked.record, self._places.now()
            holder = Holder(record.activity, record.id, record.generation, record.begun + 1, now)
            held = next((each for each in places.holders if each.same(holder)), None)
            if held is None:
                places = evolve(places.taken_by(holder, rule, now) or places, passed=passed)
            elif now - held.at < _RELEASED_S:
                continue  # whoever has let him in is at it
            granted.append(parked)
        if room or rule.rate is None or not places.vacant(rule) or await look.next(places.passed) is None:
            waker = ""
        elif granted or not waker:
            waker = self._places.nonce
        return evolve(places, waker=waker, lanes=look.lanes), granted
