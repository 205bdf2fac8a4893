"""The log's lines about attempts, jobs and runs of workflows: made of the records that this process has written.

An operator wants a line for each failure; a line for each start and end is for whoever asks for it. So what goes well
is at INFO on loggers of its own, and nothing is put together for a level that is off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from turnout.core.changes import Change, Changes
from turnout.core.failure import ErrorInfo
from turnout.core.loglines import fields_of, workflow_fields
from turnout.core.record import AttemptRecord, JobRecord, Outcome
from turnout.core.workflows.values import InputKind, Record, WorkflowState

attempts = logging.getLogger("turnout.attempts")
runs = logging.getLogger("turnout.workflow.runs")

OF_EACH_JOB = (attempts.name, runs.name)
"""The loggers that have a line at INFO for each job, or each workflow."""

OnSaved = Callable[[JobRecord, Changes], None]


def logged(on_saved: OnSaved | None) -> OnSaved:
    """Log what a write of a record means, then call `on_saved` if there is one."""
    if on_saved is None:
        return saved

    def both(record: JobRecord, changes: Changes) -> None:
        saved(record, changes)
        on_saved(record, changes)

    return both


# --- jobs -------------------------------------------------------------------------------------------------------------


def saved(record: JobRecord, changes: Changes) -> None:
    """This process has stored `record`, which means these changes."""
    for change in changes.all:
        level = _LEVELS.get(change)
        if level is None or not attempts.isEnabledFor(level):
            continue
        if change is Change.failed and Change.retried not in changes.all:
            continue  # the job's end tells of it
        text, error = _said(record, change, changes.ended)
        extra = fields_of(record)
        if change is Change.lost and changes.ended is not None:  # the record may tell of the next one already
            lost = changes.ended
            extra |= {"turnout_attempt": lost.number, "turnout_node": lost.node, "span_id": lost.span_id}
        _log(attempts, level, f"job {record.id} {text}", error, extra)
    if record.answer is not None and record.state.final and not _ENDED.isdisjoint(changes.all):
        _log(attempts, logging.WARNING, f"job {record.id} {_UNUSED}", None, fields_of(record))


_ENDED = frozenset({Change.completed, Change.faulted, Change.cancelled})
_UNUSED = "was said to have ended by somebody outside, which did not count: its code has not raised CompleteLater"


def _said(record: JobRecord, change: Change, ended: AttemptRecord | None) -> tuple[str, ErrorInfo | None]:
    """What the line says of the job behind its id, and the error whose traceback goes below it."""
    match change:
        case Change.started:
            return f"attempt {record.attempt} has started", None
        case Change.completed:
            return f"{_which(ended)}has completed{_after(ended)}", None
        case Change.failed:
            late = ended is not None and ended.outcome is Outcome.timed_out
            verb = "has timed out" if late else "has failed"
            return f"{_which(ended)}{verb}{_after(ended)}, {_next(record, ended)}: {_why(record.error)}", record.error
        case Change.lost:
            return f"{_which(ended)}is lost: node {'?' if ended is None else ended.node} has vanished", None
        case Change.aborted:
            return f"{_which(ended)}is aborted{_after(ended)}: its node stops", None
        case Change.faulted:
            last = f" with attempt {record.attempt}" if record.attempt else ""
            return f"has faulted{last} ({record.reason}): {_why(record.error)}", record.error
        case _:
            return f"is cancelled{f' in attempt {record.attempt}' if record.attempt else ''}", None


_LEVELS = {
    Change.started: logging.INFO,
    Change.completed: logging.INFO,
    Change.cancelled: logging.INFO,
    Change.aborted: logging.INFO,
    Change.failed: logging.WARNING,
    Change.lost: logging.WARNING,
    Change.faulted: logging.ERROR,
}


def _which(ended: AttemptRecord | None) -> str:
    return "" if ended is None else f"attempt {ended.number} "


def _after(ended: AttemptRecord | None) -> str:
    if ended is None or ended.ended_at is None:
        return ""
    return f" after {max(ended.ended_at - ended.started_at, 0.0):.3g} s"


def _next(record: JobRecord, ended: AttemptRecord | None) -> str:
    if record.due_at is None or ended is None or ended.ended_at is None:
        return "the next one is due"
    return f"the next one is due in {max(record.due_at - ended.ended_at, 0.0):.3g} s"


# --- workflows --------------------------------------------------------------------------------------------------------


def appended(record: Record) -> None:
    """This process has appended `record` for a workflow task. That a workflow is stuck is said where it gets so."""
    if runs.isEnabledFor(logging.INFO) and any(each.kind is InputKind.begin for each in record.inputs):
        _log(runs, logging.INFO, f"workflow {record.id} run {record.done_run} has started", None, _fields(record))
    if not record.ends_run:
        return
    failure = record.failure if record.start is None else record.start.failure
    level = _level(record, again=failure is not None)
    if runs.isEnabledFor(level):
        error = None if failure is None else failure.error
        _log(runs, level, f"workflow {record.id} run {record.done_run} {_end(record, error)}", error, _fields(record))


def _level(record: Record, *, again: bool) -> int:
    if record.state is WorkflowState.faulted:
        return logging.ERROR
    return logging.WARNING if again and not record.state.final else logging.INFO


def _end(record: Record, error: ErrorInfo | None) -> str:
    seconds = max(record.at - record.summary.run_at, 0.0)
    if record.state is WorkflowState.faulted:
        return f"has faulted after {seconds:.3g} s ({record.reason}): {_why(error)}"
    if record.state.final:
        return f"{_ENDS[record.state]} after {seconds:.3g} s"
    if error is None:
        return f"continues as new after {seconds:.3g} s"
    return f"has failed, the next one is due in {max(record.begun_at - record.at, 0.0):.3g} s: {_why(error)}"


_ENDS = {
    WorkflowState.completed: "has completed",
    WorkflowState.cancelled: "is cancelled",
    WorkflowState.terminated: "is terminated",
}


def _fields(record: Record) -> dict[str, Any]:
    return workflow_fields(record.id, record.name, record.done_run, record.summary.trace_id)


# --- both -------------------------------------------------------------------------------------------------------------


def _why(error: ErrorInfo | None) -> str:
    return "nobody knows why" if error is None else str(error)


def _log(logger: logging.Logger, level: int, text: str, error: ErrorInfo | None, extra: Mapping[str, Any]) -> None:
    """A line with the traceback as its exception: a formatter puts it where it puts one that was just raised."""
    record = logger.makeRecord(logger.name, level, __file__, 0, text, (), None, "saved", dict(extra))
    if error is not None and error.traceback:
        record.exc_text = error.traceback.rstrip("\n")
    logger.handle(record)
