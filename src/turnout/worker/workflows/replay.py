"""Replaying: the code is led again through the inputs of its history, and must ask for what it asked for before."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from turnout.core.workflows.shared import as_task, steps_of
from turnout.core.workflows.standing import Standing, forks
from turnout.core.workflows.task import Continued, Returned, RunEnd, Stopped
from turnout.core.workflows.values import DELAY, Command, Record, RecordKind, WorkflowState
from turnout.definition.workflow import Workflow
from turnout.errors import NonDeterminism
from turnout.worker.workflows.calls import Views
from turnout.worker.workflows.instance import Facts, Instance

WITHOUT_CODE = (RecordKind.stuck, RecordKind.trying, RecordKind.terminated, RecordKind.deleted)
"""The kinds of records that no code has anything to do with."""


def replay(workflow: Workflow[..., Any], records: Sequence[Record], standing: Standing, views: Views) -> Instance:
    """The instance as it was after these records of one run, whose sum is `standing`; their bodies are at hand.

    NonDeterminism when the code asks for something else than was recorded; whatever else it raises.
    """
    first = records[0]
    assert first.start is not None
    facts = Facts(
        id=first.id,
        name=first.name,
        life=first.life,
        run=first.run,
        start=first.start,
        patches=standing.patches,
    )
    instance = Instance(workflow, facts, views)
    instance.replaying = True
    instance.history_size = first.summary.size
    try:
        with instance.running():
            if forks(first):
                _replay_shared(instance, first)
            for record in records[1:]:
                _replay_record(instance, record)
    except BaseException:
        instance.drop()
        raise
    instance.replaying = False
    return instance


async def replayed(
    run: Callable[[Callable[[], Instance]], Awaitable[Instance]],
    workflow: Workflow[..., Any],
    records: Sequence[Record],
    standing: Standing,
    views: Views,
) -> Instance:
    """What `replay` gives; it is left to `run`, which has the thread of the code, if any code runs in it."""
    call = functools.partial(replay, workflow, records, standing, views)
    return call() if len(records) == 1 and not forks(records[0]) else await run(call)


def _replay_shared(instance: Instance, record: Record) -> None:
    """Lead the code through what a fork shares: with the random numbers of the life before it, up to there (W16)."""
    life = record.life
    for step in steps_of(record):
        if step.life != life:
            life = step.life
            instance.reseed(life)
        _replay_record(instance, as_task(record, step))
    if life != record.life:
        instance.reseed(record.life)


def _replay_record(instance: Instance, record: Record) -> None:
    if record.kind in WITHOUT_CODE:
        return
    given: list[Command] = []
    end: RunEnd | None = None
    for each in record.inputs:
        turn = instance.applied(each)
        given += turn.commands
        end = turn.end
    compare(record, given, end)
    instance.history_size = record.summary.size


def compare(record: Record, given: Iterable[Command], end: RunEnd | None) -> None:
    """NonDeterminism, with both sides, unless the code has asked for what is recorded: by id, kind and name."""
    produced = {command.id: command for command in given}
    recorded = {command.id: command for command in record.commands if command.id != DELAY}
    missing = [each for each in recorded.values() if each.id not in produced or not each.same(produced[each.id])]
    more = [each for each in produced.values() if each.id not in recorded or not each.same(recorded[each.id])]
    if missing or more:
        raise NonDeterminism(_difference(record, missing, more))
    ended = _end_of(record)
    now = "goes on" if end is None else type(end).__name__.lower()
    if ended != now and "raised" not in (ended, now):
        raise NonDeterminism(
            f"workflow {record.id}, record {record.number}: the history says that the run {ended}, the code says {now}"
        )


def _end_of(record: Record) -> str:
    if record.start is not None:
        return "raised" if record.start.failure is not None else Continued.__name__.lower()
    match record.state:
        case WorkflowState.completed:
            return Returned.__name__.lower()
        case WorkflowState.cancelled:
            return Stopped.__name__.lower()
        case WorkflowState.faulted:
            return "raised"
        case _:
            return "goes on"


def _difference(record: Record, missing: Sequence[Command], more: Sequence[Command]) -> str:
    lines = difflib.ndiff([_line(each) for each in missing], [_line(each) for each in more])
    listed = "\n".join(f"  {line}" for line in lines if not line.startswith("?"))
    return (
        f"workflow {record.id}, record {record.number}: the code asks for something else than its history says "
        f"(- recorded, + asked for now):\n{listed}"
    )


def _line(command: Command) -> str:
    name = f" {command.name}" if command.name else ""
    where = f" at {command.code}" if command.code else ""
    return f"{command.id} {command.kind}{name}{where}"
