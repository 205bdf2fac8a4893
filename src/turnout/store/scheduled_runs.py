"""The runs of schedules: jobs and workflows whose ids follow from a schedule's name and a tick.

So one that is begun again is known for the one that is there: by its record, or by its message before it has one.
"""

from __future__ import annotations

import attrs

from turnout import wire
from turnout.core.events import CancelRequested, Submitted
from turnout.core.failure import ErrorInfo
from turnout.core.record import JobState
from turnout.core.schedule import Job, ScheduleRecord
from turnout.core.spec import JobSpec
from turnout.core.workflows.task import Starting
from turnout.core.workflows.values import InputKind, Start, WorkflowState
from turnout.nats.once import SubjectTaken
from turnout.store.commit import Committer
from turnout.store.histories import Stored, is_deleted
from turnout.store.payloads import life_owner
from turnout.store.perform import Performer, Store
from turnout.store.records import Versioned
from turnout.store.starts import IdTaken, Starts
from turnout.telemetry import metrics, spans
from turnout.wire import histories


@attrs.frozen
class Standing:
    """How a run stands, and in a few words why it has not completed, where it has failed or somebody has ended it."""

    state: JobState | WorkflowState
    reason: str | None = None


class ScheduledRuns:
    """Begins runs, and says whether they go on. Errors are those of the connection."""

    def __init__(self, store: Store, performer: Performer) -> None:
        self._store = store
        self._performer = performer
        self._starts = Starts(store.inbox, store.histories)
        self._committer = Committer(store)

    async def stands(self, job: Job, run_id: str) -> Standing | None:
        """How a run stands; None when nothing of it is kept, or nobody has begun it."""
        if job.is_workflow:
            newest = await self._newest(run_id)
            if newest is None:
                return None
            failure = newest.record.failure
            return _standing(newest.record.state, newest.record.reason, failure.error if failure else None)
        record = (await self._store.registry.load(job.name, run_id)).record
        if record is not None:
            return _standing(record.state, record.reason, record.error)
        found = await self._store.queue.find_named(job.name, run_id)
        return None if found is None else Standing(JobState.queued)

    async def going_on(self, job: Job, run_id: str) -> bool:
        """Whether the run has not ended; one that waits for its retry has not."""
        if not run_id:
            return False
        standing = await self.stands(job, run_id)
        return standing is not None and not standing.state.final

    async def begin(self, schedule: ScheduleRecord, run_id: str, *, fresh: bool = False) -> bool:
        """Begin the run; False when it is there already, whoever has begun it.

        `fresh`: it is hardly there, so that is not looked for. A second message of a run that waits is refused, and
        one of a run that has ended is dropped by whoever gets it.
        """
        if not fresh and await self.stands(schedule.job, run_id) is not None:
            return False
        names, job = self._store.names, schedule.job
        destination = names.bare_start(job.name) if job.is_workflow else names.bare(job.name)
        firing = spans.firing(schedule.name, job.name, run_id, destination, schedule.headers, workflow=job.is_workflow)
        with firing as headers:
            if job.is_workflow:
                return await self._start(schedule, run_id, headers)
            return await self._submit(schedule, run_id, headers)

    async def cancel(self, job: Job, run_id: str, reason: str) -> None:
        """Ask a run to end; nothing happens when it has."""
        if job.is_workflow:
            newest = await self._newest(run_id)
            if newest is not None and not newest.record.state.final:
                headers = histories.input_headers(life=newest.record.life, input_id=self._store.chance.nonce(12))
                data = reason.encode()
                await self._store.inbox.append(job.name, run_id, InputKind.cancel, data, headers=headers)
            return
        found = await self._store.queue.find_named(job.name, run_id)
        event = CancelRequested(reason=reason, now=self._store.connection.now(), delivery=found)
        await self._performer.apply(job.name, run_id, event)

    async def _submit(self, schedule: ScheduleRecord, run_id: str, headers: dict[str, str]) -> bool:
        job = schedule.job
        body = await self._store.payloads.put(job.payload, "payload", run_id)
        spec = JobSpec(
            id=run_id,
            activity=job.name,
            submitted_at=self._store.connection.now(),
            payload=body,
            headers=headers,
            options=attrs.evolve(job.options, schedule=schedule.name),
            trace_id=wire.trace_id_of(headers, job.name, run_id),
        )
        event = Submitted(spec=spec, nonce=self._store.chance.nonce())
        try:
            await self._performer.apply(job.name, run_id, event, Versioned())
        except SubjectTaken:
            await self._store.payloads.delete(body)
            return False
        metrics.submitted(job.name)
        return True

    async def _start(self, schedule: ScheduleRecord, run_id: str, headers: dict[str, str]) -> bool:
        job, life = schedule.job, self._store.chance.nonce()
        start = Start(
            payload=await self._store.payloads.put(job.payload, "payload", life_owner(run_id, life)),
            at=self._store.connection.now(),
            labels=dict(job.options.labels),
            timeout=job.options.timeout,
            retry=job.options.retry,
            retention=job.retention,
            headers=headers,
            trace_id=wire.trace_id_of(headers, job.name, run_id),
            schedule=schedule.name,
        )
        nonce = self._store.chance.nonce()
        try:
            stored = await self._starts.start(Starting(id=run_id, name=job.name, life=life, nonce=nonce, start=start))
        except IdTaken:
            await self._store.payloads.delete(start.payload)
            return False
        await self._committer.commit(stored)
        return True

    async def _newest(self, run_id: str) -> Stored | None:
        newest = await self._store.histories.newest(run_id)
        return None if newest is None or is_deleted(newest) else newest


_REASON_CHARS = 200


def _standing(state: JobState | WorkflowState, reason: str | None, error: ErrorInfo | None) -> Standing:
    """An error that was got over is no reason."""
    said = "" if state == "completed" else ": ".join(str(each) for each in (reason, error) if each)
    return Standing(state, said[:_REASON_CHARS] or None)
