"""A workflow's trace as its history tells it: what its newest run did and waited for, and how long each took."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence

import attrs

from turnout.cli import output, timeline
from turnout.cli.timeline import Page, Row
from turnout.cli.traceview import Problem, page_of
from turnout.client.workflows.history import History
from turnout.client.workflows.info import WorkflowInfo
from turnout.core.workflows.standing import asked_again, forks
from turnout.core.workflows.values import (
    AnswerState,
    Command,
    CommandKind,
    Input,
    InputKind,
    Record,
    RecordKind,
    WorkflowState,
    key_of,
)

_MESSAGE = 200
_KINDS = {CommandKind.joining: "result of"}


@attrs.frozen(kw_only=True)
class Step:
    """One thing of a run. `offset` is from the run's begin on, `duration` until its end, or until now; in seconds.

    `state`: `waiting` until it has ended; of a message that reached the workflow "", of one that a fork has sent to a
    child of its own after the workflow before it "sent again". `job` is the id of an activity's
    job, `child` that of a child workflow, `id` the command's or the update's. `code`: the line that asked for it.
    """

    kind: str
    name: str
    id: str
    state: str
    offset: float
    duration: float | None
    at: dt.datetime
    due_at: dt.datetime | None = None
    job: str | None = None
    child: str | None = None
    code: str | None = None
    error: Problem | None = None


@attrs.frozen(kw_only=True)
class WorkflowTrace:
    """The newest run of a workflow. `duration`: until its end, or until now. `url`: the trace's page in Jaeger."""

    id: str
    name: str
    state: WorkflowState
    run: int
    trace_id: str
    url: str | None
    started_at: dt.datetime
    finished_at: dt.datetime | None
    duration: float
    steps: list[Step]


def trace_of(info: WorkflowInfo, history: History, now: float, jaeger: str | None) -> WorkflowTrace:
    """The trace at the instant `now` (the server's); `jaeger` is the address of Jaeger's pages."""
    records = history.records
    begun, newest = records[0].at, records[-1]
    end = newest.at if newest.state.final else max(now, newest.at)
    steps = _Steps(begun, end)
    for record in records:
        steps.take(record)
    return WorkflowTrace(
        id=info.id,
        name=info.name,
        state=newest.state,
        run=newest.run,
        trace_id=info.trace_id,
        url=page_of(info.trace_id, jaeger),
        started_at=_instant(begun),
        finished_at=_instant(newest.at) if newest.state.final else None,
        duration=max(end - begun, 0.0),
        steps=sorted(steps.all, key=lambda step: step.offset),
    )


class _Steps:
    """Collects the steps of a run, record by record."""

    def __init__(self, begun: float, end: float) -> None:
        self._begun = begun
        self._end = end
        self._steps: dict[str, Step] = {}

    @property
    def all(self) -> Iterable[Step]:
        return self._steps.values()

    def take(self, record: Record) -> None:
        for given in record.start.carried if record.start is not None else ():
            self._input(given)
        if forks(record):
            self._sent_again(record)
        if record.begins_run:
            return  # what else it has belongs to the run before
        asked = {command.id for command in record.commands}
        at_once = [given for given in record.inputs if given.kind is InputKind.done and given.what in asked]
        for given in record.inputs:
            if given not in at_once:
                self._input(given)
        for command in record.commands:
            self._command(record, command)
        for given in at_once:  # of local activities, whose ends stand in the record that asks for them
            self._input(given)
        for answer in record.answers:
            if answer.state is not AnswerState.accepted:
                self._ends(_of_update(answer.id), str(answer.state), record.at, _problem(answer.error))
        if record.kind in (RecordKind.stuck, RecordKind.trying):
            problem = _problem(record.failure.error) if record.failure is not None else None
            step = self._step(str(record.kind), record.at)
            self._steps[f"record {record.number}"] = attrs.evolve(step, error=problem)
        if record.state.final:
            for key, step in list(self._steps.items()):
                self._ends(key, "failed" if step.kind == "update" else "withdrawn", record.at, None)

    def _step(self, kind: str, at: float, name: str = "", step_id: str = "", state: str = "") -> Step:
        """A step that begins at this instant; what lasts goes on until now, as far as is known yet."""
        return Step(
            kind=kind,
            name=name,
            id=step_id,
            state=state,
            offset=max(at - self._begun, 0.0),
            duration=max(self._end - at, 0.0) if state else None,
            at=_instant(at),
        )

    def _input(self, given: Input) -> None:
        match given.kind:
            case InputKind.done | InputKind.timer:
                ending = given.ending
                state = "fired" if ending is None else str(ending.kind)
                self._ends(given.what, state, given.at, _problem(ending.error if ending is not None else None))
            case InputKind.update:
                step = self._step("update", given.at, given.what, given.id, "waiting")
                self._steps[_of_update(given.id)] = step
            case InputKind.begin:
                self._steps["begin"] = self._step("begin", given.at)
            case InputKind.signal | InputKind.cancel:
                name = given.what if given.kind is InputKind.signal else given.body.text or ""
                key = f"{given.kind} {given.seq} {given.id}"
                self._steps[key] = self._step(str(given.kind), given.at, name)
            case _:
                return

    def _sent_again(self, record: Record) -> None:
        """What a fork asks for anew. Nobody waits for what had its end in the shared part: that was only sent again."""
        had_ended = {given.what for given in record.inputs if given.kind is InputKind.done}
        for command in asked_again(record):
            self._command(record, command)
            if command.id in had_ended:
                self._steps[command.id] = attrs.evolve(self._steps[command.id], state="sent again", duration=None)

    def _command(self, record: Record, command: Command) -> None:
        if command.kind in (CommandKind.withdraw, CommandKind.abandon):
            state = "withdrawn" if command.kind is CommandKind.withdraw else "abandoned"
            self._ends(command.target, state, record.at, None)
            return
        if command.kind is CommandKind.request:
            return
        key = key_of(record.id, record.life, record.done_run, command.id)
        kind, name = _KINDS.get(command.kind, str(command.kind)), command.name or command.target
        self._steps[command.id] = attrs.evolve(
            self._step(kind, command.since or record.at, name, command.id, "waiting"),
            due_at=_instant(command.at) if command.at is not None else None,
            job=key if command.kind is CommandKind.activity else None,
            child=command.target if command.kind is CommandKind.child else None,
            code=command.code or None,
        )

    def _ends(self, key: str, state: str, at: float, error: Problem | None) -> None:
        step = self._steps.get(key)
        if step is not None and step.state == "waiting":
            duration = max(at - step.at.timestamp(), 0.0)
            self._steps[key] = attrs.evolve(step, state=state, duration=duration, error=error)


def _of_update(update_id: str) -> str:
    return f"update {update_id}"


def _instant(at: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(at, dt.UTC)


def _problem(error: object) -> Problem | None:
    found = getattr(error, "type", None)
    return None if found is None else Problem(type=str(found), message=str(getattr(error, "message", "")))


# --- for people ------------------------------------------------------------------------------------------------------


def show(trace: WorkflowTrace) -> None:
    """Print the run: in colours and with bars on a terminal, indented lines elsewhere."""
    took = output.duration(trace.duration)
    how = f"{trace.state.value} after {took}" if trace.state.final else f"{trace.state.value}, {took} so far"
    page = Page(
        headline=f"{trace.id}  {trace.name}  {how}",
        state=trace.state.value,
        about=list(_about(trace)),
        total=trace.duration,
        url=trace.url,
    )
    timeline.show(page, list(_rows(trace)))


def _about(trace: WorkflowTrace) -> Iterator[str]:
    yield f"trace {trace.trace_id}"
    if trace.url is not None:
        yield trace.url
    if trace.run > 1:
        yield f"(run {trace.run}; the history of earlier runs is not kept)"


def _rows(trace: WorkflowTrace) -> Sequence[Row]:
    begun = "started" if trace.run == 1 else f"run {trace.run}"
    first = Row(at=0.0, what=begun, more=output.instant(trace.started_at))
    last = [Row(at=trace.duration, what=trace.state.value)] if trace.state.final else []
    return [first, *(_row(step) for step in trace.steps), *last]


def _row(step: Step) -> Row:
    took = step.duration
    waiting = step.state == "waiting"
    span = None if took is None else (step.offset, step.offset + took)
    waits = step.kind in ("timer", "update") or waiting
    problem = output.one_line(str(step.error), _MESSAGE) if step.error is not None else ""
    return Row(
        at=step.offset,
        what=output.one_line(f"{step.kind} {step.name}".rstrip(), 40),
        state=step.state,
        took="" if took is None else output.duration(took) + (" so far" if waiting else ""),
        more=_remarks(step, waiting=waiting),
        waits=span if waits else None,
        lasts=None if waits else span,
        below=problem,
    )


def _remarks(step: Step, *, waiting: bool) -> str:
    found = []
    if step.job is not None:
        found.append(f"job {step.job}")
    if step.child is not None and step.child != step.name:
        found.append(f"workflow {step.child}")
    if step.due_at is not None and waiting:
        found.append(f"until {output.instant(step.due_at)}")
    if waiting and step.code is not None:
        found.append(step.code)
    return ", ".join(found)
