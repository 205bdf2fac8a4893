"""The lines that a job has logged: as they were kept, and as they come.

A batch is on its way for a moment: one that was written just before its job's end may be stored just after it, as the
two go to streams of their own. So what is read of a job that has ended within the last second is read again and again,
until it has stayed the same for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from turnout.client.info import LogLine, log_line
from turnout.client.reader import Reader
from turnout.core.loglines import Line
from turnout.core.record import JobRecord
from turnout.store.perform import Store

_FRESH_S = 1.0
_AGAIN_S = 0.05
_QUIET_READS = 6
"""So many reads in a row that find nothing new are the end of the lines of a job that has just ended."""
_POLL_S = 2.0
_STORED_AFTER_S = 0.02
"""How soon after it was heard a batch is looked for: it is stored by then, and others have come."""
_LIVES_APART_S = 1.0
"""Lines that are older than their job by this much are of an earlier job of its id, whose record has expired."""


class JobLogs:
    """Reads the lines of one job."""

    def __init__(self, store: Store, reader: Reader, activity: str, job_id: str) -> None:
        self._store = store
        self._reader = reader
        self._activity = activity
        self._id = job_id
        self._seen = 0

    async def last(self, limit: int | None, attempt: int | None) -> list[LogLine]:
        """The last `limit` lines that are kept, attempt by attempt; of one attempt, if it is given. JobNotFound."""
        record = await self._reader.read(self._activity, self._id)
        found = await self._new(record)
        if self._just_ended(record):
            found += await self._late(record)
        # A node that was cut off writes the lines of its attempt when it is back, after those of the next.
        found.sort(key=lambda line: line.attempt)
        return _chosen(found, limit, attempt)

    async def follow(self, limit: int | None, attempt: int | None) -> AsyncGenerator[LogLine, None]:
        """The last `limit` lines that are kept, then those that come, until the job has ended. JobNotFound."""
        record = await self._reader.read(self._activity, self._id)
        ends_now = not record.state.final or self._just_ended(record)
        heard = asyncio.Event()
        connection = self._store.connection
        subject = self._store.names.log(self._activity, self._id)
        subscription = await connection.subscribe(subject, lambda _: heard.set(), confirmed=False)
        end = asyncio.create_task(self._reader.end(self._activity, self._id))
        end.add_done_callback(lambda _: heard.set())
        try:
            while True:
                over = end.done()
                heard.clear()
                lines = await self._reader.unless_away(self._new(record))
                if lines is not None:
                    for line in _chosen(lines, limit, attempt):
                        yield line
                    limit = None
                    if over:
                        break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        await heard.wait()
                await asyncio.sleep(_AGAIN_S if end.done() else _STORED_AFTER_S)
            await end
            for line in _chosen(await self._late(record) if ends_now else [], None, attempt):
                yield line
        finally:
            end.cancel()
            await subscription.close()

    async def _new(self, record: JobRecord) -> list[Line]:
        """The lines that have not been read yet."""
        lines: list[Line] = []
        seen = self._seen
        async for batch in self._store.logs.read(self._activity, self._id, seen):
            seen = batch.seq
            if batch.at > record.spec.submitted_at - _LIVES_APART_S:
                lines += batch.lines
        self._seen = seen
        return lines

    async def _late(self, record: JobRecord) -> list[Line]:
        """What is stored behind the end of a job that ends now: until nothing has come for a while."""
        found: list[Line] = []
        quiet = 0
        while quiet < _QUIET_READS:
            await asyncio.sleep(_AGAIN_S)
            more = await self._reader.unless_away(self._new(record))
            quiet = 0 if more else quiet + 1
            found += more or []
        return found

    def _just_ended(self, record: JobRecord) -> bool:
        ended_at = record.finished_at
        return record.state.final and ended_at is not None and self._store.connection.now() - ended_at < _FRESH_S


def _chosen(lines: list[Line], limit: int | None, attempt: int | None) -> list[LogLine]:
    found = [line for line in lines if attempt in (None, line.attempt)]
    return [log_line(line) for line in (found if limit is None else found[-limit:])]
