"""A workflow's history as people read it: one event for each thing that was recorded."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from turnout.core.evolve import evolve
from turnout.core.plain import Plain, plain
from turnout.core.workflows.shared import as_task, steps_of
from turnout.core.workflows.values import Command, Input, Record, RecordKind
from turnout.errors import UnreadableRecord
from turnout.wire import histories as wire


@attrs.frozen(kw_only=True)
class HistoryEvent(Plain):
    """One event of a history, numbered from 1.

    `kind`: what happened, such as `started`, `signal`, `ask_activity`, `done`, `timer`, `completed`. `name` is that of
    the signal, activity or child, `id` the command's. `task` is the number of the record that it stands in, `node` who
    wrote that.
    """

    number: int
    at: dt.datetime
    kind: str
    name: str = ""
    id: str = ""
    data: dict[str, Any] = attrs.field(factory=dict)
    task: int = 0
    node: str = ""


class History(list[HistoryEvent]):
    """The events of a workflow's newest run, in order; `records` are what they were made from."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = tuple(records)
        super().__init__(_numbered(self.records))

    def to_jsonl(self) -> str:
        """The records as JSON, one a line: what `replay` reads."""
        return "".join(wire.dump_history_record(record).decode() + "\n" for record in self.records)

    @staticmethod
    def from_jsonl(text: str) -> History:
        """The history that `to_jsonl` wrote. UnreadableRecord, which names the line, for what is none."""
        lines = enumerate(text.split("\n"), 1)
        return History([_record(number, line) for number, line in lines if line.strip()])


def _record(number: int, line: str) -> Record:
    try:
        return wire.load_history_record(line.encode())
    except UnreadableRecord as error:
        raise UnreadableRecord(f"line {number}: {error}") from error


def _numbered(records: Iterable[Record]) -> Iterator[HistoryEvent]:
    number = 0
    for record in records:
        for event in _events(record):
            number += 1
            yield attrs.evolve(event, number=number)


def _events(record: Record) -> Iterator[HistoryEvent]:
    if record.kind is RecordKind.start and record.start is not None:
        yield _event(record, "started", record.name, data={"payload": record.start.payload.text})
        for given in record.start.carried:
            yield _input(record, given)
        for step in steps_of(record):
            yield from _step(evolve(as_task(record, step), at=step.at, node=step.node))
    else:
        yield from _step(record)
    yield from _ends(record)


def _step(record: Record) -> Iterator[HistoryEvent]:
    for given in record.inputs:
        yield _input(record, given)
    for command in record.commands:
        yield _command(record, command)
    for answer in record.answers:
        result = answer.result.text if answer.result is not None else None
        yield _event(record, f"update_{answer.state}", "", answer.id, {"result": result, "error": plain(answer.error)})


def _ends(record: Record) -> Iterator[HistoryEvent]:
    failure = plain(record.failure.error) if record.failure is not None else None
    data = {"reason": record.reason, "error": failure}
    if record.kind in (RecordKind.stuck, RecordKind.trying, RecordKind.deleted):
        yield _event(record, record.kind, data=data)
    elif record.state.final:
        result = record.result.text if record.result is not None else None
        yield _event(record, record.state, data={**data, "result": result, "left": record.left or None})
    elif record.kind is RecordKind.task and record.start is not None:
        kind = "continued" if record.start.failure is None else "retried"
        yield _event(record, kind, data={"payload": record.start.payload.text, "run": record.run})


def _input(record: Record, given: Input) -> HistoryEvent:
    data: dict[str, Any] = {"body": given.body.text, "input": given.seq or None}
    if given.ending is not None:
        ending = given.ending
        result = ending.result.text if ending.result is not None else None
        data |= {"outcome": str(ending.kind), "result": result, "error": plain(ending.error), "reason": ending.reason}
        data["attempt"] = ending.job.attempt if ending.job is not None and given.kind == "tried" else None
    of_command = given.kind in ("done", "started", "timer", "tried")
    event = _event(record, given.kind, "" if of_command else given.what, given.what if of_command else given.id, data)
    return attrs.evolve(event, at=dt.datetime.fromtimestamp(given.at, dt.UTC))


def _command(record: Record, command: Command) -> HistoryEvent:
    data = {"payload": command.body.text, "target": command.target, "code": command.code}
    if command.at is not None:
        data["due_at"] = plain(dt.datetime.fromtimestamp(command.at, dt.UTC))
    kind = f"{command.kind}_{command.about}" if command.about else str(command.kind)
    return _event(record, f"ask_{kind}", command.name, command.id, data)


def _event(
    record: Record, kind: str, name: str = "", event_id: str = "", data: dict[str, Any] | None = None
) -> HistoryEvent:
    return HistoryEvent(
        number=0,
        at=dt.datetime.fromtimestamp(record.at, dt.UTC),
        kind=str(kind),
        name=name,
        id=event_id,
        data={key: value for key, value in (data or {}).items() if value not in (None, "")},
        task=record.number,
        node=record.node,
    )
