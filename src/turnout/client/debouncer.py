"""Debounced submissions: those of one key that come in quick succession are one job, which runs with the last of them.

The job is a delayed one. As long as it waits, a submission puts its payload and its instant into the job's record; the
timer that fires meanwhile comes too early by that record, and its message is given back for the rest of the time (P11).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from turnout.core.effects import Schedule
from turnout.core.events import Debounced, Submitted
from turnout.core.record import JobState
from turnout.core.spec import is_name
from turnout.crashpoints import reach
from turnout.definition.activity import ActivityRef
from turnout.errors import OutcomeUnknown, TurnoutError
from turnout.keyed_locks import KeyedLocks
from turnout.nats.connection import Disconnected
from turnout.store.debounces import Debounce, Debounces
from turnout.store.perform import Performer, Store
from turnout.store.records import Conflict, Versioned
from turnout.telemetry import metrics, spans

Draft = Callable[[ActivityRef, str, str, dict[str, str]], Awaitable[Submitted]]
"""Makes the event of a submit: of which activity, under which id, with which payload and headers."""


class Debouncer:
    """Submits what has `debounce` for a client. `draft` and `new_id` are those of its other submissions."""

    def __init__(self, store: Store, performer: Performer, draft: Draft, new_id: Callable[[], str]) -> None:
        self._store = store
        self._performer = performer
        self._draft = draft
        self._new_id = new_id
        self._debounces = Debounces(store.connection, store.names)
        self._turns = KeyedLocks()

    async def submit(self, ref: ActivityRef, text: str, wait_s: float) -> str:
        """The id of the job that runs with this payload, unless another one comes before `wait_s` have passed.

        Those of one process go in one after the other: of many that race for a record at once all but one begin again.
        """
        key = ref.submission.debounce_key or ""
        async with self._turns.of((ref.name, key)):
            return await self._submit(ref, key, text, wait_s)

    async def _submit(self, ref: ActivityRef, key: str, text: str, wait_s: float) -> str:
        while True:
            kept = await self._debounces.load(ref.name, key)
            job, job_id = await self._waiting(ref.name, kept), kept.job_id
            if job is None or job_id is None:
                job, job_id = Versioned(), self._new_id()
            waits_s = self._waits(job, wait_s)
            if job_id != kept.job_id or self._debounces.ages(kept, waits_s):
                try:
                    await self._debounces.put(ref.name, key, job_id, waits_s, kept.revision)
                except Conflict:
                    continue
                reach("debounce.named")
            if await self._goes_in(ref, job_id, text, wait_s, job):
                return job_id

    async def _waiting(self, activity: str, kept: Debounce) -> Versioned | None:
        """The job of the key if it takes submissions: it waits for its time, or nobody has stored it yet."""
        if kept.job_id is None or not is_name(kept.job_id):
            return None
        job = await self._store.registry.load(activity, kept.job_id)
        if job.record is None:
            return None if job.deleted else job
        return job if job.record.state is JobState.scheduled else None

    def _waits(self, job: Versioned, wait_s: float) -> float:
        """How long the job waits with this submission: of several instants the latest counts."""
        due_at = None if job.record is None else job.record.due_at
        return wait_s if due_at is None else max(wait_s, due_at - self._store.connection.now())

    async def _goes_in(self, ref: ActivityRef, job_id: str, text: str, wait_s: float, job: Versioned) -> bool:
        """Have the job run with this payload, after this time; False when it has begun, or ended, meanwhile."""
        with spans.submitting(ref.name, job_id, self._store.names.bare(ref.name)) as headers:
            drafted = await self._draft(ref, job_id, text, headers)
            at = self._store.connection.now() + wait_s
            event = Debounced(spec=drafted.spec, nonce=drafted.nonce, at=at)
            try:
                applied = await self._performer.apply(ref.name, job_id, event, job)
            except OutcomeUnknown:
                raise
            except TurnoutError as error:
                await self._tell_if_stored(event, error)
                raise
        if not applied.effects:
            await self._store.payloads.delete(event.spec.payload)
            return False
        if any(isinstance(effect, Schedule) for effect in applied.effects):
            metrics.submitted(ref.name)
        return True

    async def _tell_if_stored(self, event: Debounced, error: TurnoutError) -> None:
        """OutcomeUnknown if the job may run with this payload all the same: the answer to a write is lost, which the
        next submission may have written over by now; or it is there without its timer, and the supervisor runs it."""
        if isinstance(error, Disconnected):
            raise OutcomeUnknown(f"nobody has said whether job {event.spec.id} has this payload: {error}") from error
        record = (await self._store.registry.load(event.spec.activity, event.spec.id)).record
        if record is not None and record.is_of(event.nonce):
            raise OutcomeUnknown(f"job {event.spec.id} is stored, but its timer is not: {error}") from error
