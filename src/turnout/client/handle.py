"""A handle on one job: ask how it is, wait for its end, cancel, retry, delete it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

from turnout.client.away import outwaits
from turnout.client.filters import limit_of
from turnout.client.info import JobInfo, LogLine
from turnout.client.job_logs import JobLogs
from turnout.client.outside import OutsideMethods, checked_attempt
from turnout.client.reader import Reader
from turnout.client.replay import Replays
from turnout.client.unbegun import UnbegunJobs
from turnout.core.events import CancelRequested, Leftover, PriorityRequested
from turnout.core.failure import NO_REASON, given_reason
from turnout.core.lifecycle import newer
from turnout.core.record import JobRecord, JobState
from turnout.core.retry import seconds
from turnout.core.spec import FIRST_PRIORITY, checked_priority
from turnout.core.workflows.jobs import ending_of_job
from turnout.core.workflows.values import InputKind
from turnout.definition.ambient import waiting
from turnout.definition.codec import decode_as
from turnout.errors import InvalidState, JobCancelled, JobFaulted, TurnoutError
from turnout.store.perform import Performer, Store
from turnout.store.records import Conflict

R = TypeVar("R")

_DELETIONS = 10
"""So often a deletion looks again at a job that others change meanwhile."""


class JobHandle(OutsideMethods, Generic[R]):
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
        self.encode: Callable[[Any], str] | None = None
        """Makes JSON of a result by the activity's return type, where the handle knows it."""
        self.fresh_since: float | None = None
        """When this client submitted the job, by its event loop's clock; None once somebody has waited for it."""

    def __repr__(self) -> str:
        return f"<JobHandle {self._activity or '?'} {self.id}>"

    @property
    def activity(self) -> str | None:
        """The activity's name; None until the first call when the handle was made from an id alone."""
        return self._activity

    @outwaits
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
                raise await failure_of(self._reader, ended)
            ended = await self._reader.text(ended.result) or "null"
        return self._decode(ended) if self._decode is not None else decode_as(ended, None, "result")

    async def _end(self, limit_s: float | None) -> JobRecord | str:
        since, self.fresh_since = self.fresh_since, None
        limit = asyncio.timeout(limit_s)
        try:
            with waiting():
                async with limit:
                    return await self._reader.end(await self._named(), self.id, since=since)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"job {self.id} has not ended after {limit_s:g} s; it goes on") from None

    @outwaits
    async def cancel(self, reason: str = "") -> None:
        """Ask for the job's end. A job that has not started is cancelled when this returns; a running one has been
        asked to stop; for one that has ended nothing happens. The reason (its first 1,000 characters) is kept."""
        kept = given_reason(reason)
        activity = await self._named()
        await self._reader.settled(activity, self.id)
        event = CancelRequested(reason=kept, now=self._store.connection.now())
        await self._performer.apply(activity, self.id, event)

    @outwaits
    async def retry(self, *, checkpoint: bool = True) -> None:
        """Run a faulted or cancelled job again: same id, fresh budgets, its last checkpoint kept.

        `checkpoint=False` begins without it: the way out when newer code can't read what older code has stored.
        Returns after the job has left its final state. A faulted job whose record has expired is found by its
        dead letter. InvalidState for a job in any other state.
        """
        replays = Replays(self._store, self._performer, self._reader)
        if self._activity is None:
            self._activity = await replays.locate(self.id)
        await replays.again(self._activity, self.id, checkpoint=checkpoint)

    @outwaits
    async def set_priority(self, priority: int) -> None:
        """Let a job that waits start before others, or after them: 1 first, 5 last.

        One that waits for its time keeps waiting for it. InvalidState for a job that runs or has ended.

            await client.job("report-7").set_priority(1)
        """
        await self._prioritize(checked_priority(priority), at_once=False)

    @outwaits
    async def run_now(self) -> None:
        """Let a job that waits start as soon as it can: as one of priority 1, and before its time if it waits for a
        delay or a retry.

        A pause of its activity and limits hold it up still. InvalidState for a job that runs or has ended.
        """
        await self._prioritize(FIRST_PRIORITY, at_once=True)

    async def _prioritize(self, priority: int, *, at_once: bool) -> None:
        activity = await self._named()
        record: JobRecord | None = await self._reader.settled(activity, self.id)
        if record is not None and not _ends_or_runs(record):
            now, nonce = self._store.connection.now(), self._store.chance.nonce()
            event = PriorityRequested(priority=priority, now=now, nonce=nonce, at_once=at_once)
            record = (await self._performer.apply(activity, self.id, event)).job.record
        if record is not None and _ends_or_runs(record):
            raise InvalidState(f"job {self.id} is {record.state}; only a job that waits has a priority to change")

    @outwaits
    async def delete(self, *, unbegun: bool = False) -> None:
        """Forget a job that has ended: its message first, then its record, its log lines and its large bodies.

        The dead letter of a faulted job stays, with all that it takes to replay it; those of earlier lives of a job
        that ended otherwise go. InvalidState for a job that has not ended: cancel it first.

        `unbegun=True`: instead a job that waits and that nobody has begun, without a trace of it. It is for a store
        that is full: a cancel needs room for a record, this makes some. InvalidState for a job of which an attempt has
        begun, and for one that a workflow waits for; in a group it counts as cancelled.
        """
        activity = await self._named()
        if unbegun:
            await UnbegunJobs(self._store).delete(activity, self.id)
            return
        for _ in range(_DELETIONS):
            with contextlib.suppress(Conflict):  # somebody else retries or deletes it just now: look again
                await self._forget(activity)
                return
        raise InvalidState(f"job {self.id} is changed by others all the time: try again")

    async def _forget(self, activity: str) -> None:
        await self._reader.settled(activity, self.id)
        loaded = await self._reader.load(activity, self.id)
        record = loaded.record or await self._reader.read(activity, self.id)
        if not record.state.final:
            raise InvalidState(f"job {self.id} is {record.state}; only an ended job can be deleted: cancel it first")
        end = (
            await self._store.queue.end()
        )  # a message that its requeues have left, and a crash brings back, lies before
        found = await self._store.queue.find(activity, self.id)
        if found is not None:
            if newer(found, record):
                raise InvalidState(f"job {self.id} has just been retried; only an ended job can be deleted")
            left = Leftover(delivery=found, now=self._store.connection.now())
            loaded = (await self._performer.apply(activity, self.id, left, loaded)).job
        if record.spec.options.parent is not None:  # whoever ended it may have died before it could say so (W4)
            await self._store.inbox.tell(record.spec.options.parent, InputKind.done, ending_of_job(record))
        if record.message is not None:
            await self._store.queue.remove(record.message)
        marker = await self._store.registry.delete(record, loaded.revision, end)
        again = await self._store.queue.find_named(activity, self.id, record.spec.lane)
        if again is not None and newer(again, record):
            # Somebody has retried it at the same time: that counts, and goes on from what stands in the record.
            await self._store.registry.save(record, marker, expires=True)
            raise InvalidState(f"job {self.id} has just been retried; only an ended job can be deleted")
        with contextlib.suppress(TurnoutError):  # it is deleted: lines that stay expire
            await self._store.logs.purge(activity, self.id)
        if record.state is JobState.faulted:
            return
        if record.generation > 1:
            async for dead_letter in self._store.dead_letters.scan(activity, self.id):
                await self._store.dead_letters.remove(dead_letter.seq)
        for body in (record.spec.payload, record.checkpoint, record.result):
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

    @outwaits
    async def logs(self, limit: int | None = None, *, attempt: int | None = None) -> list[LogLine]:
        """The last lines that the job's code has given to `job.log`, of all attempts in order or of one.

        `limit`: how many at most. Lines are kept for 30 days, 64 batches of a job, and are written once a second: those
        of the last second of a node that died are missing. JobNotFound when there is no such job.
        """
        most = limit_of(limit)
        checked_attempt(attempt)
        return await (await self._logs()).last(most, attempt)

    @outwaits
    async def follow_logs(
        self, limit: int | None = None, *, attempt: int | None = None
    ) -> AsyncGenerator[LogLine, None]:
        """The last lines as `logs` gives them, then the new ones as they are written, until the job has ended.

        async for line in handle.follow_logs():
            print(line.time, line.level, line.message)
        """
        most = limit_of(limit)
        checked_attempt(attempt)
        async with contextlib.aclosing((await self._logs()).follow(most, attempt)) as lines:
            async for line in lines:
                yield line

    async def _logs(self) -> JobLogs:
        return JobLogs(self._store, self._reader, await self._named(), self.id)

    async def _named(self) -> str:
        if self._activity is None:
            self._activity = await self._reader.locate(self.id)
        return self._activity


def _ends_or_runs(record: JobRecord) -> bool:
    return record.state.final or record.state is JobState.running


AnyHandle = JobHandle[Any]


async def failure_of(reader: Reader, record: JobRecord) -> JobCancelled | JobFaulted:
    """What `result()` raises of a job that was cancelled or has faulted."""
    info = await reader.info(record)
    if record.state is JobState.cancelled:
        return JobCancelled(f"job {record.id} was cancelled: {record.reason or NO_REASON}", info)
    what = record.error or "no error was recorded"
    return JobFaulted(f"job {record.id} faulted ({record.reason}): {what}", info)
