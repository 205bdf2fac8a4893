"""Running ended jobs again: one by its id, or all that a filter finds among the dead letters.

A letter outlives its job's record when the two are kept for different times. It holds the whole record, so what is
replayed from it goes on where the job ended: its id, its attempt numbers, its checkpoint, its trace.
"""

from __future__ import annotations

import asyncio

import attrs

from turnout.client.reader import Reader
from turnout.core.events import RetryRequested
from turnout.core.values import JobRecord, JobState
from turnout.errors import AmbiguousJob, InvalidState, JobNotFound
from turnout.jetstream.letters import StoredLetter
from turnout.jetstream.perform import Performer, Store
from turnout.telemetry import spans

_AT_ONCE = 32


@attrs.frozen
class LetterFilter:
    """Which dead letters; None wants all. `since` is unix seconds, `error_type` the name of an exception's class."""

    activity: str | None = None
    since: float | None = None
    error_type: str | None = None

    def match(self, letter: StoredLetter) -> bool:
        error = letter.record.error
        return (self.since is None or letter.at >= self.since) and (
            self.error_type is None or (error is not None and error.type == self.error_type)
        )


@attrs.frozen
class _Found:
    """The newest letter of a job, as a walk over all of them remembers it."""

    generation: int
    matches: bool


class Replays:
    """Retries and replays jobs, and drops dead letters. Errors are those of the connection and what each one says."""

    def __init__(self, store: Store, performer: Performer, reader: Reader) -> None:
        self._store = store
        self._performer = performer
        self._reader = reader

    async def again(self, activity: str, job_id: str) -> None:
        """Run a faulted or cancelled job again; returns when that is stored.

        Errors: InvalidState for a job in any other state, JobNotFound when neither a record nor a letter tells of it.
        """
        letter: JobRecord | None = None
        try:
            record = await self._reader.read(activity, job_id)
        except JobNotFound:
            letters = await self._letters(activity, job_id)
            if not letters:
                raise
            record = letter = await self._usable(letters[-1].record)
        if record.state not in (JobState.faulted, JobState.cancelled):
            raise InvalidState(f"job {job_id} is {record.state}; only a faulted or cancelled job can be retried")
        found = await self._store.queue.find(activity, job_id)
        event = RetryRequested(now=self._store.connection.now(), found=found, letter=letter)
        with spans.replaying(record, self._store.names.bare(activity)):
            await self._performer.apply(activity, job_id, event)

    async def locate(self, job_id: str) -> str:
        """The activity of a job that may be known by its dead letters alone. JobNotFound, AmbiguousJob."""
        try:
            return await self._reader.locate(job_id)
        except JobNotFound:
            letters = await self._letters("*", job_id)
            if not letters:
                raise
        return letters[-1].record.activity

    async def every(self, wanted: LetterFilter) -> int:
        """Replay the jobs whose newest letter matches, unless they have gone on since; how many that were.

        A job that can't be replayed does not keep the others: what it refers to may be gone.
        """
        newest: dict[tuple[str, str], _Found] = {}
        async for letter in self._store.letters.scan(wanted.activity or "*"):
            key = (letter.record.activity, letter.record.id)
            if key not in newest or letter.record.generation >= newest[key].generation:
                newest[key] = _Found(letter.record.generation, wanted.match(letter))
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(activity: str, job_id: str, generation: int) -> int:
            async with gate:
                record = (await self._store.registry.load(activity, job_id)).record
                if record is not None and (record.generation, record.state) != (generation, JobState.faulted):
                    return 0
                try:
                    await self.again(activity, job_id)
                except (InvalidState, JobNotFound):
                    return 0
                return 1

        matching = [(*key, found.generation) for key, found in newest.items() if found.matches]
        return sum(await asyncio.gather(*(one(*each) for each in matching)))

    async def drop(self, activity: str, job_id: str) -> int:
        """Remove the letters of a job; its record stays. How many there were; JobNotFound when there is none."""
        letters = await self._letters(activity, job_id)
        if not letters:
            raise JobNotFound(f"there is no dead letter of a job {job_id} in namespace {self._store.names.ns}")
        for letter in letters:
            await self._store.letters.remove(letter.seq)
        return len(letters)

    async def _letters(self, activity: str, job_id: str) -> list[StoredLetter]:
        """The letters of a job, the newest last. AmbiguousJob when `*` finds those of several activities."""
        letters = [letter async for letter in self._store.letters.scan(activity, job_id)]
        names = sorted({letter.record.activity for letter in letters})
        if len(names) > 1:
            raise AmbiguousJob(f"id {job_id} has dead letters of several activities: {', '.join(names)}; name one")
        return sorted(letters, key=lambda letter: letter.record.generation)

    async def _usable(self, record: JobRecord) -> JobRecord:
        """The record of a letter as it can be put back. InvalidState when its payload is gone from the object store."""
        if not await self._store.payloads.exists(record.payload):
            raise InvalidState(f"job {record.id} can't be replayed: its payload {record.payload.ref} is gone")
        if record.checkpoint is not None and not await self._store.payloads.exists(record.checkpoint):
            return attrs.evolve(record, checkpoint=None)
        return record
