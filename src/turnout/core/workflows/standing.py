"""Where a workflow stands: its newest record, and what the records of its run add up to without running any code.

Pure. `stand()` folds records into a `Standing`; `judge()` says what an input of the inbox means to it (W3).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs

from turnout.core.record import JobRecord
from turnout.core.spec import NO_BODY, Asker
from turnout.core.struct import struct
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
    key_of,
)
from turnout.errors import TurnoutError

V = TypeVar("V")

SEEN_S = 3600.0
"""How long the ids of signals and updates are remembered over continue-as-new (W9)."""

SEEN_MOST = 1_000


class BrokenHistory(TurnoutError):
    """Records that don't follow one another: somebody purged some while they were read, or they are damaged."""


@struct
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
    made = None if before is None else _Sum(before, kept=True)
    for record, seq in records:
        if made is None:
            made = _Sum(_first(record, seq))
        else:
            made.add(record, seq)
    if made is None:
        raise BrokenHistory("a history without a record")
    return made.standing()


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
    made = _Sum(standing)
    for step in shared:
        made.take(as_task(record, step))
    standing = made.standing()
    known = sum(len(step.inputs) for step in shared)
    ahead = tuple(attrs.evolve(given, life=record.life) for given in record.inputs[known:])
    pending = {key: _kept_by(command, standing.start.wake) for key, command in standing.pending.items()}
    return attrs.evolve(standing, newest=record, ahead=ahead, pending=pending, asked={})  # whoever asked, asked another


def _kept_by(command: Command, wake: int) -> Command:
    """A local activity that a fork runs anew is kept by the fork's own wake-up (W15)."""
    return attrs.evolve(command, wake=wake) if command.kind is CommandKind.local else command


def asked_again(record: Record) -> tuple[Command, ...]:
    """What a fork asks for anew: what the shared part of the history had asked for, and has no end of (W16).

    A child that is another one now has not heard what was sent to the one before: that is sent again.
    """
    pending = _pending_in(record)
    asked = pending.keys()
    others = {each.target for each in pending.values() if _is_another(record, each)}
    return tuple(
        each
        for each in record.commands
        if each.id in asked
        or (each.kind is CommandKind.request and each.target in asked)
        or (each.kind in _SENT and each.target in others)
    )


def sent_in_vain(record: Record) -> frozenset[str]:
    """Which commands of a fork tell something to a child whose end is shared, and have no end themselves.

    Whether the child had heard it is not known here, and nothing can be sent to it any more. The code had asked for
    that before it was given the child's end: it is no reason for the fork to fail.
    """
    pending = _pending_in(record)
    children = [each for each in record.commands if each.kind is CommandKind.child]
    over = {each.target for each in children if each.id not in pending}
    over -= {each.target for each in children if each.id in pending}
    return frozenset(each.id for each in pending.values() if each.kind in _SENT and each.target in over)


def _pending_in(record: Record) -> dict[str, Command]:
    """What a fork shares that has no end in its shared part, nor in the inputs of the task that was cut."""
    standing = stand([(record, 0)])
    pending = dict(standing.pending)
    for given in standing.ahead:
        settle(pending, given)
    return pending


_SENT = (CommandKind.signal, CommandKind.cancel)


def _is_another(record: Record, command: Command) -> bool:
    """Whether the child that a fork asks for is none that the workflow before it has had: its own, or a new one."""
    if command.kind is not CommandKind.child:
        return False
    own = command.target == key_of(record.id, record.life, record.run, command.id)
    return own or (command.child is not None and command.child.if_exists == "replace")


def _own(found: Mapping[str, V], *, kept: bool) -> dict[str, V]:
    """A mapping that may be changed: `found` itself, or its copy where somebody else has it."""
    return found if isinstance(found, dict) and not kept else dict(found)


class _Sum:
    """A standing in the making, which grows by one record after the other.

    What it begins with is nobody's but ours, unless it is `kept`. Made anew for each record, the standings of a long
    history would take longer than its code.
    """

    def __init__(self, begun: Standing, *, kept: bool = False) -> None:
        self._begin(begun, kept=kept)

    def _begin(self, begun: Standing, *, kept: bool = False) -> None:
        self._begun = begun
        self._newest, self._seq, self._state = begun.newest, begun.seq, begun.state
        self._pending = _own(begun.pending, kept=kept)
        self._seen = _own(begun.seen, kept=kept)
        self._answers = _own(begun.answers, kept=kept)
        self._tried = _own(begun.tried, kept=kept)
        self._asked = _own(begun.asked, kept=kept)
        self._requested, self._joined, self._patches = begun.requested, begun.joined, begun.patches
        self._has_begun, self._delayed, self._cancel = begun.begun, begun.delayed, begun.cancel_request
        self._tried_by, self._ahead = begun.tried_by, begun.ahead
        self._taken, self._events = begun.taken, begun.events

    def add(self, record: Record, seq: int) -> None:
        """The record that follows. BrokenHistory when it does not."""
        newest = self._newest
        if record.number != newest.number + 1 or record.life != newest.life:
            raise BrokenHistory(f"record {record.number} of {record.id} does not follow record {newest.number}")
        if record.start is not None and record.kind is RecordKind.task:
            self._begin(_begun(record, seq, record.start))
            return
        self._newest, self._seq = record, seq
        if record.kind in _NO_CODE:
            self._state = record.state
            self._tried_by = (*self._tried_by, record.node) if record.kind is RecordKind.trying else ()
        else:
            self.take(record)

    def take(self, record: Record) -> None:
        """What a record has taken, and asked for."""
        for command in record.commands:
            self._command(command)
        for each in record.inputs:  # behind the commands: a local activity may end within the task that asked for it
            self._input(each)
        for answer in record.answers:
            self._answers[answer.id] = answer
            if answer.state is not AnswerState.accepted:
                self._asked.pop(answer.id, None)
        if record.patches:
            self._patches = self._patches.union(record.patches)
        if record.state.final:
            self._pending = {}
        self._state, self._tried_by, self._ahead = record.state, (), self._ahead[len(record.inputs) :]
        self._taken += len(record.inputs)
        self._events += len(record.inputs) + len(record.commands) + len(record.answers)

    def _command(self, command: Command) -> None:
        await_end(self._pending, command)
        if command.kind is CommandKind.request:
            self._requested |= {command.target}
        elif command.id == DELAY:
            self._delayed = True

    def _input(self, given: Input) -> None:
        settle(self._pending, given)
        if given.id:
            self._seen[given.id] = given.at
            if given.kind is InputKind.update:
                self._asked[given.id] = attrs.evolve(given, body=NO_BODY)
        if given.kind in _MORE:
            self._more(given)

    def _more(self, given: Input) -> None:
        match given.kind:
            case InputKind.begin:
                self._has_begun = True
            case InputKind.tried if given.ending is not None and given.ending.job is not None:
                self._tried[given.what] = given.ending.job
            case InputKind.joining if given.asker is not None and given.asker not in self._joined:
                self._joined = (*self._joined, given.asker)
            case InputKind.cancel if self._cancel is None:
                self._cancel = given.body.text or ""

    def standing(self) -> Standing:
        """What it has come to."""
        return Standing(
            newest=self._newest,
            seq=self._seq,
            start=self._begun.start,
            pending=self._pending,
            seen=self._seen,
            answers=self._answers,
            joined=self._joined,
            patches=self._patches,
            begun=self._has_begun,
            delayed=self._delayed,
            cancel_request=self._cancel,
            state=self._state,
            tried_by=self._tried_by,
            ahead=self._ahead,
            taken=self._taken,
            events=self._events,
            tried=self._tried,
            requested=self._requested,
            asked=self._asked,
        )


def settle(pending: dict[str, Command], given: Input) -> None:
    """Take out of `pending` the command whose end this input is."""
    if given.kind in _ENDS:
        pending.pop(given.what, None)


# Sets that are made once: in Python 3.11 to name a member of an enumeration takes as long as a call.
_ENDS = frozenset({InputKind.done, InputKind.timer})
_MORE = frozenset({InputKind.begin, InputKind.tried, InputKind.joining, InputKind.cancel})
_NO_CODE = frozenset({RecordKind.stuck, RecordKind.trying})


def await_end(pending: dict[str, Command], command: Command) -> None:
    """Add to `pending` a command that waits; take out the one that nobody waits for any more."""
    if command.kind not in ABOUT_OTHERS:
        pending[command.id] = command
    elif command.kind is not CommandKind.request:
        pending.pop(command.target, None)


def kept_anew(standing: Standing, inputs: Iterable[Input]) -> Standing:
    """The standing, where these are at hand: a `start` for a local activity keeps it in place of what is lost."""
    kept = {
        given.what: given.seq
        for given in inputs
        if given.kind is InputKind.start and (given.life, given.run) == (standing.life, standing.run)
    }
    if kept.keys().isdisjoint(command.id for command in standing.locals):
        return standing
    pending = {
        key: attrs.evolve(command, wake=kept[key]) if command.kind is CommandKind.local and key in kept else command
        for key, command in standing.pending.items()
    }
    return attrs.evolve(standing, pending=pending)


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


@struct
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
