"""What users see of a job: plain frozen values with aware datetimes and parsed JSON, made from records."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs

from turnout import fastjson
from turnout.core.loglines import Line
from turnout.core.values import Attempt, Body, ErrorInfo, JobRecord, JobState, Outcome, Progress


def instant(seconds: float | None) -> dt.datetime | None:
    """Unix seconds as an aware UTC datetime."""
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)


@attrs.frozen(kw_only=True)
class AttemptInfo:
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
class JobInfo:
    """All that is known of a job at one moment.

    `payload`, `checkpoint` and `result` are parsed JSON (raw text where it isn't JSON). `failures`, `losses` and
    `aborts` count in this generation; `attempt` and `attempts` go on over retries (the list is bounded, the newest are
    kept). `suspect`: it runs on a node that has not been heard of for a while.
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


@attrs.frozen(kw_only=True)
class LogLine:
    """A line of `job.log`, as it is kept with the job. `message` ends with the exception's text, if there is one."""

    time: dt.datetime
    level: str
    attempt: int
    node: str
    message: str


def log_line(line: Line) -> LogLine:
    """A line as users see it."""
    time = dt.datetime.fromtimestamp(line.at, dt.UTC)
    return LogLine(time=time, level=line.level, attempt=line.attempt, node=line.node, message=line.message)


@attrs.frozen(kw_only=True)
class FaultInfo:
    """A dead letter: a job as it was when it faulted. `sequence` is the letter's own in its stream."""

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


def job_info(record: JobRecord, bodies: Bodies, *, suspect: bool = False) -> JobInfo:
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
        submitted_at=dt.datetime.fromtimestamp(record.submitted_at, dt.UTC),
        started_at=instant(record.started_at),
        finished_at=instant(record.finished_at),
        next_attempt_at=instant(record.due_at),
        node=record.token.node if running and record.token is not None else None,
        progress=record.progress,
        checkpoint=_parsed(bodies.checkpoint),
        payload=_payload(bodies.payload),
        result=_parsed(bodies.result),
        error=record.error,
        reason=record.reason or None,
        labels=dict(record.options.labels),
        trace_id=record.trace_id,
        suspect=suspect,
        attempts=[_attempt_info(attempt) for attempt in record.attempts],
    )


def fault_info(seq: int, at: float, record: JobRecord, payload: str | None) -> FaultInfo:
    """A dead letter as users see it."""
    return FaultInfo(
        id=record.id,
        activity=record.activity,
        generation=record.generation,
        faulted_at=dt.datetime.fromtimestamp(at, dt.UTC),
        reason=record.reason or "",
        error=record.error,
        payload=_payload(payload),
        headers=dict(record.headers),
        labels=dict(record.options.labels),
        attempts=[_attempt_info(attempt) for attempt in record.attempts],
        trace_id=record.trace_id,
        sequence=seq,
    )


def inline(body: Body | None) -> bool:
    """Whether the body's text is in the record itself."""
    return body is None or body.ref is None


def _attempt_info(attempt: Attempt) -> AttemptInfo:
    return AttemptInfo(
        number=attempt.number,
        node=attempt.node,
        outcome=attempt.outcome,
        started_at=dt.datetime.fromtimestamp(attempt.started_at, dt.UTC),
        ended_at=instant(attempt.ended_at),
        error=attempt.error,
        generation=attempt.generation,
        due_at=instant(attempt.due_at),
        span_id=attempt.span_id or None,
    )


def _payload(text: str | None) -> Any:
    """An empty payload means the empty object, as it does to the activity."""
    return _parsed(text) if text is None or text.strip() else {}


def _parsed(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return fastjson.loads(text)
    except ValueError:
        return text
