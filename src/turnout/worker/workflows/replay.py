"""Replaying: the code is led again through the inputs of its history, and must ask for what it asked for before."""

from __future__ import annotations

import asyncio
import difflib
import functools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from turnout.core.workflows.shared import as_task, steps_of
from turnout.core.workflows.standing import Standing, forks
from turnout.core.workflows.task import Continued, Returned, RunEnd, Stopped
from turnout.core.workflows.values import DELAY, Command, CommandKind, Record, RecordKind, WorkflowState
from turnout.definition.workflow import Workflow
from turnout.errors import NonDeterminism
from turnout.worker.workflows.calls import Views
from turnout.worker.workflows.instance import Facts, Instance

WITHOUT_CODE = frozenset({RecordKind.stuck, RecordKind.trying, RecordKind.terminated, RecordKind.deleted})
"""The kinds of records that no code has anything to do with."""

PIECE = 200
"""After how many inputs a replay that is in no hurry lets others have the thread."""


def replay(workflow: Workflow[..., Any], records: Sequence[Record], standing: Standing, views: Views) -> Instance:
    """The instance as it was after these records of one run, whose sum is `standing`; their bodies are at hand.

    NonDeterminism when the code asks for something else than was recorded; whatever else it raises.
    """
    instance = _unled(workflow, records[0], standing, views)
    try:
        with instance.running():
            for _ in _led(instance, records):
                pass
    except BaseException:
        instance.drop()
        raise
    instance.replaying = False
    return instance


async def replay_in_pieces(
    run: Callable[[Callable[[], Any]], Awaitable[Any]],
    workflow: Workflow[..., Any],
    records: Sequence[Record],
    standing: Standing,
    views: Views,
) -> None:
    """Lead the code through these records as `replay` does, and forget it; others have the thread meanwhile."""
    instance = _unled(workflow, records[0], standing, views)
    led = _led(instance, records)
    try:
        while await run(lambda: _led_on(instance, led)):
            pass
    except asyncio.CancelledError:
        await run(instance.drop)
        raise


def _led_on(instance: Instance, led: Iterator[int]) -> bool:
    """Lead the code on by one piece; whether there may be more. It is forgotten where there is not."""
    left, more = PIECE, False
    try:
        with instance.running():
            for inputs in led:
                left -= inputs
                if left <= 0:
                    more = True
                    break
    finally:
        if not more:
            instance.drop()
    return more


def _unled(workflow: Workflow[..., Any], first: Record, standing: Standing, views: Views) -> Instance:
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
    return instance


def _led(instance: Instance, records: Sequence[Record]) -> Iterator[int]:
    """Lead the code through the records, one at a time; how many inputs each has."""
    if forks(records[0]):
        yield from _replay_shared(instance, records[0])
    for record in records[1:]:
        _replay_record(instance, record)
        yield len(record.inputs)


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


def _replay_shared(instance: Instance, record: Record) -> Iterator[int]:
    """Lead the code through what a fork shares: with the random numbers of the life before it, up to there (W16)."""
    life = record.life
    children = (each for each in record.commands if each.kind is CommandKind.child)
    instance.calls.shared_children = {each.id: each.target for each in children}
    for step in steps_of(record):
        if step.life != life:
            life = step.life
            instance.reseed(life)
        shared = as_task(record, step)
        _replay_record(instance, shared)
        yield len(shared.inputs)
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


def compare(record: Record, given: Sequence[Command], end: RunEnd | None) -> None:
    """NonDeterminism, with both sides, unless the code has asked for what is recorded: by id, kind and name."""
    if len(given) != len(record.commands) or not all(map(Command.same, given, record.commands)):
        _compare_by_id(record, given)
    ended = _end_of(record)
    now = _GOES_ON if end is None else type(end).__name__.lower()
    if ended != now and "raised" not in (ended, now):
        raise NonDeterminism(
            f"workflow {record.id}, record {record.number}: the history says that the run {ended}, the code says {now}"
        )


def _compare_by_id(record: Record, given: Iterable[Command]) -> None:
    produced = {command.id: command for command in given}
    recorded = {command.id: command for command in record.commands if command.id != DELAY}
    missing = [each for each in recorded.values() if each.id not in produced or not each.same(produced[each.id])]
    more = [each for each in produced.values() if each.id not in recorded or not each.same(recorded[each.id])]
    if missing or more:
        raise NonDeterminism(_difference(record, missing, more))


_GOES_ON = "goes on"


def _end_of(record: Record) -> str:
    if record.start is not None:
        return "raised" if record.start.failure is not None else Continued.__name__.lower()
    if not record.state.final:
        return _GOES_ON
    match record.state:
        case WorkflowState.completed:
            return Returned.__name__.lower()
        case WorkflowState.cancelled:
            return Stopped.__name__.lower()
        case WorkflowState.faulted:
            return "raised"
        case _:
            return _GOES_ON


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
