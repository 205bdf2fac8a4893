"""A handle on one job: ask how it is, wait for its end, cancel, retry, delete it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

from turnout.client.info import JobInfo, LogLine
from turnout.client.joblogs import JobLogs
from turnout.client.reader import Reader
from turnout.client.replay import Replays
from turnout.core.events import CancelRequested, Leftover
from turnout.core.lifecycle import newer
from turnout.core.retry import seconds
from turnout.core.values import JobRecord, JobState, one_line
from turnout.definition.codec import decode_as
from turnout.errors import InvalidState, InvalidValue, JobCancelled, JobFaulted, TurnoutError
from turnout.jetstream.perform import Performer, Store

R = TypeVar("R")


class JobHandle(Generic[R]):
    """One job, by its id. Made by `Client.submit` and `Client.job`; holds no state of the job itself.

    handle = await client.submit(convert_video, path="a.mp4")
    print((await handle.info()).state)
    converted = await handle.result(timeout=60)
    """

    def __init__(
        self,
        job_id: str,
        activity: str | None,
        reader: Reader,
        performer: Performer,
        store: Store,
        decode: Callable[[str], R] | None = None,
    ) -> None:
        self.id = job_id
        self._activity = activity
        self._reader = reader
        self._performer = performer
        self._store = store
        self._decode = decode
        self.fresh_since: float | None = None
        """When this client submitted the job, by its event loop's clock; None once somebody has waited for it."""

    def __repr__(self) -> str:
        return f"<JobHandle {self._activity or '?'} {self.id}>"

    @property
    def activity(self) -> str | None:
        """The activity's name; None until the first call when the handle was made from an id alone."""
        return self._activity

    async def info(self) -> JobInfo:
        """The job as it stands. JobNotFound when there is none."""
        return await self._reader.info(await self._reader.read(await self._named(), self.id))

    async def result(self, timeout: float | timedelta | None = None) -> R:
        """The result, as soon as there is one.

        Errors: JobFaulted or JobCancelled, each with `.info`; TimeoutError after `timeout` seconds, which leaves the
        job as it is.
        """
        limit_s = None if timeout is None else seconds(timeout, "timeout")
        if limit_s == 0:  # the limit is on waiting: without any the job is asked for once
            ended: JobRecord | str = await self._reader.read(await self._named(), self.id)
        else:
            ended = await self._end(limit_s)
        if isinstance(ended, JobRecord):
            if not ended.state.final:
                raise TimeoutError(f"job {self.id} has not ended; it is {ended.state}")
            if ended.state is not JobState.completed:
                raise await self._failure(ended)
            ended = await self._reader.text(ended.result) or "null"
        return self._decode(ended) if self._decode is not None else decode_as(ended, None, "result")

    async def _end(self, limit_s: float | None) -> JobRecord | str:
        since, self.fresh_since = self.fresh_since, None
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                return await self._reader.end(await self._named(), self.id, since=since)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"job {self.id} has not ended after {limit_s:g} s; it goes on") from None

    async def _failure(self, record: JobRecord) -> JobCancelled | JobFaulted:
        info = await self._reader.info(record)
        if record.state is JobState.cancelled:
            return JobCancelled(f"job {self.id} was cancelled: {record.reason or 'no reason was given'}", info)
        error = record.error
        what = f"{error.type}: {error.message}" if error is not None else "no error was recorded"
        return JobFaulted(f"job {self.id} faulted ({record.reason}): {what}", info)

    async def cancel(self, reason: str = "") -> None:
        """Ask for the job's end. A job that has not started is cancelled when this returns; a running one has been
        asked to stop; for one that has ended nothing happens. The reason (its first 1,000 characters) is kept."""
        if not isinstance(reason, str):
            raise InvalidValue(f"reason must be text, not {reason!r}")
        activity = await self._named()
        await self._reader.read(activity, self.id)
        found = await self._store.queue.find(activity, self.id)
        now = self._store.connection.now()
        event = CancelRequested(reason=one_line(reason), now=now, found=found)
        await self._performer.apply(activity, self.id, event)

    async def retry(self) -> None:
        """Run a faulted or cancelled job again: same id, fresh budgets, its last checkpoint kept.

        Returns after the job has left its final state. A faulted job whose record has expired is found by its dead
        letter. InvalidState for a job in any other state.
        """
        replays = Replays(self._store, self._performer, self._reader)
        if self._activity is None:
            self._activity = await replays.locate(self.id)
        await replays.again(self._activity, self.id)

    async def delete(self) -> None:
        """Forget a job that has ended: its message first, then its record, its log lines and its large bodies.

        The dead letter of a faulted job stays, with all that it takes to replay it; those of earlier lives of a job
        that ended otherwise go. InvalidState for a job that has not ended: cancel it first.
        """
        activity = await self._named()
        loaded = await self._reader.load(activity, self.id)
        record = loaded.record or await self._reader.read(activity, self.id)
        if not record.state.final:
            raise InvalidState(f"job {self.id} is {record.state}; only an ended job can be deleted: cancel it first")
        found = await self._store.queue.find(activity, self.id)
        if found is not None:
            if newer(found, record):
                raise InvalidState(f"job {self.id} has just been retried; only an ended job can be deleted")
            left = Leftover(found=found, now=self._store.connection.now())
            loaded = (await self._performer.apply(activity, self.id, left, loaded)).job
        if record.message is not None:
            await self._store.queue.remove(record.message)
        await self._store.registry.delete(record, loaded.revision)
        with contextlib.suppress(TurnoutError):  # it is deleted: lines that stay expire
            await self._store.logs.purge(activity, self.id)
        if record.state is JobState.faulted:
            return
        if record.generation > 1:
            async for letter in self._store.letters.scan(activity, self.id):
                await self._store.letters.remove(letter.seq)
        for body in (record.payload, record.checkpoint, record.result):
            await self._store.payloads.delete(body)

    async def watch(self) -> AsyncIterator[JobInfo]:
        """The job now, then whenever it has changed (quick changes are coalesced), until it has ended."""
        before: JobInfo | None = None
        async with contextlib.aclosing(self._reader.changes(await self._named(), self.id)) as changes:
            async for record in changes:
                info = await self._reader.unless_away(self._reader.info(record))
                if info is None:
                    continue
                if info != before:
                    yield info
                if record.state.final:
                    return
                before = info

    async def logs(self, limit: int | None = None, *, attempt: int | None = None) -> list[LogLine]:
        """The last lines that the job's code has given to `job.log`, of all attempts in order or of one.

        `limit`: how many at most. Lines are kept for 30 days, 64 batches of a job, and are written once a second: those
        of the last second of a node that died are missing. JobNotFound when there is no such job.
        """
        return await (await self._logs(limit)).last(limit, attempt)

    async def follow_logs(
        self, limit: int | None = None, *, attempt: int | None = None
    ) -> AsyncGenerator[LogLine, None]:
        """The last lines as `logs` gives them, then the new ones as they are written, until the job has ended.

        async for line in handle.follow_logs():
            print(line.time, line.level, line.message)
        """
        async with contextlib.aclosing((await self._logs(limit)).follow(limit, attempt)) as lines:
            async for line in lines:
                yield line

    async def _logs(self, limit: int | None) -> JobLogs:
        if limit is not None and limit < 1:
            raise InvalidValue(f"limit must be an integer of at least 1, not {limit!r}")
        return JobLogs(self._store, self._reader, await self._named(), self.id)

    async def _named(self) -> str:
        if self._activity is None:
            self._activity = await self._reader.locate(self.id)
        return self._activity


AnyHandle = JobHandle[Any]
