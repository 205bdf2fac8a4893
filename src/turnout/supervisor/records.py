"""The walk of the registry: deadlines of jobs that no worker takes (P12), and records whose message is gone.

A record that changes moves to the end of its stream, so what has been read once does not change in its place: each look
reads what was written since the last one, and remembers of it only what is not done with. A registry may hold very many
ended jobs; they are read and forgotten.

A server that crashed may have lost its last writes and put others in their places. So all is read again when the
connection was lost in between, when the stream is another one, and every hour. What was known before counts meanwhile:
`decide()` is asked about the record as it is, whatever is remembered of it here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import attrs

from turnout import wire
from turnout.core.events import Event, Expired, Leftover, Stuck
from turnout.core.values import FINAL, NAME, JobRecord, JobState
from turnout.crashpoints import reach
from turnout.errors import TurnoutError, UnreadableRecord
from turnout.jetstream.direct import Raw
from turnout.jetstream.names import kv_stream
from turnout.jetstream.perform import Store
from turnout.jetstream.suspension import suspended_too
from turnout.jetstream.walk import newest_of, unhurried
from turnout.supervisor import sweep

logger = logging.getLogger("turnout.supervisor")

ALL_AGAIN_S = 3600.0
_FAR_S = 2 * ALL_AGAIN_S
"""What is due later than that is not remembered: it is met again before."""
_JUDGE_EVERY_S = 30.0
_EXPIRING = b"\r\nNats-TTL: "
_TOGETHER = 256
"""Of how many jobs at once it is asked whether their messages are there."""

Apply = Callable[[str, str, Event], Awaitable[None]]
"""Applies an event to the job of an activity; whatever goes wrong is told to the log."""


@attrs.define
class Waiting:
    """A record that somebody has to act on some day. `since`: when that was first overdue, by `suspended_too()`;
    `met`: the number of the reading that has met it last."""

    seq: int
    due_at: float
    expires_at: float
    patience_s: float
    final: bool
    met: int
    since: float | None = None


class Records:
    """What the registry holds that is not done with, as the acting supervisor knows it."""

    def __init__(self, store: Store, apply: Apply) -> None:
        self._store = store
        self._apply = apply
        self._stream = kv_stream(store.names.jobs_bucket)
        self._reading = 0
        self.forget()

    def forget(self) -> None:
        """Somebody else looks after them from now on."""
        self._waiting: dict[bytes, Waiting] = {}
        self._read_up_to = 0
        self._begun: tuple[str, int] | None = None
        self._whole_at: float | None = None

    @property
    def waiting(self) -> int:
        """How many records are remembered."""
        return len(self._waiting)

    async def look(self) -> None:
        """Read what is new, and act on what is overdue, also while much is read. Errors are those of the connection."""
        judged_at = suspended_too()
        try:
            async with aclosing(self._read()) as pages:
                async for _ in pages:
                    if suspended_too() - judged_at > _JUDGE_EVERY_S:
                        await self._judge()
                        judged_at = suspended_too()
        except TurnoutError:
            await self._judge()  # what is known can be acted on
            raise
        await self._judge()
        reach("supervisor.registry")

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read(self) -> AsyncGenerator[None]:
        """Read up to what is the end now; gives way after each page."""
        connection, names = self._store.connection, self._store.names
        info = await connection.api(f"STREAM.INFO.{self._stream}")
        begun, top = (str(info["created"]), connection.epoch), int(info["state"]["last_seq"])
        old = self._whole_at is not None and suspended_too() - self._whole_at > ALL_AGAIN_S
        if begun != self._begun or top < self._read_up_to or old:
            self._reading += 1
            self._begun, self._read_up_to, self._whole_at = begun, 0, None
        pages = unhurried(connection, self._stream, names.record("*", "*"), self._read_up_to + 1)
        async with aclosing(pages):
            async for page in pages:
                for raw in page:
                    self._note(raw)
                self._read_up_to = page[-1].seq
                if self._read_up_to >= top:
                    break  # what is written meanwhile is for the next look: it may come as fast as it is read
                yield
        if self._whole_at is None:
            self._whole_at = suspended_too()
            self._waiting = {subject: each for subject, each in self._waiting.items() if each.met == self._reading}

    def _note(self, raw: Raw) -> None:
        before = self._waiting.pop(raw.subject, None)
        # Most are done with, and have begun to expire: told from the bytes, for there may be very many.
        if not raw.data or (wire.state_of(raw.data) in FINAL and _EXPIRING in raw.block):
            return
        try:
            record = wire.load_record(raw.data)
        except UnreadableRecord as error:
            logger.warning("a record that can't be read stays as it is: %s", error)
            return
        named = _job_of(raw.subject)
        if (record.activity, record.id) != named or not all(map(NAME.fullmatch, named)):
            logger.warning("the record %r is left alone: it is of job %r, somebody has put it there", named, record.id)
            return
        waiting = _waiting(record, raw.seq, self._reading)
        if before is not None and before.seq == raw.seq:
            waiting.since = before.since
        far = self._store.connection.now() + _FAR_S
        # A running one is its owner's, or the other walk's.
        if record.state is not JobState.running and min(waiting.due_at, waiting.expires_at) < far:
            self._waiting[raw.subject] = waiting

    # --- judging ------------------------------------------------------------------------------------------------------

    async def _judge(self) -> None:
        now = self._store.connection.now()
        for subject in [subject for subject, each in self._waiting.items() if now >= each.expires_at]:
            # Its message is found when it is applied.
            await self._apply(*_job_of(subject), Expired(now=now, found=None))
        silent = [subject for subject, each in self._waiting.items() if _silent(each, now)]
        for begin in range(0, len(silent), _TOGETHER):
            await self._look_for_messages(silent[begin : begin + _TOGETHER], now)

    async def _look_for_messages(self, silent: Sequence[bytes], now: float) -> None:
        """Jobs may wait in a long queue: most have their message, which one read tells of many."""
        names, jobs = self._store.names, {subject: _job_of(subject) for subject in silent}
        there = await newest_of(self._store.connection, names.work, [names.jobs(*job) for job in jobs.values()])
        for subject, (activity, job_id) in jobs.items():
            waiting = self._waiting.get(subject)
            if waiting is None:
                continue
            if waiting.final or names.jobs(activity, job_id).encode() not in there:
                found = await self._store.queue.find(activity, job_id)
                if found is None:
                    await self._apply(activity, job_id, Stuck(now=now, found=None))
                elif waiting.final:
                    # Whoever ended it before any worker took it died on the way: the other walk sees what was
                    # delivered only.
                    await self._apply(activity, job_id, Leftover(found=found, now=now))
            waiting.since = None  # it is looked for again after the same time


def _silent(each: Waiting, now: float) -> bool:
    """Whether nothing has become of the record for so long that its message may be gone."""
    if now < each.due_at or now >= each.expires_at:
        return False
    if each.since is None:
        each.since = suspended_too()
    return suspended_too() - each.since >= each.patience_s


def _job_of(subject: bytes) -> tuple[str, str]:
    """The activity and the id that a record's subject names, be it of any bytes."""
    _, _, activity, job_id = subject.decode("utf-8", "replace").split(".")
    return activity, job_id


def _waiting(record: JobRecord, seq: int, met: int) -> Waiting:
    final = record.state.final
    return Waiting(
        seq=seq,
        due_at=0.0 if final else record.due_at or 0.0,
        expires_at=math.inf if final or record.expires_at is None else record.expires_at,
        patience_s=max(sweep.LEASES_UNTIL_STUCK * record.rules.lease, sweep.SETTLING_S),
        final=final,
        met=met,
    )
