"""Where a workflow stands: its newest record, and what the records of its run add up to without running any code.

Pure. `stand()` folds records into a `Standing`; `judge()` says what an input of the inbox means to it (W3).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs

from turnout.core.frozen import frozen
from turnout.core.record import JobRecord
from turnout.core.spec import NO_BODY, Asker
from turnout.core.workflows.shared import as_task, steps_of
from turnout.core.workflows.values import (
    ABOUT_OTHERS,
    DELAY,
    TIMEOUT,
    Answer,
    AnswerState,
    Command,
    CommandKind,
    Input,
    InputKind,
    Record,
    RecordKind,
    Start,
    WorkflowState,
)
from turnout.errors import TurnoutError

V = TypeVar("V")

SEEN_S = 3600.0
"""How long the ids of signals and updates are remembered over continue-as-new (W9)."""

SEEN_MOST = 1_000


class BrokenHistory(TurnoutError):
    """Records that don't follow one another: somebody purged some while they were read, or they are damaged."""


@frozen
class Standing:
    """The sum of a history. `seq` is where its newest record lies: what the next append must find there (W1).

    `pending` are the commands of this run that wait for their end, `seen` the ids that inputs were counted by. `begun`:
    `begin` stands in a record of this run. `tried_by` are the nodes that were about to try what others had died over,
    since the last record of another kind. `ahead` are the inputs of a fork that come before its inbox's. Of local
    activities, `tried` are the attempts that are recorded, `requested` the commands that were asked to cancel and are
    waited for. `asked` are the updates of this run that have no final answer, by their ids and without their bodies.
    """

    newest: Record
    seq: int
    start: Start
    pending: Mapping[str, Command] = attrs.field(factory=dict)
    seen: Mapping[str, float] = attrs.field(factory=dict)
    answers: Mapping[str, Answer] = attrs.field(factory=dict)
    joined: tuple[Asker, ...] = ()
    patches: frozenset[str] = frozenset()
    begun: bool = False
    delayed: bool = False
    cancel_request: str | None = None
    state: WorkflowState = WorkflowState.running
    tried_by: tuple[str, ...] = ()
    ahead: tuple[Input, ...] = ()
    taken: int = 0
    events: int = 0
    size: int = 0
    tried: Mapping[str, JobRecord] = attrs.field(factory=dict)
    requested: frozenset[str] = frozenset()
    asked: Mapping[str, Input] = attrs.field(factory=dict)

    @property
    def upto(self) -> int:
        return self.newest.upto

    @property
    def life(self) -> str:
        return self.newest.life

    @property
    def run(self) -> int:
        return self.newest.run

    @property
    def stuck(self) -> bool:
        return self.newest.kind is RecordKind.stuck

    @property
    def locals(self) -> list[Command]:
        """The local activities that run, or are to."""
        return [command for command in self.pending.values() if command.kind is CommandKind.local]

    @property
    def waits_for_delay(self) -> bool:
        """No code runs yet: the delay of the start, or of a retry, is not over."""
        return self.start.due_at is not None and not self.begun


def stand(records: Iterable[tuple[Record, int]], before: Standing | None = None) -> Standing:
    """What these records, each with its sequence, add up to; `before` is the sum of those in front of them.

    BrokenHistory when they don't follow one another: read them again from the first.
    """
    standing = before
    for record, seq in records:
        standing = _first(record, seq) if standing is None else _next(standing, record, seq, before)
    if standing is None:
        raise BrokenHistory("a history without a record")
    return standing


def _first(record: Record, seq: int) -> Standing:
    if record.start is None:
        raise BrokenHistory(f"the history of {record.id} does not begin with the begin of a run")
    return _begun(record, seq, record.start)


def _begun(record: Record, seq: int, start: Start) -> Standing:
    """The standing at the begin of a run: nothing of the run before counts any more but what `start` carries."""
    standing = Standing(
        newest=record,
        seq=seq,
        start=start,
        seen={**start.seen, **{each.id: each.at for each in start.carried if each.id}},
        answers={answer.id: answer for answer in start.answers},
        joined=record.joined,
        state=record.state,
        events=1 + len(start.carried),
        asked={each.id: each for each in start.carried if each.id and each.kind is InputKind.update},
    )
    return _forked(standing) if forks(record) else standing


def forks(record: Record) -> bool:
    """Whether this is the record 0 of a fork."""
    return record.kind is RecordKind.start and record.start is not None and record.start.fork is not None


def _forked(standing: Standing) -> Standing:
    """The standing of a fork: it shares what another workflow had taken and asked for."""
    record = standing.newest
    shared = steps_of(record)
    for step in shared:
        standing = _taken(standing, as_task(record, step), standing.seq)
    known = sum(len(step.inputs) for step in shared)
    ahead = tuple(attrs.evolve(given, life=record.life) for given in record.inputs[known:])
    pending = {key: _kept_by(command, standing.start.wake) for key, command in standing.pending.items()}
    return attrs.evolve(standing, newest=record, ahead=ahead, pending=pending, asked={})  # whoever asked, asked another


def _kept_by(command: Command, wake: int) -> Command:
    """A local activity that a fork runs anew is kept by the fork's own wake-up (W15)."""
    return attrs.evolve(command, wake=wake) if command.kind is CommandKind.local else command


def asked_again(record: Record) -> tuple[Command, ...]:
    """What a fork asks for anew: what the shared part of the history had asked for, and has no end of (W16)."""
    standing = stand([(record, 0)])
    pending = dict(standing.pending)
    for given in standing.ahead:
        settle(pending, given)
    asked = pending.keys()
    return tuple(
        each
        for each in record.commands
        if each.id in asked or (each.kind is CommandKind.request and each.target in asked)
    )


def _next(standing: Standing, record: Record, seq: int, before: Standing | None) -> Standing:
    _follows(standing, record)
    if record.start is not None and record.kind is RecordKind.task:
        return _begun(record, seq, record.start)
    if record.kind in (RecordKind.stuck, RecordKind.trying):
        tried_by = (*standing.tried_by, record.node) if record.kind is RecordKind.trying else ()
        return attrs.evolve(standing, newest=record, seq=seq, state=record.state, tried_by=tried_by)
    return _taken(standing, record, seq, before)


def _own(found: Mapping[str, V], kept: Mapping[str, V] | None) -> dict[str, V]:
    """A mapping that may be changed: `found` itself, or its copy where that is `kept` by somebody."""
    return found if isinstance(found, dict) and found is not kept else dict(found)


def _taken(standing: Standing, record: Record, seq: int, before: Standing | None = None) -> Standing:
    """The standing behind a record that took inputs.

    Its mappings take the place of those of `standing`, which is nobody's but ours, and grow with each record: only what
    `before` has is left as it is. Copied for each record, a long history would take the square of its length.
    """
    pending = _own(standing.pending, None if before is None else before.pending)
    seen = _own(standing.seen, None if before is None else before.seen)
    answers = _own(standing.answers, None if before is None else before.answers)
    tried, requested = _own(standing.tried, None if before is None else before.tried), standing.requested
    asked = _own(standing.asked, None if before is None else before.asked)
    begun, cancel = standing.begun, standing.cancel_request
    for command in record.commands:
        await_end(pending, command)
        if command.kind is CommandKind.request:
            requested |= {command.target}
    for each in record.inputs:  # behind the commands: a local activity may have ended within the task that asked for it
        settle(pending, each)
        if each.kind is InputKind.tried and each.ending is not None and each.ending.job is not None:
            tried[each.what] = each.ending.job
        if each.id:
            seen[each.id] = each.at
            if each.kind is InputKind.update:
                asked[each.id] = attrs.evolve(each, body=NO_BODY)
        begun = begun or each.kind is InputKind.begin
        if each.kind is InputKind.cancel and cancel is None:
            cancel = each.body.text or ""
    for answer in record.answers:
        answers[answer.id] = answer
        if answer.state is not AnswerState.accepted:
            asked.pop(answer.id, None)
    return Standing(
        newest=record,
        seq=seq,
        start=standing.start,
        pending={} if record.state.final else pending,
        seen=seen,
        answers=answers,
        joined=_joined(standing.joined, record),
        patches=standing.patches.union(record.patches) if record.patches else standing.patches,
        begun=begun,
        delayed=standing.delayed or any(command.id == DELAY for command in record.commands),
        cancel_request=cancel,
        state=record.state,
        ahead=standing.ahead[len(record.inputs) :],
        taken=standing.taken + len(record.inputs),
        events=standing.events + len(record.inputs) + len(record.commands) + len(record.answers),
        tried=tried,
        requested=requested,
        asked=asked,
    )


def _follows(standing: Standing, record: Record) -> None:
    newest = standing.newest
    if record.life != newest.life or record.number != newest.number + 1:
        raise BrokenHistory(f"record {record.number} of {record.id} does not follow record {newest.number}")


def _joined(joined: tuple[Asker, ...], record: Record) -> tuple[Asker, ...]:
    askers = [each.asker for each in record.inputs if each.kind is InputKind.joining and each.asker is not None]
    return (*joined, *(asker for asker in askers if asker not in joined)) if askers else joined


def settle(pending: dict[str, Command], given: Input) -> None:
    """Take out of `pending` the command whose end this input is."""
    if given.kind in (InputKind.done, InputKind.timer):
        pending.pop(given.what, None)


def await_end(pending: dict[str, Command], command: Command) -> None:
    """Add to `pending` a command that waits; take out the one that nobody waits for any more."""
    if command.kind not in ABOUT_OTHERS:
        pending[command.id] = command
    elif command.kind is not CommandKind.request:
        pending.pop(command.target, None)


# --- what an input means ---------------------------------------------------------------------------------------------


class Verdict(enum.Enum):
    """What an input of the inbox means to a workflow (W3)."""

    take = "take"
    """It is the next one to be applied."""
    wake = "wake"
    """A `start` whose run has not begun: it wakes the first task, and stays until that stands in a record."""
    covered = "covered"
    """A record has it already."""
    void = "void"
    """It is not for this life, or comes too late: it is removed by whoever was handed it, and in no record."""
    answer = "answer"
    """A `join` of a workflow that has ended: whoever asks is told from the end record."""
    collect = "collect"
    """A `gc` of this life, which has ended: what is left of it is removed."""
    end = "end"
    """A `terminate`, or the timeout of the whole workflow: it ends at once, whatever lies before it."""


@frozen
class Progress:
    """What a task in progress has changed already: which commands wait, and which ids are counted."""

    pending: Mapping[str, Command]
    seen: Mapping[str, float]


def judge(standing: Standing, given: Input, name: str, progress: Progress | None = None) -> Verdict:
    """What this input of the inbox means; `name` is the one it was addressed under."""
    if given.kind is InputKind.gc:
        own = given.life == standing.life and standing.newest.state.final
        return Verdict.collect if own else Verdict.void
    if 0 < given.seq <= standing.upto and given.kind is not InputKind.start:
        return Verdict.covered
    if not _of_this_life(standing, given) or name != standing.newest.name:
        return Verdict.void
    if standing.newest.state.final:
        return Verdict.answer if given.kind is InputKind.joining else Verdict.void
    return _judge_open(standing, given, progress or Progress(standing.pending, standing.seen))


def _of_this_life(standing: Standing, given: Input) -> bool:
    if given.life:
        return given.life == standing.life
    return given.seq >= standing.start.wake


def _judge_open(standing: Standing, given: Input, progress: Progress) -> Verdict:
    match given.kind:
        case InputKind.start:
            if (standing.begun or standing.delayed) and not standing.ahead:
                return Verdict.covered if given.seq <= standing.upto else Verdict.void
            return Verdict.wake
        case InputKind.terminate:
            return Verdict.end
        case InputKind.timer if given.what == TIMEOUT and given.run == 0:
            return Verdict.end
        case InputKind.done | InputKind.timer | InputKind.started | InputKind.tried:
            waits = given.run == standing.run and given.what in progress.pending
            return Verdict.take if waits else Verdict.void
        case InputKind.signal | InputKind.update | InputKind.cancel:
            return Verdict.void if given.id and given.id in progress.seen else Verdict.take
        case _:
            return Verdict.take


def remembered(seen: Mapping[str, float], now: float) -> dict[str, float]:
    """The ids that go over to the next run: those of the last hour, at most a thousand, the newest (W9)."""
    recent = sorted(((at, key) for key, at in seen.items() if at >= now - SEEN_S), reverse=True)[:SEEN_MOST]
    return {key: at for at, key in reversed(recent)}
