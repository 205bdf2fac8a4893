"""Running ended jobs again: one by its id, or all that a filter finds among the dead letters.

A dead letter outlives its job's record when the two are kept for different times. It holds the whole record, so what is
replayed from it goes on where the job ended: its id, its attempt numbers, its checkpoint, its trace.
"""

from __future__ import annotations

import asyncio

import attrs

from turnout.bounded import each
from turnout.client.filters import has_label
from turnout.client.reader import Reader
from turnout.client.unmended import unmended
from turnout.core.events import RetryRequested
from turnout.core.record import RETRYABLE, JobRecord, JobState
from turnout.errors import AmbiguousJob, InvalidState, JobNotFound
from turnout.store.dead_letters import DeadLetter
from turnout.store.perform import DELETION_S, Performer, Store
from turnout.telemetry import spans

_AT_ONCE = 32
_LOOK_S = 0.1


@attrs.frozen
class DeadLetterFilter:
    """Which dead letters; None wants all. `since` is unix seconds, `error_type` the name of an exception's class."""

    activity: str | None = None
    since: float | None = None
    error_type: str | None = None
    label: tuple[str, str | None] | None = None

    def match(self, dead_letter: DeadLetter) -> bool:
        error = dead_letter.record.error
        return (
            (self.since is None or dead_letter.at >= self.since)
            and (self.error_type is None or (error is not None and error.type == self.error_type))
            and (self.label is None or has_label(dead_letter.record.spec.options.labels, self.label))
        )


@attrs.frozen
class _Found:
    """The newest dead letter of a job, as a walk over all of them remembers it."""

    generation: int
    matches: bool


def no_dead_letter(job_id: str, namespace: str) -> JobNotFound:
    """What is said of a job that has none."""
    return JobNotFound(f"there is no dead letter of a job {job_id} in namespace {namespace}")


class Replays:
    """Retries and replays jobs, and drops dead letters. Errors are those of the connection and what each one says."""

    def __init__(self, store: Store, performer: Performer, reader: Reader) -> None:
        self._store = store
        self._performer = performer
        self._reader = reader

    async def again(self, activity: str, job_id: str, *, checkpoint: bool = True) -> None:
        """Run a faulted or cancelled job again, from its checkpoint or without it; returns when that is stored.

        Errors: InvalidState for a job in any other state, JobNotFound when there is neither a record nor a dead letter.
        """
        dead_letter: JobRecord | None = None
        try:
            record = await self._reader.settled(activity, job_id)
        except JobNotFound:
            dead_letters = await self._dead_letters(activity, job_id)
            if not dead_letters:
                raise
            record = dead_letter = await self._usable(dead_letters[-1].record)
        if record.state not in RETRYABLE:
            raise InvalidState(f"job {job_id} is {record.state}; only a faulted or cancelled job can be retried")
        found = await self._store.queue.find(activity, job_id)
        event = RetryRequested(
            now=self._store.connection.now(), delivery=found, dead_letter=dead_letter, from_scratch=not checkpoint
        )
        with spans.replaying(record, self._store.names.bare(activity)):
            await self._performer.apply(activity, job_id, event)
            await self._survive_deletion(activity, job_id)

    async def _survive_deletion(self, activity: str, job_id: str) -> None:
        """Return when the retry counts. JobNotFound when somebody has deleted the job at the same time.

        A deletion that finds the retry's message puts the record back; one that came before it does not, and the
        message has nothing to go on with.
        """
        deadline = asyncio.get_running_loop().time() + DELETION_S
        while (await self._store.registry.load(activity, job_id)).deleted:
            if asyncio.get_running_loop().time() > deadline:
                found = await self._store.queue.find_named(activity, job_id)
                if found is not None and found.generation > 1:
                    await self._store.queue.remove(found.message)
                raise JobNotFound(f"job {job_id} was deleted while it was retried")
            await asyncio.sleep(_LOOK_S)

    async def locate(self, job_id: str) -> str:
        """The activity of a job that may be known by its dead letters alone. JobNotFound, AmbiguousJob."""
        try:
            return await self._reader.locate(job_id)
        except JobNotFound:
            dead_letters = await self._dead_letters("*", job_id)
            if not dead_letters:
                raise
        return dead_letters[-1].record.activity

    async def every(self, wanted: DeadLetterFilter) -> int:
        """Replay the jobs whose newest dead letter matches, unless they have gone on since; how many that were.

        A job that can't be replayed does not keep the others: what it refers to may be gone.
        """
        newest = await self._matching(wanted)

        async def one(key: tuple[str, str]) -> int:
            if not await self._waits(key, newest[key]):
                return 0
            try:
                await self.again(*key)
            except (InvalidState, JobNotFound):
                return 0
            return 1

        return sum(await each(one, list(newest), _AT_ONCE))

    async def count(self, wanted: DeadLetterFilter) -> int:
        """How many jobs `every` would replay now."""
        return len(await self._matching(wanted))

    async def _matching(self, wanted: DeadLetterFilter) -> dict[tuple[str, str], int]:
        """The jobs that have not gone on and whose newest dead letter matches, each with the generation it tells of."""
        newest: dict[tuple[str, str], _Found] = {}
        async for dead_letter in unmended(self._store, wanted.activity or "*", "*"):
            key = (dead_letter.record.activity, dead_letter.record.id)
            if key not in newest or dead_letter.record.generation >= newest[key].generation:
                newest[key] = _Found(dead_letter.record.generation, wanted.match(dead_letter))
        return {key: found.generation for key, found in newest.items() if found.matches}

    async def _waits(self, key: tuple[str, str], generation: int) -> bool:
        """Whether the job has not gone on since it was found to wait, in this generation, for a replay."""
        record = (await self._store.registry.load(*key)).record
        return record is None or (record.generation, record.state) == (generation, JobState.faulted)

    async def drop(self, activity: str, job_id: str) -> int:
        """Remove the dead letters of a job; its record stays. How many there were; JobNotFound when there is none."""
        dead_letters = await self._dead_letters(activity, job_id)
        if not dead_letters:
            raise no_dead_letter(job_id, self._store.names.ns)
        for dead_letter in dead_letters:
            await self._store.dead_letters.remove(dead_letter.seq)
        return len(dead_letters)

    async def _dead_letters(self, activity: str, job_id: str) -> list[DeadLetter]:
        """The dead letters of a job, the newest last. AmbiguousJob when `*` finds those of several activities."""
        dead_letters = [dead_letter async for dead_letter in self._store.dead_letters.scan(activity, job_id)]
        names = sorted({dead_letter.record.activity for dead_letter in dead_letters})
        if len(names) > 1:
            raise AmbiguousJob(f"id {job_id} has dead letters of several activities: {', '.join(names)}; name one")
        return sorted(dead_letters, key=lambda dead_letter: dead_letter.record.generation)

    async def _usable(self, record: JobRecord) -> JobRecord:
        """The record of a dead letter as it can be put back. InvalidState when its payload is gone from the store."""
        if not await self._store.payloads.exists(record.spec.payload):
            raise InvalidState(f"job {record.id} can't be replayed: its payload {record.spec.payload.ref} is gone")
        if record.checkpoint is not None and not await self._store.payloads.exists(record.checkpoint):
            return attrs.evolve(record, checkpoint=None)
        return record
