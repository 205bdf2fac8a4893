"""A job's trace as its record tells it: no collector is asked, so it is there for every job, traced or not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import attrs

from turnout.cli import output, timeline
from turnout.cli.timeline import Page, Row
from turnout.client.info import AttemptInfo, JobInfo, Waiting
from turnout.core.failure import ErrorInfo
from turnout.core.record import JobState, Outcome

_SHORTEST_DELAY_S = 0.01
_MESSAGE = 200


@attrs.frozen(kw_only=True)
class Problem:
    """Why an attempt, or a step of a workflow, did not complete, in brief."""

    type: str
    message: str

    def __str__(self) -> str:
        return str(ErrorInfo(self.type, self.message))


@attrs.frozen(kw_only=True)
class AttemptTrace:
    """One attempt. `offset` is from the submission to its start, `delay` until it was due, `queue_wait` from then on.

    In seconds; the latter two are None where the attempt before is not on record any more. `duration`: until now if it
    runs. `linked_to`: the span of the attempt before.
    """

    number: int
    generation: int
    node: str
    outcome: Outcome
    span_id: str | None
    linked_to: str | None
    offset: float
    delay: float | None
    queue_wait: float | None
    duration: float
    due_at: dt.datetime | None
    started_at: dt.datetime
    ended_at: dt.datetime | None
    error: Problem | None


@attrs.frozen(kw_only=True)
class JobTrace:
    """A job from its submission on. `duration`: until its end, or until now. `url`: the trace's page in Jaeger."""

    id: str
    activity: str
    state: JobState
    suspect: bool
    trace_id: str
    url: str | None
    submitted_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    next_attempt_at: dt.datetime | None
    waiting_for: Waiting | None
    duration: float
    not_kept: int
    attempts: list[AttemptTrace]


def trace_of(info: JobInfo, now: float, jaeger: str | None) -> JobTrace:
    """The job's trace at the instant `now` (the server's); `jaeger` is the address of Jaeger's pages."""
    end = now if info.finished_at is None else info.finished_at.timestamp()
    befores: list[AttemptInfo | None] = [None, *info.attempts]
    return JobTrace(
        id=info.id,
        activity=info.activity,
        state=info.state,
        suspect=info.suspect,
        trace_id=info.trace_id,
        url=page_of(info.trace_id, jaeger),
        submitted_at=info.submitted_at,
        started_at=info.started_at,
        finished_at=info.finished_at,
        next_attempt_at=None if info.state.final else info.next_attempt_at,
        waiting_for=info.waiting_for,
        duration=max(end - info.submitted_at.timestamp(), 0.0),
        not_kept=max(info.attempt - len(info.attempts), 0),
        attempts=[_attempt(info, *pair, now) for pair in zip(befores, info.attempts, strict=False)],
    )


def page_of(trace_id: str, jaeger: str | None) -> str | None:
    """The trace's page, if the address of Jaeger's pages is known.

    >>> page_of("4bf92f3577b34da6a3ce929d0e0e4736", "http://localhost:16686/")
    'http://localhost:16686/trace/4bf92f3577b34da6a3ce929d0e0e4736'
    """
    return f"{jaeger.rstrip('/')}/trace/{trace_id}" if jaeger else None


def _attempt(info: JobInfo, before: AttemptInfo | None, tried: AttemptInfo, now: float) -> AttemptTrace:
    begun = tried.started_at.timestamp()
    delay = wait = None
    free = before.ended_at if before is not None else info.submitted_at if tried.number == 1 else None
    if free is not None:
        due = max(free, tried.due_at or free).timestamp()
        delay = due - free.timestamp()
        wait = max(begun - due, 0.0)
    ended = tried.ended_at.timestamp() if tried.ended_at is not None else max(now, begun)
    return AttemptTrace(
        number=tried.number,
        generation=tried.generation,
        node=tried.node,
        outcome=tried.outcome,
        span_id=tried.span_id,
        linked_to=before.span_id if before is not None else None,
        offset=max(begun - info.submitted_at.timestamp(), 0.0),
        delay=delay,
        queue_wait=wait,
        duration=max(ended - begun, 0.0),
        due_at=tried.due_at,
        started_at=tried.started_at,
        ended_at=tried.ended_at,
        error=Problem(type=tried.error.type, message=tried.error.message) if tried.error is not None else None,
    )


# --- for people ------------------------------------------------------------------------------------------------------


def show(trace: JobTrace, now: float) -> None:
    """Print the tree: in colours and with bars on a terminal, indented lines elsewhere."""
    rows = [Row(at=0.0, what="submitted", more=output.instant(trace.submitted_at)), *_rows(trace, now)]
    page = Page(
        headline=_headline(trace),
        state=trace.state.value,
        about=list(_about(trace)),
        total=trace.duration,
        url=trace.url,
    )
    timeline.show(page, rows)


def _rows(trace: JobTrace, now: float) -> Iterator[Row]:
    """What came after the submission."""
    generation = 1
    for each in trace.attempts:
        if each.delay is not None and each.delay >= _SHORTEST_DELAY_S:
            due = each.offset - (each.queue_wait or 0.0)
            begun = due - each.delay
            what = "delay" if each.generation == generation else "retried"
            more = "" if what == "delay" else "by somebody, after that"
            span = (begun, due)
            yield Row(at=begun, what=what, took=output.duration(each.delay), more=more, waits=span)
        generation = each.generation
        yield _attempt_row(trace, each)
    if trace.state.final:
        yield Row(at=trace.duration, what=trace.state.value)
    elif trace.state is not JobState.running:
        yield _waiting_row(trace, now)


def _attempt_row(trace: JobTrace, each: AttemptTrace) -> Row:
    running = each.outcome is Outcome.running
    waited = each.queue_wait or 0.0
    remarks = [f"on {each.node}"]
    if each.queue_wait is not None:
        remarks.append(f"waited {output.duration(waited)}")
    problem = output.one_line(str(each.error), _MESSAGE) if each.error is not None else ""
    return Row(
        at=each.offset,
        what=f"attempt {each.number}",
        state="suspect" if running and trace.suspect else each.outcome.value,
        took=output.duration(each.duration) + (" so far" if running else ""),
        more=", ".join(remarks),
        waits=(each.offset - waited, each.offset),
        lasts=(each.offset, each.offset + each.duration),
        below=problem,
    )


def _waiting_row(trace: JobTrace, now: float) -> Row:
    """What a job that does not run waits for."""
    submitted = trace.submitted_at.timestamp()
    since = trace.attempts[-1].ended_at if trace.attempts else trace.submitted_at
    begun = (since or trace.submitted_at).timestamp() - submitted
    span = (begun, trace.duration)
    due = trace.next_attempt_at
    if due is not None and due.timestamp() > now:
        more = f"until {output.instant(due)}, {output.ago(due, now)}"
        return Row(at=begun, what="delay", state=trace.state.value, more=more, waits=span)
    waits = output.duration(max(trace.duration - begun, 0.0)) + " so far"
    return Row(at=begun, what="waits", state=trace.state.value, took=waits, more=_for_what(trace), waits=span)


def _for_what(trace: JobTrace) -> str:
    found = trace.waiting_for
    match found.kind if found is not None else None:
        case "limit" if found is not None:
            return f"for the limit {output.one_line(found.name, 40)}"
        case "node" if found is not None and found.name != trace.activity:
            return f"for a node with {output.one_line(found.name, 40)}"
        case "paused":
            return f"while {trace.activity} is paused"
        case _:
            return "for a worker"


def _headline(trace: JobTrace) -> str:
    took = output.duration(trace.duration)
    how = f"{trace.state.value} after {took}" if trace.state.final else f"{trace.state.value}, {took} so far"
    return f"{trace.id}  {trace.activity}  {how}"


def _about(trace: JobTrace) -> Iterator[str]:
    yield f"trace {trace.trace_id}"
    if trace.url is not None:
        yield trace.url
    if trace.not_kept:
        yield f"({trace.not_kept} earlier attempts are not kept)"
