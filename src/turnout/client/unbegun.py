"""Deletes jobs that nobody has begun, where nothing more can be stored: what it takes is room for a marker at most.

The job's message goes first, which makes room. Then it is asked whether its consumer had ever handed it out. If it
had not, nobody can begin the job any more, and a record of it is removed as well. If it had, a worker may begin it at
this very moment. So a marker is put where the record is, or would be, which refuses the worker's write; where a record
that says so was quicker, the job has begun, and goes on from its record. What somebody moved or put back meanwhile is
looked for again until nothing is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from turnout.core.lifecycle import as_it_stands
from turnout.core.record import Delivery, JobRecord, JobState
from turnout.errors import InvalidState, JobNotFound, StorageRefused
from turnout.store.consumers import consumer_of
from turnout.store.lines import key_of
from turnout.store.names import lane
from turnout.store.perform import Store
from turnout.store.records import Conflict, Versioned

UNBEGUN = frozenset({JobState.scheduled, JobState.queued})
"""The states of jobs that may not have begun."""

_ROUNDS = 8

_Find = Callable[[str, str, int | None], Awaitable[Delivery | None]]


class UnbegunJobs:
    """Deletes them. Errors are those of the connection, and what `delete` says."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def delete(self, activity: str, job_id: str) -> None:
        """Delete the job, unless an attempt of it has begun, or a workflow waits for it: InvalidState. JobNotFound."""
        loaded, found = await self._look(self._store.queue.find, activity, job_id)
        taken: list[JobRecord] = []
        for _ in range(_ROUNDS):
            record = as_it_stands(loaded.record, found)
            if record is None:
                break
            _check(record)
            taken.append(record)
            with contextlib.suppress(Conflict):  # somebody else has written the record, and may have begun the job
                await self._take_away(record, loaded, found)
            loaded, found = await self._look(self._store.queue.find_named, activity, job_id)
        else:
            raise InvalidState(f"job {job_id} is on its way from one queue to another: try again")
        if not taken:
            raise JobNotFound(f"no job {job_id} of activity {activity} in namespace {self._store.names.ns}")
        for record in taken:
            await self._store.payloads.delete(record.spec.payload)

    async def _look(self, find: _Find, activity: str, job_id: str) -> tuple[Versioned, Delivery | None]:
        """The record and the message. Where there is none it may have been taken, and have ended, since the record was
        read: that is read again."""
        loaded = await self._store.registry.load(activity, job_id)
        while True:
            found = await find(activity, job_id, None if loaded.record is None else loaded.record.spec.lane)
            if found is not None:
                return loaded, found
            again = await self._store.registry.load(activity, job_id)
            if again.revision == loaded.revision:
                return loaded, None
            loaded = again

    async def _take_away(self, record: JobRecord, loaded: Versioned, found: Delivery | None) -> None:
        store, revision = self._store, 0
        if record.state is JobState.scheduled:
            await store.queue.unschedule(record.spec)
        if record.waits_for is not None:
            await store.places.unpark(record)
            if await store.places.holds(record.activity, record.id, record.waits_for.name):
                raise _let_in(record)
        if found is not None:
            await store.queue.remove(found.message)
        if found is not None and await self._handed_out(loaded, found):
            revision = await self._mark(record, loaded, found)
        elif loaded.record is not None:
            await store.registry.drop(record, loaded.revision)
        if record.waits_for is not None and await store.places.was_given(record.activity, record.id, key_of(record)):
            with contextlib.suppress(Conflict, StorageRefused):  # it has begun; or it does so with its message alone
                await store.registry.save(record, revision)
            raise _let_in(record)
        if record.spec.options.requires:
            await store.routes.take_off(record)

    async def _mark(self, record: JobRecord, loaded: Versioned, found: Delivery) -> int:
        try:
            return await self._store.registry.mark(record, loaded.revision, found.message)
        except StorageRefused as error:
            raise InvalidState(
                f"job {record.id} was handed to a worker, and there is no room for the marker that would keep that from"
                " beginning it: delete others first"
            ) from error

    async def _handed_out(self, loaded: Versioned, found: Delivery) -> bool:
        """Whether anybody may have been handed the message. It is gone: from now on nobody will be."""
        if loaded.record is not None and loaded.record.spec.options.requires:
            return True  # whoever sends a job on has been handed it
        name = lane(found.activity, found.message.priority)
        consumer = await consumer_of(self._store.connection, self._store.names, name)
        return consumer is not None and found.message.seq <= consumer.delivered_seq


def _let_in(record: JobRecord) -> InvalidState:
    key = key_of(record)
    return InvalidState(f"job {record.id} has just been given a place of limit {key.name}: it begins")


def _check(record: JobRecord) -> None:
    if record.state.final:
        raise InvalidState(f"job {record.id} is {record.state}: it has ended, and is deleted like any that has")
    if record.state not in UNBEGUN or record.begun:
        raise InvalidState(f"job {record.id} has begun, it is {record.state}: cancel it")
    if (parent := record.spec.options.parent) is not None:
        raise InvalidState(f"workflow {parent.id} waits for job {record.id}: cancel or terminate that")
