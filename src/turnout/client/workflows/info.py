"""What users see of a workflow: plain frozen values with aware datetimes and parsed JSON, made from records."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import attrs

from turnout.client.info import Waiting, instant
from turnout.client.parsed import parsed, parsed_payload
from turnout.core.failure import ErrorInfo
from turnout.core.plain import Plain
from turnout.core.record import JobRecord, JobState
from turnout.core.workflows.values import Command, Ending, EndKind, Record, RecordKind, Wait, WorkflowState


@attrs.frozen(kw_only=True)
class WorkflowInfo(Plain):
    """All that is known of a workflow at one moment.

    `run` counts from 1: continue-as-new and a retry begin another. `payload` and `result` are parsed JSON. `error` of a
    stuck one says why it can't go on. `waiting` lists at most 20 of the things that it waits for, `waiting_count` says
    how many there are, and `attempt` is that of an activity which has begun. `cancel_requested`: why it was asked to
    stop, also where it is stuck and its code will hear of that once it goes on. `pinned`: the run stays with workers of
    `build`; where none of them lives, `reason` says so, as it does of one that nobody has begun, where no worker of its
    name lives. `schedule`: the name of the one whose run it is.
    """

    id: str
    name: str
    run: int
    state: WorkflowState
    started_at: dt.datetime
    finished_at: dt.datetime | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
    details: str = ""
    payload: Any = None
    result: Any = None
    error: ErrorInfo | None = None
    reason: str | None = None
    parent: str | None = None
    due_at: dt.datetime | None = None
    cancel_requested: str | None = None
    history_length: int = 0
    build: str | None = None
    pinned: bool = False
    node: str | None = None
    trace_id: str = ""
    waiting: list[Waiting] = attrs.field(factory=list)
    waiting_count: int = 0
    schedule: str | None = None


@attrs.frozen
class Texts:
    """The texts of a workflow's payload and result, fetched from wherever they are."""

    payload: str | None = None
    result: str | None = None


@attrs.frozen
class Around:
    """What its newest record does not tell of a workflow.

    `waits_for`: the worker that it needs, where none of these lives. `cancel_requested`: why it is asked to stop.
    `jobs`: the records of those that it waits for, by their commands.
    """

    waits_for: str = ""
    cancel_requested: str | None = None
    jobs: Mapping[str, JobRecord] = attrs.field(factory=dict)


def workflow_info(record: Record, texts: Texts, around: Around) -> WorkflowInfo:
    """The newest record as users see it, with what is around it."""
    summary = record.summary
    lacking = f"waits for {around.waits_for}" if around.waits_for else None
    waits = summary.waits if record.kind is not RecordKind.stuck else ()
    return WorkflowInfo(
        id=record.id,
        name=record.name,
        run=record.run,
        state=record.state,
        started_at=dt.datetime.fromtimestamp(summary.started_at, dt.UTC),
        finished_at=instant(summary.finished_at),
        labels=dict(summary.labels),
        details=summary.details,
        payload=parsed_payload(texts.payload),
        result=parsed(texts.result),
        error=record.failure.error if record.failure is not None else None,
        reason="; ".join(each for each in (record.reason, lacking) if each) or None,
        parent=summary.parent or None,
        due_at=instant(summary.due_at),
        cancel_requested=around.cancel_requested,
        history_length=summary.events,
        build=summary.pin or record.build or None,
        pinned=bool(summary.pin),
        node=record.node or None,
        trace_id=summary.trace_id,
        waiting=[_waiting(wait, around.jobs.get(wait.id)) for wait in waits],
        waiting_count=summary.waiting,
        schedule=summary.schedule or None,
    )


_STATES = {
    EndKind.completed: WorkflowState.completed,
    EndKind.cancelled: WorkflowState.cancelled,
    EndKind.terminated: WorkflowState.terminated,
}


def child_info(workflow_id: str, name: str, ending: Ending, asked: Command | None, parent: str) -> WorkflowInfo:
    """A workflow that has ended, as far as its end tells, and of a child what its `parent` has asked for.

    One that was joined may have another parent, payload and labels: these are left out.
    """
    options = asked.child if asked is not None else None
    began = 0.0 if asked is None else asked.at or asked.since
    own = asked is not None and options is not None and options.if_exists != "join"
    return WorkflowInfo(
        id=workflow_id,
        name=name,
        run=1,
        state=_STATES.get(ending.kind, WorkflowState.faulted),
        started_at=dt.datetime.fromtimestamp(began, dt.UTC),
        labels=dict(options.labels) if own and options is not None else {},
        payload=parsed_payload(asked.body.text) if own and asked is not None and asked.body is not None else None,
        parent=parent if own else None,
        error=ending.error,
        reason=ending.reason,
    )


def _waiting(wait: Wait, job: JobRecord | None) -> Waiting:
    return Waiting(
        kind=str(wait.kind),
        name=wait.name,
        id=wait.id or None,
        since=instant(wait.since),
        due_at=instant(job.due_at if job is not None and job.state is JobState.retrying else wait.due_at),
        attempt=wait.attempt if job is None else job.attempt or None,
        code=wait.code or None,
    )
