"""The walk of the registry: deadlines of jobs that no worker takes (P12), and records whose message is gone.

A record that changes moves to the end of its stream, so what has been read once does not change in its place: each look
reads what was written since the last one, and remembers of it only what is not done with. A registry may hold very many
ended jobs; they are read once and forgotten.

A server that crashed may have lost its last writes and put others in their places. So all is read again when the
connection was lost in between, when the stream is another one, and every hour.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import attrs

from turnout import wire
from turnout.core.events import Event, Expired, Leftover, Stuck
from turnout.core.values import FINAL, NAME, JobRecord, JobState
from turnout.crashpoints import reach
from turnout.errors import UnreadableRecord
from turnout.jetstream.direct import Raw
from turnout.jetstream.names import kv_stream
from turnout.jetstream.perform import Store
from turnout.jetstream.suspension import suspended_too
from turnout.jetstream.walk import newest_of, unhurried
from turnout.supervisor import sweep

logger = logging.getLogger("turnout.supervisor")

ALL_AGAIN_S = 3600.0
_EXPIRING = b"\r\nNats-TTL: "
_TOGETHER = 256
"""Of how many jobs at once it is asked whether their messages are there."""

Apply = Callable[[str, str, Event], Awaitable[None]]
"""Applies an event to the job of an activity; whatever goes wrong is told to the log."""


@attrs.define
class Waiting:
    """A record that somebody has to act on some day. `since`: when that was first overdue, by `suspended_too()`."""

    due_at: float
    expires_at: float
    patience_s: float
    final: bool
    since: float | None = None


class Records:
    """What the registry holds that is not done with, as the acting supervisor knows it."""

    def __init__(self, store: Store, apply: Apply) -> None:
        self._store = store
        self._apply = apply
        self._stream = kv_stream(store.names.jobs_bucket)
        self._waiting: dict[bytes, Waiting] = {}
        self._read_up_to = 0
        self._begun: tuple[str, int] | None = None
        self._begun_at = 0.0

    @property
    def waiting(self) -> int:
        """How many records are remembered."""
        return len(self._waiting)

    async def look(self) -> None:
        """Read what is new, and act on what is overdue. Errors are those of the connection."""
        await self._read()
        now = self._store.connection.now()
        for subject in [subject for subject, each in self._waiting.items() if now >= each.expires_at]:
            activity, job_id = _job_of(subject)
            found = await self._store.queue.find(activity, job_id)
            await self._apply(activity, job_id, Expired(now=now, found=found))
        silent = [subject for subject, each in self._waiting.items() if self._silent(each, now)]
        for begin in range(0, len(silent), _TOGETHER):
            await self._look_for_messages(silent[begin : begin + _TOGETHER], now)
        reach("supervisor.registry")

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        connection, names = self._store.connection, self._store.names
        info = await connection.api(f"STREAM.INFO.{self._stream}")
        begun, top = (str(info["created"]), connection.epoch), int(info["state"]["last_seq"])
        if begun != self._begun or top < self._read_up_to or suspended_too() - self._begun_at > ALL_AGAIN_S:
            self._waiting, self._read_up_to = {}, 0
            self._begun, self._begun_at = begun, suspended_too()
        pages = unhurried(connection, self._stream, names.record("*", "*"), self._read_up_to + 1)
        async with aclosing(pages):
            async for page in pages:
                for raw in page:
                    self._note(raw)
                self._read_up_to = page[-1].seq
                if self._read_up_to >= top:
                    return  # what is written meanwhile is for the next look: it may come as fast as it is read

    def _note(self, raw: Raw) -> None:
        self._waiting.pop(raw.subject, None)
        # Most are done with, and have begun to expire: told from the bytes, for there may be very many.
        if not raw.data or (wire.state_of(raw.data) in FINAL and _EXPIRING in raw.block):
            return
        try:
            record = wire.load_record(raw.data)
        except UnreadableRecord as error:
            logger.warning("a record that can't be read stays as it is: %s", error)
            return
        # A running one is its owner's, or the other walk's; what is no name was put there by hand, and names no job.
        if record.state is not JobState.running and all(NAME.fullmatch(name) for name in _job_of(raw.subject)):
            self._waiting[raw.subject] = _waiting(record)

    # --- judging ------------------------------------------------------------------------------------------------------

    def _silent(self, each: Waiting, now: float) -> bool:
        """Whether nothing has become of the record for so long that its message may be gone."""
        if now < each.due_at or now >= each.expires_at:
            return False
        if each.since is None:
            each.since = suspended_too()
        if suspended_too() - each.since < each.patience_s:
            return False
        each.since = None  # it is looked for again after the same time
        return True

    async def _look_for_messages(self, silent: Sequence[bytes], now: float) -> None:
        """Jobs may wait in a long queue: most have their message, which one read tells of many."""
        names, jobs = self._store.names, {subject: _job_of(subject) for subject in silent}
        there = await newest_of(self._store.connection, names.work, [names.jobs(*job) for job in jobs.values()])
        for subject, (activity, job_id) in jobs.items():
            waiting = self._waiting.get(subject)
            if waiting is None or (names.jobs(activity, job_id).encode() in there and not waiting.final):
                continue
            found = await self._store.queue.find(activity, job_id)
            if found is None:
                await self._apply(activity, job_id, Stuck(now=now, found=None))
            elif waiting.final:
                # Whoever ended it before any worker took it died on the way: the other walk sees what was delivered.
                await self._apply(activity, job_id, Leftover(found=found, now=now))


def _job_of(subject: bytes) -> tuple[str, str]:
    """The activity and the id that a record's subject names, be it of any bytes."""
    _, _, activity, job_id = subject.decode("utf-8", "replace").split(".")
    return activity, job_id


def _waiting(record: JobRecord) -> Waiting:
    final = record.state.final
    return Waiting(
        due_at=0.0 if final else record.due_at or 0.0,
        expires_at=math.inf if final or record.expires_at is None else record.expires_at,
        patience_s=max(sweep.LEASES_UNTIL_STUCK * record.rules.lease, sweep.SETTLING_S),
        final=final,
    )
