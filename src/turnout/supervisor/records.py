"""The walk of the registry: deadlines of jobs that no worker takes (P12), and records that no message carries any more.

A record that changes moves to the end of its stream, so what has been read once does not change in its place: each look
reads what was written since the last one, and remembers of what is not done with no more than its place, and when to
look at it again. A registry may hold very many ended jobs; they are read and forgotten.

A server that crashed may have lost its last writes and put others in their places. So all is read again when the
connection was lost in between, when the stream is another one, and every hour. What was known before counts meanwhile:
`decide()` is asked about the record as it is, whatever is remembered of it here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import attrs

from turnout import wire
from turnout.bounded import each
from turnout.core.events import Expired, Leftover, Stuck
from turnout.core.record import FINAL, JobState
from turnout.core.spec import is_name, priority_of
from turnout.crashpoints import reach
from turnout.errors import UnreadableRecord
from turnout.nats.boottime import boottime
from turnout.nats.direct import Raw, subject_in
from turnout.nats.pages import SMALL_PAGE, at_sequences, newest_of, some, unhurried
from turnout.nats.stream import Stream, expires, kv_stream
from turnout.store.perform import Store
from turnout.supervisor.agenda import Agenda
from turnout.supervisor.apply import AT_ONCE, Applier
from turnout.supervisor.owners import Owned, Owners

logger = logging.getLogger("turnout.supervisor")

ALL_AGAIN_S = 3600.0
QUICK_PAGES = 4
"""What was written since the last look is read at once, if it is no more than this; more waits for the next walk."""

_QUICK = QUICK_PAGES * SMALL_PAGE

_TOGETHER = 512
"""How many records are looked at again in one turn."""

_GRAIN_S = 0.5
_CHECK_EVERY_S = (30.0, 300.0)
"""How often it is asked whether a job has its message still: rarely of those that have waited for long."""


@attrs.frozen
class _Due:
    """A record that something may have to be done about, and where it lies."""

    seq: int
    brief: wire.Brief
    expires: bool


class _Plan:
    """When to look at which record: for its deadline, and for whether it is carried by a message still. The first must
    not be late for the many of the second."""

    def __init__(self) -> None:
        self.deadlines, self.checks = Agenda(_GRAIN_S), Agenda(_GRAIN_S)

    def __len__(self) -> int:
        return len(self.deadlines) + len(self.checks)


class Records:
    """What the registry holds that is not done with. `read` finds what is new, `look` deals with what is due."""

    def __init__(self, store: Store, apply: Applier, owners: Owners, *, settling_s: float, every_s: float) -> None:
        self._store = store
        self._apply = apply
        self._owners = owners
        self._settling_s = settling_s
        self._every_s = every_s
        self._stream = kv_stream(store.names.jobs_bucket)
        self.begin()

    def begin(self) -> None:
        """Know nothing."""
        self._plan, self._earlier = _Plan(), _Plan()
        self._read_up_to = 0
        self._begun: tuple[str, int] | None = None
        self._whole_at: float | None = None
        self._up_to_date_at = -self._every_s
        self._top = 0
        self._met: set[bytes] = set()

    @property
    def waiting(self) -> int:
        """How many looks at records are planned."""
        return len(self._plan) + len(self._earlier)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(self) -> bool:
        """Read up to what is the end now; whether nothing was there to be read. What is too much to be read at once is
        read without haste, when no more than that is written from one look to the next, or now and then: a namespace
        may write records as fast as they can be read, and most of them of jobs that have ended when they are. Errors
        are those of the connection."""
        connection = self._store.connection
        info = await Stream(connection, self._stream).info()
        begun, top = (str(info["created"]), connection.epoch), int(info["state"]["last_seq"])
        old = self._whole_at is not None and boottime() - self._whole_at > ALL_AGAIN_S
        if begun != self._begun or top < self._read_up_to or old:
            self._begun, self._read_up_to, self._whole_at = begun, 0, None
            self._earlier, self._plan = self._plan, _Plan()
            self._up_to_date_at = -self._every_s
        written, self._top = top - self._top, top
        if calm := top <= self._read_up_to:
            pass
        elif top - self._read_up_to <= _QUICK:
            await self._read_quickly(top)
        elif written <= _QUICK or boottime() - self._up_to_date_at >= self._every_s:
            await self._walk(top)
        else:
            return False
        self._up_to_date_at = boottime()
        if self._whole_at is None:
            self._whole_at, self._earlier = boottime(), _Plan()
        reach("supervisor.registry")
        return calm

    async def _read_quickly(self, top: int) -> None:
        subject = self._store.names.record("*", "*")
        while self._read_up_to < top:
            begin = self._read_up_to + 1
            page = await some(self._store.connection, self._stream, subject, begin, SMALL_PAGE, skip=self._is_done_with)
            self._note_all(page.messages)
            if not page.more or not page.messages:
                self._read_up_to = max(top, self._read_up_to)

    async def _walk(self, top: int) -> None:
        subject, begin = self._store.names.record("*", "*"), self._read_up_to + 1
        walk = unhurried(self._store.connection, self._stream, subject, begin, skip=self._is_done_with)
        async with aclosing(walk) as pages:
            async for page in pages:
                self._note_all(page)
                if self._read_up_to >= top:
                    break  # what is written meanwhile is for the next look: it may come as fast as it is read
        self._read_up_to = max(top, self._read_up_to)

    def _is_done_with(self, message: tuple[bytes, bytes]) -> bool:
        """Most records are: ended, and expiring. Told from the bytes, for there may be very many. One of whose job is
        known that it ran has to be met."""
        data, block = message
        if not expires(block) or wire.state_of(data) not in FINAL:
            self._met.add(subject_in(block))  # it may have ended since it was sent, and be met once more in one page
            return False
        if not self._met and not len(self._owners):
            return True
        subject = subject_in(block)
        return subject not in self._met and not self._owners.noted(*_job_of(subject))

    def _note_all(self, page: Sequence[Raw]) -> None:
        self._met.clear()
        for raw in page:
            due = self._parsed(raw)
            if due is not None:
                self._note(due)
            self._read_up_to = raw.seq

    def _parsed(self, raw: Raw) -> _Due | None:
        """The record, unless nothing will ever have to be done about it."""
        named = _job_of(raw.subject)
        is_expiring = expires(raw.block)
        if not raw.data or (is_expiring and wire.state_of(raw.data) in FINAL):
            self._owners.drop(*named)
            return None
        try:
            brief = wire.load_brief(raw.data)
        except UnreadableRecord as error:
            logger.warning("a record that can't be read stays as it is: %s", error)
            return None
        if (brief.activity, brief.id) != named or not all(map(is_name, named)):
            logger.warning("the record %r is left alone: it is of job %r, somebody has put it there", named, brief.id)
            return None
        return _Due(raw.seq, brief, is_expiring)

    def _note(self, due: _Due) -> None:
        """Remember when to look at it again."""
        brief, now = due.brief, self._store.connection.now()
        if brief.state is JobState.running and brief.token is not None and not brief.outside:
            self._owners.note(brief.activity, brief.id, Owned(brief.token, brief.message))
        else:
            self._owners.drop(brief.activity, brief.id)
        ends_late = brief.outside or not (brief.state.final or brief.state is JobState.running)
        if ends_late and brief.expires_at < math.inf:
            self._plan.deadlines.add(brief.expires_at, due.seq, now=now)
        self._plan.checks.add(_moved_at(brief) + self._settling_s, due.seq, now=now)

    # --- dealing with what is due -------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Deal with what is due. Errors are those of the connection."""
        for plan in (self._plan, self._earlier):
            await self._deal(plan.deadlines, self._end)
            await self._deal(plan.checks, self._check)
        reach("supervisor.records")

    async def _deal(self, agenda: Agenda, act: Callable[[Sequence[_Due], float], Awaitable[None]]) -> None:
        now = self._store.connection.now()
        with agenda.taking(now, _TOGETHER) as seqs:
            raws = await at_sequences(self._store.connection, self._stream, set(seqs)) if seqs else []
            await act([due for raw in raws if (due := self._parsed(raw)) is not None], now)

    async def _end(self, records: Sequence[_Due], now: float) -> None:
        """Their deadline has passed."""

        async def one(due: _Due) -> None:
            if not await self._apply(due.brief.activity, due.brief.id, Expired(now=now, delivery=None)):
                self._plan.deadlines.add(now + self._settling_s, due.seq, now=now)

        await each(one, records, AT_ONCE)

    async def _check(self, records: Sequence[_Due], now: float) -> None:
        """Somebody should be at work on them: is the message there that brings that about?"""
        names = self._store.names
        subjects = [names.jobs(due.brief.activity, due.brief.id, due.brief.priority) for due in records]
        newest = await newest_of(self._store.connection, names.work, subjects) if subjects else {}

        async def one(due: _Due, subject: str) -> bool:
            return await self._carried(due.brief, subject.encode() in newest, now)

        carried = await each(lambda found: one(*found), list(zip(records, subjects, strict=True)), AT_ONCE)
        for due, is_carried in zip(records, carried, strict=True):
            pause_s = _pause(due.brief, now) if is_carried else _CHECK_EVERY_S[0]
            self._plan.checks.add(now + pause_s, due.seq, now=now)

    async def _carried(self, brief: wire.Brief, there: bool, now: float) -> bool:
        """Whether a message carries the job, or its place in a line: most wait in a long queue. If none does, something
        is done about it."""
        activity, job_id, queue = brief.activity, brief.id, self._store.queue
        if there and not brief.state.final:
            return True
        try:
            found = None
            if not brief.state.final:
                if brief.waits_for and await self._store.places.in_line(activity, job_id, *_line_of(brief)):
                    return True
                if brief.message is not None and await queue.exists(brief.message):
                    return True
                found = await queue.find_routed(activity, job_id)
            found = found or await queue.find(activity, job_id, brief.priority)
            if found is not None and found.message.bare and found.spec.options.requires:
                await self._store.routes.keep(activity, job_id, found.spec.options.requires)
        except Exception as error:  # whatever this one job does to its reader, there are others
            logger.warning("job %s can't be looked at: %s", job_id, error)
            return True
        if found is not None and brief.state.final:
            # Whoever ended it before any worker took it died on the way: the sweep sees what was delivered only.
            await self._apply(activity, job_id, Leftover(delivery=found, now=now))
        elif found is None and brief.state is JobState.running and brief.token is not None and not brief.outside:
            await self._owners.check(activity, job_id, Owned(brief.token, brief.message))
        elif found is None and not (
            brief.waits_for and await self._store.places.knows(activity, job_id, *_line_of(brief))
        ):
            await self._apply(activity, job_id, Stuck(now=now, delivery=None, unparked=True))
        return found is not None and not brief.state.final


def _line_of(brief: wire.Brief) -> tuple[str, int]:
    """The key and the priority of those among whom the job waits."""
    return brief.waits_for, priority_of(brief.priority)


def _moved_at(brief: wire.Brief) -> float:
    """Since when somebody should be at work on it, or done with it."""
    if brief.state.final:
        return brief.finished_at
    return max(brief.submitted_at, brief.due_at, brief.waiting_since)


def _pause(brief: wire.Brief, now: float) -> float:
    """How long until the next check: what has waited for long may wait in a long queue."""
    if brief.state is JobState.running:
        return _CHECK_EVERY_S[0]
    return min(max((now - _moved_at(brief)) / 2, _CHECK_EVERY_S[0]), _CHECK_EVERY_S[1])


def _job_of(subject: bytes) -> tuple[str, str]:
    """The activity and the id that a record's subject names, be it of any bytes."""
    _, _, activity, job_id = subject.decode("utf-8", "replace").split(".")
    return activity, job_id
