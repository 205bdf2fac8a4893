"""How jobs look to people: a line in a list, or everything about one."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from turnout.cli import output, pasting
from turnout.cli.route_checks import worker_with
from turnout.client.info import AttemptInfo, JobInfo
from turnout.core.failure import ErrorInfo
from turnout.core.record import JobState, Progress
from turnout.core.routing import spelled
from turnout.core.spec import DEFAULT_PRIORITY

_TRACEBACK_LINES = 12
_WAITS = {"paused": "paused", "node": "no node"}


class Listing:
    """The lines of jobs, which may come in parts."""

    def __init__(self) -> None:
        self._table = output.Table(["id", "activity", "state", "attempt", "node", "age", "progress"])

    def lines(self, jobs: Sequence[JobInfo], now: float) -> list[str]:
        return self._table.lines(
            (
                info.id,
                info.activity,
                state(info),
                str(info.attempt),
                info.node or "",
                output.age(info.submitted_at, now),
                progress(info.progress),
            )
            for info in jobs
        )


def state(info: JobInfo) -> str:
    """A job's state in a word, or what matters more while it runs: its node is silent, or it was asked to stop."""
    if info.suspect:
        return "suspect"
    if info.cancel_requested is not None:
        return "cancelling"
    found = info.waiting_for
    why = _WAITS.get(found.kind) if found is not None else None
    if found is not None and found.kind == "slot" and info.state is not JobState.queued:
        why = "due"  # for its time it waits no more
    if found is not None and found.kind == "node" and found.name != info.activity:
        why = f"no node with {found.name}"
    if found is not None and found.kind == "limit":
        why = f"limit {output.one_line(found.name, 40)}"
    return info.state.value if why is None else f"{info.state.value} ({why})"


def job(info: JobInfo, now: float, *, workless: bool = False) -> list[str]:
    """Everything about a job, what matters most first. `workless`: no node works on its activity."""
    lines = output.fields(_facts(info, now, workless=workless))
    if info.error is not None:
        lines += ["", *error(info.error)]
    if info.attempts:
        lines += ["", *attempts(info.attempts, now)]
        hidden = info.attempt - len(info.attempts)
        if hidden > 0:
            lines.append(f"({hidden} earlier attempts are not kept)")
    return lines


def _facts(info: JobInfo, now: float, *, workless: bool) -> Iterable[tuple[str, str | None]]:
    snoozed = f", {info.snoozes} snoozed" if info.snoozes else ""
    counters = f"{info.failures} failed, {info.losses} lost, {info.aborts} aborted{snoozed}"
    yield "job", info.id
    yield "activity", info.activity
    yield "state", output.coloured(info.state.value)
    yield "why", _why(info, workless=workless)
    yield "waits", waiting(info)
    yield "node", info.node
    yield "attempt", f"{info.attempt} ({counters})" if info.attempt or snoozed else "none yet"
    if not info.state.final:
        yield "next", output.at(info.next_attempt_at, now)
    yield "progress", progress(info.progress)
    yield "submitted", output.at(info.submitted_at, now)
    yield "started", output.at(info.started_at, now)
    yield "finished", output.at(info.finished_at, now)
    if info.generation > 1:
        yield "generation", f"{info.generation} (retried or replayed {info.generation - 1} times)"
    yield "workflow", info.workflow
    yield "schedule", info.schedule
    yield "requires", spelled(info.requires) or None
    yield "priority", str(info.priority) if info.priority != DEFAULT_PRIORITY else None
    yield "group", info.group
    yield "labels", output.labels(info.labels)
    yield "trace", info.trace_id
    yield "payload", output.one_line(info.payload)
    yield "checkpoint", None if info.checkpoint is None else output.one_line(info.checkpoint)
    yield "outside", _unused(info)
    yield "result", output.one_line(info.result) if info.state is JobState.completed else None


def _unused(info: JobInfo) -> str | None:
    said = info.unused_answer
    return None if said is None else f"{output.one_line(said)} (did not count: its code has not raised CompleteLater)"


def _why(info: JobInfo, *, workless: bool) -> str | None:
    if info.suspect:
        return f"suspect: node {info.node} is silent; another one takes over if it stays so"
    if info.cancel_requested is not None:
        reason = f": {output.one_line(info.cancel_requested)}" if info.cancel_requested else ""
        return f"a cancel was asked for{reason}; the code has not stopped yet"
    if info.state is JobState.running and info.node is None:
        return "its code is done, and it is completed from outside"
    if workless:
        return f"no node works on {info.activity}: start a worker for it"
    if info.reason and info.error is not None:
        return f"{output.one_line(info.reason)}: {output.one_line(str(info.error))}"
    if info.reason:
        return output.one_line(info.reason)
    if info.error is not None:
        return output.one_line(str(info.error))
    return None


def waiting(info: JobInfo) -> str | None:
    """Why a job that might run does not, and what would help."""
    found = info.waiting_for
    match found.kind if found is not None else None:
        case "paused":
            return f"{info.activity} is paused: {pasting.command(f'activity resume {info.activity}')}"
        case "node" if found is not None and found.name != info.activity:
            return f"no node that works on {info.activity} has {found.name}: start one, {worker_with(info.requires)}"
        case "node":
            return f"no node works on {info.activity}: start a worker for it"
        case "slot":
            return f"every node that works on {info.activity} is busy"
        case "limit" if found is not None:
            look = pasting.command(f"limit show {shlex.quote(found.name)}")
            return f"the limit {output.one_line(found.name)} lets no more in: {look}"
        case _:
            return None


def attempts(tried: Sequence[AttemptInfo], now: float) -> list[str]:
    rows = [
        (
            str(each.number),
            each.outcome.value,
            each.node,
            output.instant(each.started_at),
            output.duration((each.ended_at.timestamp() if each.ended_at else now) - each.started_at.timestamp()),
            output.one_line(str(each.error), 80) if each.error else "",
        )
        for each in tried
    ]
    return output.table(["attempt", "outcome", "node", "started", "took", "error"], rows)


def error(found: ErrorInfo) -> list[str]:
    """The error, and the last lines of its traceback."""
    lines = output.clean(found.traceback).rstrip().splitlines()
    if not lines:
        return [output.clean(str(found))]
    cut = ["  ..."] if len(lines) > _TRACEBACK_LINES else []
    return [*cut, *lines[-_TRACEBACK_LINES:]]


def end(info: JobInfo) -> list[str]:
    """How a job ended that has no result, in a line and with its error."""
    reason = output.one_line(info.reason) if info.reason else ""
    if info.state is JobState.cancelled:
        return [f"job {info.id} was cancelled{f': {reason}' if reason else ''}"]
    lines = [f"job {info.id} faulted: {reason}"]
    if info.state is JobState.faulted and info.error is not None:
        lines.append(output.one_line(str(info.error), 1000))
        lines.append(f"more about it: {pasting.command(f'job show {info.id}')}")
    return lines


def progress(found: Progress | None) -> str:
    """45% 45/100 converting"""
    if found is None:
        return ""
    parts = [f"{found.done:g}"]
    if found.total:
        parts = [f"{100 * found.done / found.total:.0f}%", f"{found.done:g}/{found.total:g}"]
    return " ".join([*parts, output.one_line(found.message, 60)]).rstrip()
