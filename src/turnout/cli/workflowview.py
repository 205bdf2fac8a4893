"""How workflows look to people: a line in a list, everything about one, its history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from turnout.cli import jobview, output, pasting
from turnout.client.info import Waiting
from turnout.client.workflows.history import HistoryEvent
from turnout.client.workflows.info import WorkflowInfo
from turnout.core.workflows.values import WorkflowState


def listing(found: Sequence[WorkflowInfo], now: float) -> list[str]:
    """The lines of a list of workflows."""
    headers = ["id", "name", "state", "run", "age", "waits for"]
    return output.table(headers, [_row(info, now) for info in found])


def _row(info: WorkflowInfo, now: float) -> Sequence[str]:
    return info.id, info.name, state(info), str(info.run), output.age(info.started_at, now), waits(info)


def state(info: WorkflowInfo) -> str:
    """A workflow's state in a word, or that it was asked to stop."""
    asked = info.cancel_requested is not None and info.state is WorkflowState.running
    return "cancelling" if asked else info.state.value


def waits(info: WorkflowInfo) -> str:
    """What a workflow waits for, in a few words."""
    if not info.waiting:
        return ""
    first = info.waiting[0]
    more = f" and {info.waiting_count - 1} more" if info.waiting_count > 1 else ""
    return output.one_line(f"{first.kind} {first.name}".rstrip() + more, 60)


def workflow(info: WorkflowInfo, now: float) -> list[str]:
    """Everything about a workflow, what matters most first."""
    lines = output.fields(_facts(info, now))
    if info.error is not None:
        lines += ["", *jobview.error(info.error)]
    if info.waiting:
        lines += ["", *_waiting(info.waiting, now)]
        hidden = info.waiting_count - len(info.waiting)
        if hidden > 0:
            lines.append(f"(and {hidden} more)")
    return lines


def _facts(info: WorkflowInfo, now: float) -> Iterable[tuple[str, str | None]]:
    yield "workflow", info.id
    yield "name", info.name
    yield "state", output.coloured(state(info))
    yield "why", output.one_line(info.reason) if info.reason else None
    yield "asked to stop", _asked(info)
    yield "run", str(info.run)
    yield "parent", info.parent
    yield "schedule", info.schedule
    yield "details", output.one_line(info.details, 1000) if info.details else None
    yield "starts", output.at(info.due_at, now) if info.state is WorkflowState.scheduled else None
    yield "started", output.at(info.started_at, now)
    yield "finished", output.at(info.finished_at, now)
    yield "events", str(info.history_length)
    yield "build", f"{info.build} (pinned)" if info.pinned else info.build
    yield "node", info.node
    yield "labels", output.labels(info.labels)
    yield "trace", info.trace_id
    yield "payload", output.one_line(info.payload)
    yield "result", output.one_line(info.result) if info.state is WorkflowState.completed else None


def _asked(info: WorkflowInfo) -> str | None:
    if info.cancel_requested is None:
        return None
    later = "; it hears of it when it goes on" if info.state is WorkflowState.stuck else ""
    return (output.one_line(info.cancel_requested) or "without a reason") + later


def _waiting(waiting: Sequence[Waiting], now: float) -> list[str]:
    rows = [
        (
            each.kind,
            output.one_line(each.name, 60),
            str(each.attempt) if each.attempt is not None else "",
            output.age(each.since, now),
            output.ago(each.due_at, now),
            each.code or "",
        )
        for each in waiting
    ]
    return output.table(["waits for", "name", "attempt", "for", "due", "code"], rows)


def history(events: Sequence[HistoryEvent]) -> list[str]:
    """A history, an event a line."""
    rows = [
        (str(e.number), output.instant(e.at, milliseconds=True), e.kind, e.name, e.id, _data(e), e.node) for e in events
    ]
    return output.table(["event", "at", "kind", "name", "id", "data", "node"], rows)


def _data(event: HistoryEvent) -> str:
    return " ".join(f"{key}={output.one_line(value, 60)}" for key, value in event.data.items() if value is not None)


def end(info: WorkflowInfo) -> list[str]:
    """How a workflow ended that has no result, in a line and with its error."""
    reason = output.one_line(info.reason) if info.reason else ""
    if info.state in (WorkflowState.cancelled, WorkflowState.terminated):
        return [f"workflow {info.id} was {info.state}{f': {reason}' if reason else ''}"]
    lines = [f"workflow {info.id} faulted{f': {reason}' if reason else ''}"]
    if info.error is not None:
        lines.append(output.one_line(str(info.error), 1000))
    return [*lines, f"more about it: {pasting.command(f'workflow show {info.id}')}"]
