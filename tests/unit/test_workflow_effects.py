"""What each command of a workflow wants done outside of its history, and what an end takes back (W2)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from turnout.core.spec import Body
from turnout.core.workflows.effects import (
    CancelJob,
    ClearTimer,
    Dispatch,
    Effect,
    EndChild,
    SendCancel,
    SendJoin,
    SendSignal,
    SetTimer,
    StartChild,
    Tell,
    asked,
    child_name,
    effects_of,
    ending_of,
)
from turnout.core.workflows.values import (
    ChildOptions,
    Command,
    CommandKind,
    EndKind,
    Record,
    RecordKind,
    Start,
    WorkflowState,
    key_of,
    token_of,
)

RECORD = Record("o", "order", RecordKind.task, 1, "L", 1, "n", WorkflowState.running, 5.0)
KEY = key_of("o", "L", 1, "0-0")


def command(kind: CommandKind, **changes: Any) -> Command:
    return attrs.evolve(Command("0-0", kind, "add"), **changes)


def about(kind: CommandKind, target: CommandKind, name: str = "add") -> Command:
    return Command("0-9", kind, name, target="0-0", about=target)


CHILD = command(CommandKind.child, target="c-1", name="sub", child=ChildOptions())
TIMER = command(CommandKind.timer, at=9.0)
NOT_WAITED_FOR = "workflow o does not wait for it any more"


@pytest.mark.parametrize(
    ("given", "effects"),
    [
        (command(CommandKind.activity), [Dispatch(command(CommandKind.activity), KEY)]),
        (TIMER, [SetTimer("0-0", 1, 9.0)]),
        (CHILD, [StartChild(CHILD, KEY)]),
        (command(CommandKind.signal), [SendSignal(command(CommandKind.signal), KEY)]),
        (command(CommandKind.cancel), [SendCancel(command(CommandKind.cancel), KEY)]),
        (command(CommandKind.joining), [SendJoin(command(CommandKind.joining))]),
        (command(CommandKind.local), []),
        (about(CommandKind.withdraw, CommandKind.activity), [CancelJob(KEY, "add", "0-0", NOT_WAITED_FOR)]),
        (about(CommandKind.request, CommandKind.activity), [CancelJob(KEY, "add", "0-0", NOT_WAITED_FOR)]),
        (about(CommandKind.withdraw, CommandKind.timer), [ClearTimer("0-0", 1)]),
        (
            about(CommandKind.withdraw, CommandKind.child, child_name(CHILD)),
            [EndChild("c-1", KEY, "sub", "cancel", NOT_WAITED_FOR)],
        ),
        (about(CommandKind.abandon, CommandKind.child), []),
        (about(CommandKind.withdraw, CommandKind.signal), []),
    ],
    ids=lambda each: f"{each.kind}-{each.about}" if isinstance(each, Command) else "",
)
def test_each_command_wants_one_thing_done(given: Command, effects: list[Effect]) -> None:
    """Named by the life, the run and the command, so that whoever does it again does the same."""
    assert list(asked(RECORD, given)) == effects


@pytest.mark.parametrize(("close", "how"), [("cancel", "cancel"), ("terminate", "terminate"), ("abandon", None)])
def test_children_end_with_their_parent_as_they_were_started(close: str, how: str | None) -> None:
    """One that is to go on goes on."""
    child = attrs.evolve(CHILD, child=ChildOptions(parent_close=close))
    ended = attrs.evolve(RECORD, state=WorkflowState.completed, withdrawn=(child,), result=Body("1"))
    expected = [] if how is None else [EndChild("c-1", KEY, "sub", how, "workflow o has ended")]
    assert [effect for effect in effects_of(ended) if not isinstance(effect, Tell)] == expected


def test_a_long_id_of_a_command_is_a_short_token() -> None:
    """Deeply nested tasks have long paths, and a subject has no room for them; two paths are two tokens."""
    long, other = ".".join(["1"] * 80), ".".join(["1"] * 79 + ["2"])
    assert len(token_of(long)) == 32
    assert token_of(long) != token_of(other)
    assert token_of("0.2-7") == "0_2-7"


@pytest.mark.parametrize("state", [each for each in WorkflowState if each.final])
def test_an_end_is_told_as_what_it_is(state: WorkflowState) -> None:
    """Whoever waits sees which of the four it was."""
    assert ending_of(attrs.evolve(RECORD, state=state, reason="r")).kind is EndKind(state.value)


def test_a_run_ends_with_its_life_or_with_the_next_run() -> None:
    """The mark of a deleted workflow ends nothing: its last record did."""
    final = attrs.evolve(RECORD, state=WorkflowState.completed)
    assert final.ends_run
    assert not RECORD.ends_run
    assert not attrs.evolve(final, kind=RecordKind.deleted).ends_run
    assert not RECORD.begins_run
    next_run = attrs.evolve(RECORD, start=Start(), run=2)
    assert (next_run.begins_run, next_run.ends_run, next_run.done_run) == (True, True, 1)
