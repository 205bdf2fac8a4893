"""What a history has step by step: each task with what it took and gave, also those that a fork shares.

Pure. A fork's record 0 has in one piece what was the work of many tasks; here it is taken apart again.
"""

from __future__ import annotations

from turnout.core.evolve import evolve
from turnout.core.struct import struct
from turnout.core.workflows.values import (
    Answer,
    Command,
    Input,
    Record,
    RecordKind,
    Shared,
    Summary,
    WorkflowState,
)


@struct
class Step:
    """One task: what it took, and what the code made of that. `ends`: it has one event more, of its end."""

    life: str
    at: float
    node: str
    inputs: tuple[Input, ...] = ()
    commands: tuple[Command, ...] = ()
    answers: tuple[Answer, ...] = ()
    patches: tuple[str, ...] = ()
    ends: bool = False
    summary: Summary | None = None

    @property
    def events(self) -> int:
        """How many events of a history it is."""
        return len(self.inputs) + len(self.commands) + len(self.answers) + self.ends

    @property
    def shared(self) -> Shared:
        return Shared(
            self.life,
            self.at,
            self.node,
            len(self.inputs),
            len(self.commands),
            len(self.answers),
            len(self.patches),
        )


def steps_of(record: Record) -> tuple[Step, ...]:
    """The tasks that stand in a record: one, or those that a fork shares, or none in that of another start."""
    if record.kind is RecordKind.start:
        return _shared_steps(record)
    ends = record.kind is not RecordKind.task or record.state.final or record.start is not None
    return (
        Step(
            life=record.life,
            at=record.at,
            node=record.node,
            inputs=record.inputs,
            commands=record.commands,
            answers=record.answers,
            patches=record.patches,
            ends=ends,
            summary=record.summary,
        ),
    )


def _shared_steps(record: Record) -> tuple[Step, ...]:
    fork = record.start.fork if record.start is not None else None
    steps: list[Step] = []
    inputs = commands = answers = patches = 0
    for each in fork.tasks if fork is not None else ():
        steps.append(
            Step(
                life=each.life,
                at=each.at,
                node=each.node,
                inputs=record.inputs[inputs : inputs + each.inputs],
                commands=record.commands[commands : commands + each.commands],
                answers=record.answers[answers : answers + each.answers],
                patches=record.patches[patches : patches + each.patches],
                summary=record.summary,
            )
        )
        inputs, commands = inputs + each.inputs, commands + each.commands
        answers, patches = answers + each.answers, patches + each.patches
    return tuple(steps)


def as_task(record: Record, step: Step) -> Record:
    """The record of a task that had only this step of `record`."""
    return evolve(
        record,
        kind=RecordKind.task,
        start=None,
        state=WorkflowState.running,
        inputs=step.inputs,
        commands=step.commands,
        answers=step.answers,
        patches=step.patches,
    )
