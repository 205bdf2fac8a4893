"""A workflow task, without any I/O: what lies in the inbox is judged and applied, one input after the other.

This runs on the thread of the workflows' code, in one go: what it needs is at hand, and what it leaves is a `Draft`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from turnout.core.workflows.standing import Verdict
from turnout.core.workflows.task import Draft, Turn, put_begin
from turnout.core.workflows.values import BEGIN, DELAY, Input, InputKind
from turnout.worker.workflows.ends import CodeBroke


@attrs.define
class Done:
    """What a task has come to. `broken`: the code broke at an input, and the draft has those before it."""

    draft: Draft
    broken: Exception | None = None
    void: set[int] = attrs.field(factory=set)
    """The sequences of inputs that mean nothing to this life."""


def apply_inputs(draft: Draft, inputs: Sequence[tuple[Input, str]], now: float, apply: Callable[[Input], Turn]) -> Done:
    """Take what is to be taken, in order, until the run ends, the record is full or the code breaks.

    `inputs` are those of the inbox with the names that they were addressed under.
    """
    done = Done(draft)
    if draft.standing.waits_for_delay:
        draft.delay(now)
    _take(done, _with_begin(draft, inputs, now), apply)
    return done


def apply_more(done: Done, inputs: Iterable[Input], apply: Callable[[Input], Turn]) -> None:
    """Take inputs that have come while the task went on: ends of local activities (W15)."""
    _take(done, ((given, done.draft.standing.newest.name) for given in inputs), apply)


def _take(done: Done, inputs: Iterable[tuple[Input, str]], apply: Callable[[Input], Turn]) -> None:
    draft = done.draft
    for given, name in _in_time(draft, inputs):
        if draft.full:
            break
        if given.kind is not InputKind.begin:
            verdict = draft.judge(given, name)
            if verdict is not Verdict.take:
                if verdict is Verdict.void:
                    done.void.add(given.seq)
                draft.pass_over(given.seq)
                continue
        try:
            draft.take(given, apply(given))
        except CodeBroke as error:
            done.broken = error
            break


def _in_time(draft: Draft, inputs: Iterable[tuple[Input, str]]) -> Iterator[tuple[Input, str]]:
    """The inputs, each timer behind those that are due before it: their time has come as well (W6)."""
    for given, name in inputs:
        while given.kind is InputKind.timer and draft.judge(given, name) is Verdict.take:
            earlier = draft.due_before(given)
            if earlier is None:
                break
            yield earlier, draft.standing.newest.name
        yield given, name


def _with_begin(draft: Draft, inputs: Sequence[tuple[Input, str]], now: float) -> Iterator[tuple[Input, str]]:
    """The inputs with `begin` among them where the run has not begun: see `put_begin`; after a delay, at its timer.

    A fork may bring its `begin` along.
    """
    standing = draft.standing
    if standing.begun or any(given.kind is InputKind.begin for given in standing.ahead):
        yield from inputs
        return
    if not standing.waits_for_delay:
        names = {given.seq: name for given, name in inputs}
        counted = [given for given, name in inputs if draft.judge(given, name) is Verdict.take]
        others = [(given, name) for given, name in inputs if given.seq not in {each.seq for each in counted}]
        for given in put_begin(counted, now):
            yield given, names.get(given.seq, "")
        yield from others
        return
    for given, name in inputs:
        yield given, name
        if given.kind is InputKind.timer and given.what == DELAY and DELAY not in draft.pending and not draft.begun:
            yield Input(InputKind.begin, at=max(given.at, standing.start.due_at or 0.0), what=BEGIN), name
