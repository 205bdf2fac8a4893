"""`GroupHandle`: one group, by its id: how far it is, the results of its jobs in order, the jobs, and their end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar

from turnout import wire
from turnout.bounded import each
from turnout.client.away import outwaits
from turnout.client.groups.info import GroupInfo, group_info
from turnout.client.handle import JobHandle, failure_of
from turnout.client.info import JobInfo
from turnout.client.reader import Reader
from turnout.core.evolve import evolve
from turnout.core.failure import given_reason
from turnout.core.group import GroupRecord, member_id
from turnout.core.record import JobRecord, JobState
from turnout.core.retry import seconds
from turnout.definition.ambient import waiting
from turnout.definition.codec import decode_as
from turnout.errors import GroupNotFound, JobCancelled, JobFaulted, JobNotFound, UnreadableRecord
from turnout.nats.direct import Raw
from turnout.store.groups import KeptGroup
from turnout.store.members import PART, ActivityOf, Members
from turnout.store.perform import Performer, Store

R = TypeVar("R")

Decoders = Mapping[str, Callable[[str], Any]]
"""What makes a value of a result's text, by the activity's name; plain JSON of what is not named."""

_AT_ONCE = 32
_POLL_S = (0.05, 1.0)


class GroupHandle(Generic[R]):
    """One group, by its id. Made by `Client.submit_group` and `Client.group`; holds no state of it.

    group = await client.submit_group(convert_video, [{"path": path} for path in paths])
    print((await group.info()).counts)
    converted = await group.results(timeout=600)
    """

    def __init__(self, group_id: str, store: Store, performer: Performer, reader: Reader, decoders: Decoders) -> None:
        self.id = group_id
        self._store = store
        self._performer = performer
        self._reader = reader
        self._members = Members(store, performer)
        self._decoders = decoders

    def __repr__(self) -> str:
        return f"<GroupHandle {self.id}>"

    @outwaits
    async def info(self) -> GroupInfo:
        """The group as it stands. GroupNotFound when there is none."""
        return await info_of(self._members, await self._record())

    async def results(self, timeout: float | timedelta | None = None) -> list[R | JobFaulted | JobCancelled]:
        """The results of all its jobs in order, as soon as the last has ended and what follows is submitted.

        Instead of the result of a job that has faulted stands its JobFaulted, and of a cancelled one its JobCancelled;
        each has the job's `.info`. TimeoutError after `timeout` seconds, which leaves the group as it is. JobNotFound
        when the record of a job has expired.
        """
        limit_s = None if timeout is None else seconds(timeout, "timeout")
        record = await self._reader.unless_away(self._record())
        if record is None or record.finished_at is None:
            record = await self._finished(limit_s)
        activity_of = await self._members.activities(record)
        found: list[R | JobFaulted | JobCancelled] = []
        for first in range(0, record.total, PART):
            numbers = range(first, min(first + PART, record.total))
            raws = await self._members.records(record.id, activity_of, numbers)

            async def one(number: int, raws: Mapping[int, Raw] = raws) -> tuple[Any]:
                return (await self._result(record, activity_of(number), number, raws.get(number)),)

            # Each in a tuple: an error that stands for a result is not one to be raised.
            found += [result for (result,) in await each(one, numbers, _AT_ONCE)]
        return found

    @outwaits
    async def jobs(self) -> AsyncGenerator[JobInfo]:
        """Its jobs in order. One whose record has expired, or that is not submitted yet, is left out."""
        record = await self._record()
        activity_of = await self._members.activities(record)
        for first in range(0, record.total, PART):
            numbers = range(first, min(first + PART, record.total))
            for info in await each(lambda number: self._info(activity_of, number), numbers, _AT_ONCE):
                if info is not None:
                    yield info

    @outwaits
    async def cancel(self, reason: str = "") -> None:
        """Ask every job of it to end that has not, as `JobHandle.cancel` does; also those that somebody is about to
        submit. Nothing happens to a group that has finished. What is to follow when all have ended does."""
        why = given_reason(reason)
        await self._record()
        kept = await self._members.change(self.id, lambda record: _cancelled(record, why))
        if kept.record is None or kept.record.finished_at is not None:
            return
        if kept.record.published < kept.record.total:
            kept = await self._members.publish(kept, await self._store.groups.roster(kept.record))
        await self._members.cancel(kept)

    async def _record(self) -> GroupRecord:
        return _there(self.id, self._store.names.ns, await self._store.groups.load(self.id))

    async def _finished(self, limit_s: float | None) -> GroupRecord:
        """The group's record, as soon as it has finished."""
        limit = asyncio.timeout(limit_s)
        pause = _POLL_S[0]
        try:
            with waiting():
                async with limit:
                    while True:
                        kept = await self._reader.unless_away(self._store.groups.load(self.id))
                        if kept is not None:
                            record = _there(self.id, self._store.names.ns, kept)
                            if record.finished_at is not None:
                                return record
                        await asyncio.sleep(pause)
                        pause = min(pause * 1.2, _POLL_S[1])
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"group {self.id} has not finished after {limit_s:g} s; it goes on") from None

    async def _result(self, record: GroupRecord, activity: str, number: int, raw: Raw | None) -> Any:
        job = _loaded(raw)
        job_id = member_id(record.id, number)
        if job is None or not job.state.final:
            try:
                job = await self._reader.read(activity, job_id)
            except JobNotFound:
                if record.seen.of_member(number) is not JobState.cancelled:
                    raise
                return JobCancelled(f"job {job_id} was cancelled, and its record is gone")
        if not job.state.final:  # somebody has retried it since
            decode = self._decoders.get(activity)
            handle = JobHandle(job_id, activity, self._reader, self._performer, self._store, decode)
            try:
                return await handle.result()
            except (JobFaulted, JobCancelled) as error:
                return error
        if job.state is not JobState.completed:
            return await failure_of(self._reader, job)
        text = await self._reader.text(job.result) or "null"
        decode = self._decoders.get(activity)
        return decode(text) if decode is not None else decode_as(text, None, "result")

    async def _info(self, activity_of: ActivityOf, number: int) -> JobInfo | None:
        try:
            job = await self._reader.read(activity_of(number), member_id(self.id, number))
        except JobNotFound:
            return None
        return await self._reader.info(job)


async def info_of(members: Members, record: GroupRecord) -> GroupInfo:
    """The group as users see it, with the states of the jobs that have not ended."""
    states: Counter[JobState] = Counter()
    seen, first = record.seen, 0
    activity_of = await members.activities(record) if seen.left else None
    while activity_of is not None and (numbers := seen.open(first, PART)):
        found = await members.records(record.id, activity_of, numbers)
        known = [wire.state_of(found[number].data) if number in found else None for number in numbers]
        states.update(state or JobState.queued for state in known)  # without a record it waits for its first attempt
        first = numbers[-1] + 1
    return group_info(record, states)


def _cancelled(record: GroupRecord, reason: str) -> GroupRecord:
    if record.finished_at is not None:
        return record
    return evolve(record, cancel=reason, cancelled=0)


def _there(group_id: str, namespace: str, kept: KeptGroup) -> GroupRecord:
    if kept.record is None:
        raise GroupNotFound(f"no group {group_id} in namespace {namespace}: is the id right, or has it expired?")
    return kept.record


def _loaded(raw: Raw | None) -> JobRecord | None:
    try:
        return wire.load_record(raw.data) if raw is not None and raw.data else None
    except UnreadableRecord:
        return None
