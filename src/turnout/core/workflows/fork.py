"""Forks: what a new workflow shares with the newest run of another one, up to any of its events (W16).

Pure. What was taken is given to the code again, so nothing of it is run again; what was asked for and had not ended
is asked for anew, under the names of the new life. Where the cut goes through a task, its inputs before the cut are
given to the code as new ones: what that makes of them need not be what was made of them before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import attrs

from turnout.core.evolve import evolve
from turnout.core.struct import struct
from turnout.core.workflows.shared import Step, steps_of
from turnout.core.workflows.values import (
    Answer,
    Command,
    CommandKind,
    EndKind,
    Fork,
    Input,
    InputKind,
    Record,
    RecordKind,
    Start,
    Summary,
    WorkflowState,
    key_of,
)
from turnout.errors import InvalidValue


@struct(kw_only=True)
class Past:
    """What a fork has in its record 0 besides a start of its own. `at` is when it is forked."""

    at: float
    run: int
    inputs: tuple[Input, ...] = ()
    commands: tuple[Command, ...] = ()
    answers: tuple[Answer, ...] = ()
    patches: tuple[str, ...] = ()
    events: int = 1
    before: Summary | None = None
    waits: bool = False


@struct(kw_only=True)
class Forking:
    """Who forks: the id and the life of the new workflow, and when."""

    id: str
    life: str
    at: float


def forked(records: Sequence[Record], at: int, forking: Forking) -> tuple[Start, Past]:
    """What a fork of this run begins with that keeps the events before number `at`.

    InvalidValue, with the numbers that there are, for an event that can't be the first that is not shared.
    """
    first = records[0]
    start, head, steps = _begin(first), _head(first), list(_steps(records))
    _check(records, at, head, steps)
    refused = {
        given.what
        for record in records
        for given in record.inputs
        if given.ending is not None and given.ending.kind is EndKind.exists
    }
    left = at - 1 - head
    if left < 0:
        start, left = attrs.evolve(start, carried=start.carried[:left]), 0
    kept: list[Step] = []
    ahead: tuple[Input, ...] = ()
    for step in steps:
        if step.events > left:
            ahead = step.inputs[:left]
            break
        kept.append(step)
        left -= step.events
    tasks = tuple(step.shared for step in kept if step.inputs or step.commands)
    start = attrs.evolve(start, parent=None, schedule="", attempt=1, fork=Fork(first.id, at, tasks))
    summaries = [step.summary for step in kept if step.summary is not None]
    inputs = (*(given for step in kept for given in step.inputs), *ahead)
    commands = [command for step in kept for command in step.commands]
    ids = _ids_of_children(commands, inputs, first, forking)
    return start, Past(
        at=forking.at,
        run=first.run,
        inputs=tuple(_nobodys(given) for given in inputs),
        commands=tuple(_renamed(command, ids, refused) for command in commands),
        answers=tuple(answer for step in kept for answer in step.answers),
        patches=tuple(patch for step in kept for patch in step.patches),
        events=1 + len(start.carried) + sum(step.events - step.ends for step in kept),
        before=summaries[-1] if summaries else None,
        waits=not ahead,
    )


def with_past(record: Record, past: Past) -> Record:
    """The record 0 of a fork: that of an ordinary start, with what it shares."""
    start = record.start
    assert start is not None
    begun = any(given.kind is InputKind.begin for given in past.inputs)
    delayed = not begun and start.due_at is not None and start.due_at > past.at
    before = past.before
    summary = attrs.evolve(
        record.summary,
        started_at=past.at,
        due_at=start.due_at if delayed else None,
        events=past.events,
        labels=start.labels if before is None else before.labels,
        details=start.details if before is None else before.details,
        waits=before.waits if before is not None and past.waits else (),
        waiting=before.waiting if before is not None and past.waits else 0,
        size=record.summary.size if before is None else before.size,
        cancel_request=next((given.body.text or "" for given in past.inputs if given.kind is InputKind.cancel), None),
    )
    return evolve(
        record,
        run=past.run,
        at=past.at,
        state=WorkflowState.scheduled if delayed else WorkflowState.running,
        inputs=past.inputs,
        commands=past.commands,
        answers=past.answers,
        patches=past.patches,
        summary=summary,
    )


def failed_at(records: Sequence[Record]) -> int:
    """The number of the event from which a faulted run is to be tried again.

    That is what it failed by: the end of an activity or a child that did not complete, which is then asked for anew.
    Where the code had asked that one to cancel because another one had failed, it is the end of the other one. Where it
    failed by itself, its code is given the last input again.
    """
    steps = list(_steps(records))
    *befores, _ = accumulate((step.events for step in steps), initial=_head(records[0]))
    last = steps[-1]
    if not last.inputs:
        return befores[-1] + 1
    cause = _cause(list(zip(steps, befores, strict=True)), last.inputs[-1])
    return cause or befores[-1] + len(last.inputs) + (0 if _failed(last.inputs[-1]) else 1)


def _cause(steps: Sequence[tuple[Step, int]], end: Input) -> int:
    """The number of the failed end because of which the code has asked for this one; 0 where there is none.

    `steps` come with how many events stand before each.
    """
    cause = 0
    for step, before in reversed(steps):
        if any(each.kind is CommandKind.request and each.target == end.what for each in step.commands):
            failed = [number for number, each in enumerate(step.inputs) if _failed(each) and each is not end]
            if not failed:
                break
            cause, end = before + failed[-1] + 1, step.inputs[failed[-1]]
    return cause


def _failed(given: Input) -> bool:
    """Whether this is the end of something that did not complete."""
    return given.kind is InputKind.done and given.ending is not None and given.ending.kind is not EndKind.completed


def _begin(first: Record) -> Start:
    if first.start is None:
        raise InvalidValue(f"the history of {first.id} does not begin with the begin of a run")
    return first.start


def _head(first: Record) -> int:
    """How many events stand before the first task of the run."""
    if first.kind is RecordKind.start:
        return 1 + len(_begin(first).carried)
    return sum(step.events for step in steps_of(first))


def _steps(records: Sequence[Record]) -> Iterator[Step]:
    """The tasks of the run. A record that continues as new has the last one of the run before it."""
    first = records[0]
    for record in records if first.kind is RecordKind.start else records[1:]:
        yield from steps_of(record)


def _check(records: Sequence[Record], at: int, head: int, steps: Sequence[Step]) -> None:
    first, newest = records[0], records[-1]
    total = head + sum(step.events for step in steps)
    least = 2 if first.kind is RecordKind.start else head + 1
    most = total if newest.state.final else total + 1
    number: object = at
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise InvalidValue(
            f"at must be the number of an event from {least} to {most} of workflow {first.id}, whose newest run has "
            f"{total}, not {at!r}: the events before it are shared"
        )


def _nobodys(given: Input) -> Input:
    """The input as the fork has it: who asked for the end of the workflow before it has not asked for the fork's."""
    return given if given.asker is None else attrs.evolve(given, asker=None)


def _ids_of_children(
    commands: Sequence[Command], inputs: Iterable[Input], first: Record, forking: Forking
) -> dict[str, str]:
    """What the children are called in the fork whose id derives from their parent's life, by their ids before it.

    One that has ended stays who it was: there is no other in its place.
    """
    ended = {given.what for given in inputs if given.kind is InputKind.done}
    return {
        command.target: key_of(forking.id, forking.life, first.run, command.id)
        for command in commands
        if command.kind is CommandKind.child
        and command.id not in ended
        and command.target == key_of(first.id, first.life, first.run, command.id)
    }


def _renamed(command: Command, ids: Mapping[str, str], refused: Collection[str]) -> Command:
    """The command under the names of the new life; those that were refused are left as they are.

    A child whose id the code has chosen is there already: it is joined, not started twice. Whoever starts the fork sees
    whether it has failed.
    """
    if command.about == CommandKind.child:
        child, _, workflow = command.name.partition(" ")
        return attrs.evolve(command, name=f"{ids[child]} {workflow}") if child in ids else command
    if command.target in ids:
        return attrs.evolve(command, target=ids[command.target])
    if command.kind is not CommandKind.child or command.child is None or command.id in refused:
        return command
    return attrs.evolve(command, child=attrs.evolve(command.child, if_exists="join"))
