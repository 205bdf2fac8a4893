"""Acting on all jobs that match: what a night has left behind is many jobs, and nobody types their ids."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Unpack

import attrs

from turnout import bounded
from turnout.client.away import outwaits
from turnout.client.filters import JobFilters, asked, some_of
from turnout.client.handle import AnyHandle, JobHandle
from turnout.client.reader import Reader
from turnout.client.unbegun import UNBEGUN
from turnout.core.failure import given_reason
from turnout.core.record import FINAL, RETRYABLE, JobState
from turnout.errors import InvalidState, InvalidValue, JobNotFound
from turnout.store.perform import Performer, Store

AT_ONCE = 128
_PART = 2048
CANCELLABLE = frozenset(JobState) - FINAL
DELETABLE = FINAL


class BulkMethods:
    """What a `Client` can do with many jobs at once. A job that has gone on meanwhile is left alone.

    The filters are those of `jobs`; without any of them InvalidValue (a ValueError): nobody acts on all by mistake.
    """

    store: Store
    _reader: Reader
    _performer: Performer

    @outwaits
    async def cancel_jobs(self, *, reason: str = "", **filters: Unpack[JobFilters]) -> int:
        """Cancel every job that has not ended and matches; how many that were. Those that run are asked to stop.

        count = await client.cancel_jobs(activity="convert_video", label="customer=42", reason="wrong files")
        """
        given_reason(reason)
        return await self._each(filters, CANCELLABLE, lambda handle: handle.cancel(reason))

    @outwaits
    async def retry_jobs(self, *, checkpoint: bool = True, **filters: Unpack[JobFilters]) -> int:
        """Run every faulted or cancelled job that matches again; how many that were. `checkpoint`: as of a job's retry.

        count = await client.retry_jobs(state="faulted", error=ConnectionError, since=timedelta(hours=2))
        """
        return await self._each(filters, RETRYABLE, lambda handle: handle.retry(checkpoint=checkpoint))

    @outwaits
    async def delete_jobs(self, *, unbegun: bool = False, **filters: Unpack[JobFilters]) -> int:
        """Forget every job that has ended and matches; how many that were.

        count = await client.delete_jobs(state="completed", label="batch=7")

        `unbegun=True`: instead those that wait and that nobody has begun, as of a job's `delete`. It is the way out
        where the jobs that wait have filled the store, and there is no room to cancel them.
        """
        states = UNBEGUN if unbegun else DELETABLE
        return await self._each(filters, states, lambda handle: handle.delete(unbegun=unbegun), as_stored=unbegun)

    async def _each(
        self,
        given: JobFilters,
        states: frozenset[JobState],
        act: Callable[[AnyHandle], Awaitable[None]],
        *,
        as_stored: bool = False,
    ) -> int:
        """Act on the jobs in these states that match: their ids first, so that what is done moves nothing under it."""
        some_of(JobFilters, given, "jobs")
        wanted = asked(given, self.store.connection.now())
        narrowed = states if wanted.states is None else wanted.states & states
        if not narrowed:
            names = ", ".join(sorted(states))
            raise InvalidValue(f"state must be one of {names} here, not {', '.join(sorted(wanted.states or ()))}")
        keys = await self._reader.keys(attrs.evolve(wanted, states=narrowed), as_stored=as_stored)

        async def one(key: tuple[str, str]) -> int:
            activity, job_id = key
            handle: JobHandle[Any] = JobHandle(job_id, activity, self._reader, self._performer, self.store)
            try:
                await act(handle)
            except (InvalidState, JobNotFound):  # it has gone on meanwhile, or has gone
                return 0
            return 1

        done = 0
        for first in range(0, len(keys), _PART):
            done += sum(await bounded.each(one, keys[first : first + _PART], AT_ONCE))
        return done
