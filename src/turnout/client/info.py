"""What users see of a job: plain frozen values with aware datetimes and parsed JSON, made from records."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs

from turnout.client.parsed import parsed, parsed_payload
from turnout.core.failure import ErrorInfo
from turnout.core.loglines import Line
from turnout.core.plain import Plain, utc
from turnout.core.record import AttemptRecord, JobRecord, JobState, Outcome, Progress
from turnout.core.spec import DEFAULT_PRIORITY, Body


def instant(seconds: float | None) -> dt.datetime | None:
    """Unix seconds as an aware UTC datetime."""
    return None if seconds is None else utc(seconds)


@attrs.frozen(kw_only=True)
class AttemptInfo(Plain):
    """One attempt of a job. `number` counts from 1 over all generations; `error` tells why it did not complete.

    `due_at`: from when on it might begin, if it waited for a delay or for somebody's retry. `span_id`: that of its span
    in the trace, in hex; None when nobody traced.
    """

    number: int
    node: str
    outcome: Outcome
    started_at: dt.datetime
    ended_at: dt.datetime | None = None
    error: ErrorInfo | None = None
    generation: int = 1
    due_at: dt.datetime | None = None
    span_id: str | None = None


@attrs.frozen(kw_only=True)
class Waiting(Plain):
    """One thing that a workflow, or a job, waits for. `code` is the line that waits: "file:line function".

    `kind`, for a workflow: activity, timer, child, signal or condition. `attempt`: that of the activity, where it runs.
    For a job: paused (its activity is), node (no node works on it) or slot (all that do are busy), `name` being the
    activity; node, with what no node has that it requires as `name`, such as region=north; or limit, with the limit's
    key as `name`. What does not apply is None.
    """

    kind: str
    name: str = ""
    id: str | None = None
    since: dt.datetime | None = None
    due_at: dt.datetime | None = None
    attempt: int | None = None
    code: str | None = None


@attrs.frozen(kw_only=True)
class JobInfo(Plain):
    """All that is known of a job at one moment.

    `payload`, `checkpoint` and `result` are parsed JSON (raw text where it isn't JSON). `failures`, `losses` and
    `aborts` count in this generation; `attempt` and `attempts` go on over retries (the list is bounded, the newest are
    kept). `suspect`: it runs on a node that has not been heard of for a while. `cancel_requested`: while it goes on,
    why somebody has asked for its end ("" without a reason); None if nobody has. `waiting_for`: what a job that might
    run now waits for, also one that is scheduled or retrying still though its time has come. `snoozes`: how often its
    code has raised `Snooze` in this generation; while it waits for that, `reason` is what it said. `workflow`,
    `schedule`, `group`: which one has submitted it. `requires`: the properties that its node must have. `priority`: 1
    starts first, 5 last. `unused_answer`: what somebody outside has said of its end, "completed" or "failed: ...", and
    what did not count, since its code has not raised `CompleteLater`.

        return JSONResponse((await client.job(job_id).info()).to_dict())
    """

    id: str
    activity: str
    generation: int
    state: JobState
    attempt: int
    failures: int
    losses: int
    aborts: int
    submitted_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    next_attempt_at: dt.datetime | None
    node: str | None
    progress: Progress | None
    checkpoint: Any
    payload: Any
    result: Any
    error: ErrorInfo | None
    reason: str | None
    labels: dict[str, str]
    trace_id: str
    suspect: bool
    attempts: list[AttemptInfo]
    cancel_requested: str | None = None
    workflow: str | None = None
    waiting_for: Waiting | None = None
    snoozes: int = 0
    schedule: str | None = None
    requires: dict[str, str] = attrs.field(factory=dict)
    priority: int = DEFAULT_PRIORITY
    group: str | None = None
    unused_answer: str | None = None


@attrs.frozen(kw_only=True)
class LogLine(Plain):
    """A line of `job.log`, as it is kept with the job. `message` ends with the exception's text, if there is one."""

    time: dt.datetime
    level: str
    attempt: int
    node: str
    message: str


def log_line(line: Line) -> LogLine:
    """A line as users see it."""
    time = utc(line.at)
    return LogLine(time=time, level=line.level, attempt=line.attempt, node=line.node, message=line.message)


@attrs.frozen(kw_only=True)
class FaultInfo(Plain):
    """A dead letter: a job as it was when it faulted. `sequence` is the dead letter's own in its stream."""

    id: str
    activity: str
    generation: int
    faulted_at: dt.datetime
    reason: str
    error: ErrorInfo | None
    payload: Any
    headers: dict[str, str]
    labels: dict[str, str]
    attempts: list[AttemptInfo]
    trace_id: str
    sequence: int


@attrs.frozen
class Bodies:
    """The texts of a record's payload, checkpoint and result, fetched from wherever they are."""

    payload: str | None
    checkpoint: str | None
    result: str | None


def job_info(
    record: JobRecord, bodies: Bodies, *, suspect: bool = False, waiting_for: Waiting | None = None
) -> JobInfo:
    """The record as users see it."""
    running = record.state is JobState.running
    return JobInfo(
        id=record.id,
        activity=record.activity,
        generation=record.generation,
        state=record.state,
        attempt=record.attempt,
        failures=record.failures,
        losses=record.losses,
        aborts=record.aborts,
        submitted_at=utc(record.spec.submitted_at),
        started_at=instant(record.started_at),
        finished_at=instant(record.finished_at),
        next_attempt_at=None if running else instant(record.due_at),
        node=(record.token.node or None) if running and record.token is not None else None,
        progress=record.progress,
        checkpoint=parsed(bodies.checkpoint),
        payload=parsed_payload(bodies.payload),
        result=parsed(bodies.result),
        error=record.error,
        reason=str(record.reason) if record.reason else None,  # a plain text, as it is when it is read again
        labels=dict(record.spec.options.labels),
        trace_id=record.spec.trace_id,
        suspect=suspect,
        attempts=[_attempt_info(attempt) for attempt in record.attempts],
        cancel_requested=None if record.state.final else record.cancel_request,
        workflow=record.spec.options.parent.id if record.spec.options.parent is not None else None,
        waiting_for=waiting_for,
        snoozes=record.snoozes,
        schedule=record.spec.options.schedule,
        requires=dict(record.spec.options.requires),
        priority=record.spec.priority,
        group=record.spec.options.group,
        unused_answer=_unused_answer(record),
    )


def _unused_answer(record: JobRecord) -> str | None:
    answer = record.answer
    if answer is None or not record.state.final:
        return None
    return "completed" if answer.error is None else f"failed: {answer.error.message}"


def fault_info(seq: int, at: float, record: JobRecord, payload: str | None) -> FaultInfo:
    """A dead letter as users see it."""
    return FaultInfo(
        id=record.id,
        activity=record.activity,
        generation=record.generation,
        faulted_at=utc(at),
        reason=record.reason or "",
        error=record.error,
        payload=parsed_payload(payload),
        headers=dict(record.spec.headers),
        labels=dict(record.spec.options.labels),
        attempts=[_attempt_info(attempt) for attempt in record.attempts],
        trace_id=record.spec.trace_id,
        sequence=seq,
    )


def inline(body: Body | None) -> bool:
    """Whether the body's text is in the record itself."""
    return body is None or body.ref is None


def _attempt_info(attempt: AttemptRecord) -> AttemptInfo:
    return AttemptInfo(
        number=attempt.number,
        node=attempt.node,
        outcome=attempt.outcome,
        started_at=utc(attempt.started_at),
        ended_at=instant(attempt.ended_at),
        error=attempt.error,
        generation=attempt.generation,
        due_at=instant(attempt.due_at),
        span_id=attempt.span_id or None,
    )
