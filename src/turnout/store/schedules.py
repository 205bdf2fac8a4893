"""The schedules: their records by compare-and-set, and the ticks, which the server's own timers bring (P11).

A tick is one `@at` message on a subject of its own, so that arming it again changes nothing. When its time has come it
lies in the work stream until somebody has dealt with it. It says no more than that there is something to do: what is
due is known from the record.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

from turnout.core.schedule import ScheduleRecord
from turnout.core.struct import struct
from turnout.errors import UnreadableRecord
from turnout.nats.connection import Connection, StoredMessage, WrongLastSequence
from turnout.nats.messages import EXPECTED, KV_OPERATION
from turnout.nats.stream import TTL, Stream, for_seconds, kv_stream, scheduled
from turnout.once import warn_once
from turnout.store.names import Names
from turnout.store.records import Conflict, scan
from turnout.wire.converter import Garbled, dump, load

logger = logging.getLogger("turnout.store")

_MARKER_TTL_S = 3600
_NOW = "now"


@struct
class KeptSchedule:
    """A schedule's record as read, and the revision that the next write must find. Without a record there is none."""

    record: ScheduleRecord | None = None
    revision: int = 0


class Schedules:
    """Reads and writes schedules. Errors are those of the connection, and `Conflict`."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._stream = kv_stream(names.activities_bucket)
        self._work = Stream(connection, names.work)

    async def load(self, name: str) -> KeptSchedule:
        """The record by the word of the leader. UnreadableRecord when this turnout can't read it."""
        stored = await self._connection.get_message(self._stream, last_by_subj=self._names.schedule(name))
        return _kept(stored)

    async def save(self, record: ScheduleRecord, revision: int) -> KeptSchedule:
        """Write it if `revision` is still the newest."""
        try:
            subject, headers = self._names.schedule(record.name), {EXPECTED: str(revision)}
            ack = await self._connection.store(subject, dump(record), headers)
        except WrongLastSequence as error:
            raise Conflict(f"schedule {record.name} has changed") from error
        return KeptSchedule(record, ack.seq)

    async def delete(self, name: str, revision: int) -> None:
        """Forget it, and its ticks."""
        headers = {EXPECTED: str(revision), KV_OPERATION: "DEL", TTL: for_seconds(_MARKER_TTL_S)}
        try:
            await self._connection.store(self._names.schedule(name), b"", headers)
        except WrongLastSequence as error:
            raise Conflict(f"schedule {name} has changed") from error
        await self._work.purge(self._names.tick_timer(name, "*"))
        await self._work.remove_all(self._names.tick(name, "*"))

    async def scan(self) -> AsyncIterator[ScheduleRecord]:
        """Every schedule. May be a moment old. One that can't be read is left out, with a warning."""
        async for stored in scan(self._connection, self._stream, self._names.schedule("*")):
            try:
                record = _kept(stored).record
            except UnreadableRecord as error:
                warn_once(logger, stored.subject, "the schedule %s is left out: %s", stored.subject, error)
                continue
            if record is not None:
                yield record

    async def arm(self, record: ScheduleRecord) -> None:
        """Have the server bring the next tick at its time. One that is armed already stays as it is."""
        tick = None if record.paused else record.next_tick
        if tick is None:
            return
        what = str(round(tick * 1e6))
        headers = {**scheduled(record.due_at(tick), self._names.tick(record.name, what)), EXPECTED: "0"}
        with contextlib.suppress(WrongLastSequence):
            await self._connection.store(self._names.tick_timer(record.name, what), b"", headers)

    async def wake(self, name: str) -> None:
        """Have somebody look at the schedule now. There is one such message of a schedule: the newest."""
        subject = self._names.tick(name, _NOW)
        stored = await self._connection.store(subject, b"", {})
        await self._work.remove_all(subject, below=stored.seq)


def _kept(stored: StoredMessage | None) -> KeptSchedule:
    if stored is None:
        return KeptSchedule()
    if stored.marker:
        return KeptSchedule(None, stored.seq)
    try:
        return KeptSchedule(load(stored.data, ScheduleRecord), stored.seq)
    except Garbled as error:
        raise UnreadableRecord(
            f"what is under {stored.subject} is no schedule that can be read here: {error}"
        ) from error
