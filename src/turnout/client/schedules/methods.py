"""The part of a client that adds schedules and lists them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import attrs

from turnout.client.away import outwaits
from turnout.client.handle import AnyHandle
from turnout.client.schedules.handle import RunHandle, ScheduleHandle, info_of
from turnout.client.schedules.info import ScheduleInfo
from turnout.client.submitter import Submitter
from turnout.client.workflows.starter import Starter
from turnout.core.evolve import evolve
from turnout.core.schedule import Job, Schedule, ScheduleRecord, schedule_name
from turnout.core.spec import SubmitOptions
from turnout.definition.activity import Activity, ActivityRef, activity_ref, refuse_local
from turnout.definition.ambient import refuse_within
from turnout.definition.options import refuse_options
from turnout.definition.workflow import Workflow, WorkflowRef, untyped_payload
from turnout.errors import InvalidValue, PayloadTooLarge, ScheduleNotFound
from turnout.store.perform import Performer, Store
from turnout.store.records import Conflict
from turnout.store.scheduled_runs import ScheduledRuns
from turnout.telemetry import spans

PAYLOAD_BYTES = 256 * 1024
"""How large the payload of a schedule may be: it is a part of its record."""

_ITS_OWN = ("id", "if_exists", "delay", "at")
"""The options that each run has of its schedule."""
_WHY = "a schedule's runs get their ids and times from it"
_AROUND = "schedules are added by the programs around it"

Scheduled = str | ActivityRef | WorkflowRef
"""What can run by a schedule: an activity or a workflow, with its options or without, or an activity's name."""


class ScheduleMethods:
    """What a `Client` can do with schedules."""

    store: Store
    _performer: Performer
    _submitter: Submitter
    _starter: Starter
    _handle: Callable[[str, ActivityRef | None], AnyHandle]

    @outwaits
    async def add_schedule(
        self, name: str, schedule: Schedule, activity: Scheduled, /, *args: Any, **kwargs: Any
    ) -> ScheduleHandle:
        """Run the activity or workflow with these arguments by this schedule, until it is deleted.

        A schedule of this name is replaced: one that is the same already stays as it is, a changed one keeps its pause
        and its recorded runs. Options of a submission go along (`report.options(timeout=60)`), but for those
        that a run has of its schedule: `id`, `if_exists`, `delay`, `at` and `debounce`.

        Errors before anything is stored: InvalidArguments, InvalidValue.

            await client.add_schedule("nightly", Schedule(cron="0 3 * * *", timezone="Europe/Berlin"), report, "sales")
        """
        refuse_within(_AROUND)
        job = await self._job(activity, args, kwargs)
        return await self._put(schedule_name(name), _checked(schedule), job)

    def schedule(self, name: str) -> ScheduleHandle:
        """A handle on the schedule of this name; nothing is asked of the server yet."""
        refuse_within(_AROUND)
        return ScheduleHandle(schedule_name(name), self.store, self._scheduled_runs, self._of_run)

    @outwaits
    async def schedules(self) -> AsyncGenerator[ScheduleInfo]:
        """All schedules, by their names."""
        records = [record async for record in self.store.schedules.scan()]
        for record in sorted(records, key=lambda record: record.name):
            yield await info_of(self.store, self._scheduled_runs, record)

    @outwaits
    async def sync_schedules(self, wanted: Mapping[str, tuple[Any, ...]], *, prefix: str) -> None:
        """Have just these schedules among those whose names begin with `prefix`: add, replace, and delete the rest.

        `wanted`: by their names a `Schedule`, an activity or a workflow, and its payload (none means {}). All of it is
        checked before anything is stored.

            nightly = Schedule(cron="0 3 * * *")
            await client.sync_schedules({"app-nightly": (nightly, report, {"of": "sales"})}, prefix="app-")
        """
        refuse_within(_AROUND)
        if not isinstance(prefix, str) or not prefix:
            raise InvalidValue("prefix must be what the names of these schedules begin with, such as 'app-'")
        checked = {}
        for name, entry in wanted.items():
            if not schedule_name(name).startswith(prefix):
                raise InvalidValue(f"schedule {name!r} does not begin with the prefix {prefix!r}")
            if not isinstance(entry, tuple) or len(entry) not in (2, 3):
                raise InvalidValue(f"schedule {name!r}: give a tuple of a Schedule, an activity and its payload")
            schedule, activity, payload = entry if len(entry) == 3 else (*entry, {})
            checked[name] = (_checked(schedule), await self._job_with(activity, payload))
        for name, (schedule, job) in checked.items():
            await self._put(name, schedule, job)
        async for record in self.store.schedules.scan():
            if record.name.startswith(prefix) and record.name not in checked:
                with contextlib.suppress(ScheduleNotFound):  # somebody else was quicker
                    await self.schedule(record.name).delete()

    @property
    def _scheduled_runs(self) -> ScheduledRuns:
        return ScheduledRuns(self.store, self._performer)

    def _of_run(self, job: Job, run_id: str) -> RunHandle:
        return self._starter.workflow(run_id, None) if job.is_workflow else self._handle(run_id, activity_ref(job.name))

    async def _put(self, name: str, schedule: Schedule, job: Job) -> ScheduleHandle:
        while True:
            kept, now = await self.store.schedules.load(name), self.store.connection.now()
            before = kept.record
            if before is None:
                headers = spans.current_headers()
                record = ScheduleRecord(name, schedule, job, created_at=now, cursor=now, headers=headers)
            elif (before.schedule, before.job) == (schedule, job):
                break
            else:
                record = _replaced(before, schedule, job, now)
            try:
                await self.store.schedules.save(record, kept.revision)
            except Conflict:
                continue
            await self.store.schedules.arm(record)
            break
        return self.schedule(name)

    async def _job(self, given: Scheduled, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Job:
        ref = _ref(given)
        if isinstance(ref, Activity | Workflow):
            return self._job_of(ref, ref.bind(*args, **kwargs))
        if isinstance(ref, WorkflowRef):
            return self._job_of(ref, untyped_payload(ref.name, args, kwargs))
        text = self._submitter.untyped(ref, args, kwargs)
        await self._submitter.contracts.check(ref.name, [text])
        return self._job_of(ref, text)

    async def _job_with(self, given: Scheduled, payload: Any) -> Job:
        ref = _ref(given)
        if isinstance(ref, Activity | Workflow):
            return self._job_of(ref, ref.codec.encode_object(payload))
        return await self._job(ref, (payload,), {})

    def _job_of(self, ref: ActivityRef | WorkflowRef, text: str) -> Job:
        """What a run is, of an activity within its bounds."""
        job = _job(ref, text)
        return job if isinstance(ref, WorkflowRef) else attrs.evolve(job, options=self._submitter.recorded(ref))


def _replaced(before: ScheduleRecord, schedule: Schedule, job: Job, now: float) -> ScheduleRecord:
    """The pause and the runs stay; a changed plan begins now, and what waited by the old one does not run."""
    if before.schedule == schedule:
        return evolve(before, job=job)
    previous = before.previous if before.job.kind == job.kind and before.job.name == job.name else ""
    return evolve(before, schedule=schedule, job=job, cursor=max(now, before.cursor), backlog=(), previous=previous)


def _checked(schedule: object) -> Schedule:
    if not isinstance(schedule, Schedule):
        raise InvalidValue(
            f"a schedule must be a turnout.Schedule, such as Schedule(cron='0 3 * * *'), not {schedule!r}"
        )
    return schedule


def _ref(given: object) -> ActivityRef | WorkflowRef:
    if isinstance(given, str):
        return activity_ref(given)
    if isinstance(given, ActivityRef | WorkflowRef):
        return given
    raise InvalidValue(f"{given!r} is neither an activity nor a workflow: of a class, schedule its run (Cart.run)")


def _job(ref: ActivityRef | WorkflowRef, text: str) -> Job:
    if len(text.encode()) > PAYLOAD_BYTES:
        raise PayloadTooLarge(
            f"the payload of a schedule may have {PAYLOAD_BYTES // 1024} KiB: store what is larger, and name it here"
        )
    if isinstance(ref, WorkflowRef):
        return _workflow_job(ref, text)
    refuse_local(ref)
    refuse_options(ref.name, ref.submission, (*_ITS_OWN, "debounce"), _WHY)
    return Job("activity", ref.name, text, ref.recorded)


def _workflow_job(ref: WorkflowRef, text: str) -> Job:
    asked = ref.start
    refuse_options(ref.name, asked, _ITS_OWN, _WHY)
    if ref.first is not None:
        raise InvalidValue(f"{ref.name}: a schedule starts a workflow without a signal or an update")
    settings = ref.settings if isinstance(ref, Workflow) else None
    options = SubmitOptions(
        timeout=asked.timeout or (settings.timeout if settings is not None else None),
        retry=asked.retry,
        labels={**(settings.labels if settings is not None else {}), **asked.labels},
    )
    retention = settings.retention if settings is not None else None
    return Job("workflow", ref.name, text, options, retention)
