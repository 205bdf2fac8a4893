"""What an activity's job and the workflow that asked for it know of each other.

Pure. The job's record says whom to tell of its end; the end says what the workflow's code is to see of it.
"""

from __future__ import annotations

import attrs

from turnout.core.evolve import evolve
from turnout.core.failure import ErrorInfo
from turnout.core.record import JobRecord, JobState, derived_span_id
from turnout.core.spec import NO_BODY, JobSpec, SubmitOptions
from turnout.core.workflows.values import Command, Ending, EndKind, Record, Start

ATTEMPTS_SHOWN = 5
"""How many of the last attempts of a job a workflow's history keeps."""

_ENDS = {
    JobState.completed: EndKind.completed,
    JobState.faulted: EndKind.faulted,
    JobState.cancelled: EndKind.cancelled,
}


def span_id_of(life: str, run: int) -> str:
    """The span of a run, which is told at its end and has its activities beneath it: the same on every node."""
    return derived_span_id(f"{life}.{run}")


def command_span_id_of(life: str, run: int, command: str) -> str:
    """The span of a timer, or of a local activity."""
    return derived_span_id(f"{life}.{run}.{command}")


def traceparent_of(start: Start) -> str:
    """The span that a workflow hangs below: its starter's, else one that derives from its trace; "" without a trace."""
    for name, value in start.headers.items():
        if name.lower() == "traceparent" and value.strip()[3:35] == start.trace_id:
            return value.strip()
    return f"00-{start.trace_id}-{derived_span_id(start.trace_id)}-01" if start.trace_id else ""


def trace_headers(record: Record) -> dict[str, str]:
    """The headers of what a run has begun: in its trace, below its span, and sampled if that is."""
    trace = record.summary.trace_id
    if not trace:
        return {}
    flags = record.summary.traceparent[53:55] or "01"
    return {"traceparent": f"00-{trace}-{span_id_of(record.life, record.done_run)}-{flags}"}


def job_of(record: Record, command: Command, key: str) -> JobSpec:
    """The job that an activity's command asks for."""
    asked = command.job or SubmitOptions()
    parent = record.asker(command.id)
    return JobSpec(
        id=key,
        activity=command.name,
        submitted_at=record.at,
        payload=command.body,
        headers=trace_headers(record),
        options=attrs.evolve(asked, parent=parent),  # it has slots, our own `evolve` is for what has none
        trace_id=record.summary.trace_id,
    )


def ending_of_job(record: JobRecord) -> Ending:
    """How a job has ended, for the workflow that asked for it. Of one that did not complete its record goes along."""
    if record.state is JobState.completed:
        return Ending(EndKind.completed, result=record.result)
    error = record.error or ErrorInfo("JobFaulted", record.reason or "")
    return Ending(_ENDS[record.state], error=error, reason=record.reason, job=_shown(record))


def ending_of_try(record: JobRecord) -> Ending:
    """How an attempt of a local activity has ended that is followed by another; whoever runs that goes on from it."""
    return Ending(EndKind.faulted, error=record.error, reason=record.reason, job=_shown(record))


def _shown(record: JobRecord) -> JobRecord:
    spec = evolve(record.spec, payload=NO_BODY, headers={})
    return evolve(record, spec=spec, checkpoint=None, attempts=record.attempts[-ATTEMPTS_SHOWN:])
