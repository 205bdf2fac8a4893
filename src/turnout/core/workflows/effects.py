"""What a record wants done outside of its history: values that one interpreter performs in order (W2).

Pure, and a function of the record alone: whoever finds a record as the newest can make sure of its effects, also where
its writer has died right behind the append. Every effect is idempotent by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TypeAlias

from turnout.core.spec import Asker
from turnout.core.struct import struct
from turnout.core.workflows.standing import asked_again, forks, sent_in_vain
from turnout.core.workflows.values import (
    TIMEOUT,
    Command,
    CommandKind,
    Ending,
    EndKind,
    Input,
    InputKind,
    Record,
    RecordKind,
    WorkflowState,
    key_of,
)


@struct
class Dispatch:
    """Submit the activity as a job of this id; what is there under it is joined."""

    command: Command
    key: str


@struct
class SetTimer:
    """Have the server put a `timer` into the inbox at `at`. `run` 0: it belongs to the life."""

    command: str
    run: int
    at: float


@struct
class ClearTimer:
    """Take back one timer."""

    command: str
    run: int


@struct
class ClearTimers:
    """Take back every timer of the run."""

    run: int


@struct
class CancelJob:
    """Ask the job of this id to cancel. One that is not there yet gets its final record, which a late one joins."""

    key: str
    activity: str
    command: str
    reason: str


@struct
class StartChild:
    """Start the child, whose life is named by `key`; its outcome is appended to the own inbox as `started`."""

    command: Command
    key: str


@struct
class EndChild:
    """Cancel or terminate the child. One that is not there yet gets its final record, which a late start meets."""

    id: str
    life: str
    name: str
    how: str
    reason: str


@struct
class SendSignal:
    """Put the signal into another workflow's inbox; whether it was taken is appended to the own one as `done`."""

    command: Command
    key: str


@struct
class SendCancel:
    """Ask another workflow to cancel; whether that was taken is appended to the own inbox as `done`."""

    command: Command
    key: str


@struct
class SendJoin:
    """Ask another workflow to tell of its end."""

    command: Command


@struct
class Tell:
    """Append how this workflow has ended to the inbox of whoever asked: its parent, and those who joined (W4)."""

    asker: Asker
    ending: Ending


@struct
class Wake:
    """Put a `start` into the own inbox: the next run has no input yet (W9), or a local activity has lost its own."""

    command: str = ""


@struct
class PurgeRecords:
    """Remove the records before this one: they are of earlier runs."""


@struct
class ScheduleCollection:
    """Have the server put a `gc` into the inbox at `at` (W10)."""

    at: float


Effect: TypeAlias = (
    Dispatch
    | SetTimer
    | ClearTimer
    | ClearTimers
    | CancelJob
    | StartChild
    | EndChild
    | SendSignal
    | SendCancel
    | SendJoin
    | Tell
    | Wake
    | PurgeRecords
    | ScheduleCollection
)


def effects_of(record: Record, ended: Collection[str] = ()) -> tuple[Effect, ...]:
    """What the record wants done, in order. `ended` are the commands whose end is in the inbox already."""
    return tuple(_effects(record, ended))


def ended_in(record: Record, inputs: Iterable[Input]) -> set[str]:
    """The commands of this record whose end is among these inputs of its inbox.

    Its own: what lies there of another run, or of another life, may have ended a command of the same id.
    """
    return {
        given.what
        for given in inputs
        if given.kind in (InputKind.done, InputKind.timer) and (given.life, given.run) == (record.life, record.done_run)
    }


def _effects(record: Record, ended: Collection[str]) -> Iterator[Effect]:
    begun = record.start if record.kind is RecordKind.start else None
    vain = sent_in_vain(record) if forks(record) else ()
    for command in asked_again(record) if forks(record) else record.commands:
        if command.id in ended:
            continue
        if command.id in vain:
            yield Tell(record.asker(command.id), Ending(EndKind.completed))
        else:
            yield from asked(record, command)
    yield from _withdrawn(record)
    if begun is not None and begun.timeout is not None:
        yield SetTimer(TIMEOUT, 0, record.begun_at + begun.timeout)
    if record.start is not None and record.kind is RecordKind.task:
        yield Wake()
        yield PurgeRecords()
    if record.state.final and record.kind is not RecordKind.deleted:
        for asker in record.joined:
            yield Tell(asker, ending_of(record))
        if record.gc_at is not None:
            yield ScheduleCollection(record.gc_at)


def asked(record: Record, command: Command) -> Iterator[Effect]:
    """What a command wants done that a record of this run, the newest or one before it, has asked for."""
    if command.kind is CommandKind.local:
        return  # its worker runs it by itself (W15)
    run = record.done_run
    key = key_of(record.id, record.life, run, command.id)
    match command.kind:
        case CommandKind.activity:
            yield Dispatch(command, key)
        case CommandKind.timer if command.at is not None:
            yield SetTimer(command.id, run, command.at)
        case CommandKind.child:
            yield StartChild(command, key)
        case CommandKind.signal:
            yield SendSignal(command, key)
        case CommandKind.cancel:
            yield SendCancel(command, key)
        case CommandKind.joining:
            yield SendJoin(command)
        case CommandKind.withdraw | CommandKind.request:
            yield from _take_back(record, command.about, command.target, command.name, "cancel")
        case _:
            return


def _take_back(record: Record, about: str, command_id: str, name: str, close: str) -> Iterator[Effect]:
    run = record.done_run
    key = key_of(record.id, record.life, run, command_id)
    if about == CommandKind.activity:
        yield CancelJob(key, name, command_id, _reason(record))
    elif about == CommandKind.timer:
        yield ClearTimer(command_id, run)
    elif about == CommandKind.child and close != "abandon":
        child, _, workflow = name.partition(" ")
        yield EndChild(child, key, workflow, close, _reason(record))


def _withdrawn(record: Record) -> Iterator[Effect]:
    """What an end takes back. The timers of a run go together, that of the life by itself."""
    timers = False
    for command in record.withdrawn:
        if command.kind is CommandKind.timer:
            if command.id == TIMEOUT:
                yield ClearTimer(TIMEOUT, 0)
            else:
                timers = True
        elif command.kind is CommandKind.child:
            close = command.child.parent_close if command.child is not None else "cancel"
            yield from _take_back(record, command.kind, command.id, child_name(command), close)
        else:
            yield from _take_back(record, command.kind, command.id, command.name, "cancel")
    if timers:
        yield ClearTimers(record.done_run)


def child_name(command: Command) -> str:
    """What a command about a child calls it: the child's id, and its workflow's name."""
    return f"{command.target} {command.name}"


def _reason(record: Record) -> str:
    if record.state.final or record.start is not None:
        return f"workflow {record.id} has ended"
    return f"workflow {record.id} does not wait for it any more"


_ENDS = {
    WorkflowState.completed: EndKind.completed,
    WorkflowState.faulted: EndKind.faulted,
    WorkflowState.cancelled: EndKind.cancelled,
    WorkflowState.terminated: EndKind.terminated,
}


def ending_of(record: Record) -> Ending:
    """How the workflow of this final record has ended, as whoever asked is told."""
    error = record.failure.error if record.failure is not None else None
    return Ending(_ENDS[record.state], result=record.result, error=error, reason=record.reason)
