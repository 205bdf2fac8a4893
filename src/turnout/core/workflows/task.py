"""From a workflow task to the record that it appends: the inputs that it took, and what the code made of them.

Pure. Whoever does a task asks a `Draft` what each input of the inbox means, has the code apply the one that is to be
taken, and tells the draft of that `Turn`. The record is what is left then, or None where nothing was taken. It is
decided here and nowhere else how a run ends, whether it is tried again, what an end takes back, and what goes over to
the next run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias, assert_never

import attrs

from turnout.core.evolve import evolve as _evolve
from turnout.core.failure import ErrorInfo
from turnout.core.spec import Asker, Body
from turnout.core.struct import struct
from turnout.core.workflows.due import Timers
from turnout.core.workflows.fork import Past, with_past
from turnout.core.workflows.jobs import traceparent_of
from turnout.core.workflows.standing import Progress, Standing, Verdict, await_end, judge, remembered, settle
from turnout.core.workflows.values import (
    BEGIN,
    DELAY,
    TIMEOUT,
    WAITS_SHOWN,
    Answer,
    AnswerState,
    Command,
    CommandKind,
    Failure,
    Input,
    InputKind,
    Record,
    RecordKind,
    Start,
    Summary,
    Wait,
    WorkflowState,
)

FATAL = "turnout.errors.Fatal"

RETENTION_S = 7 * 86_400.0
FAULTED_RETENTION_S = 30 * 86_400.0

EVENTS_MOST = 50_000
SIZE_MOST = 50 * 1024 * 1024
"""Beyond one of these a run is ended: `history_too_long`."""

INPUTS_PER_TASK = 1_000
"""How many inputs one record takes at most (W17)."""

TASK_BYTES = 512 * 1024
"""How many bytes of bodies a record takes: what does not fit begins the next task."""


# --- what the code did -----------------------------------------------------------------------------------------------


@struct
class Returned:
    """`run` has returned this."""

    result: Body


@struct
class Raised:
    """`run` has raised what faults the workflow."""

    failure: Failure


@struct
class Stopped:
    """`run` has ended by the cancellation that somebody had asked for."""


@struct
class Continued:
    """`run` continues as a new run with this payload."""

    payload: Body


RunEnd: TypeAlias = Returned | Raised | Stopped | Continued


@struct
class Turn:
    """What the code did with one input. `labels` and `details` are None where it has not set them."""

    commands: tuple[Command, ...] = ()
    answers: tuple[Answer, ...] = ()
    patches: tuple[str, ...] = ()
    labels: dict[str, str] | None = None
    details: str | None = None
    end: RunEnd | None = None
    unreceived: tuple[Input, ...] = ()


NOTHING = Turn()


@struct
class Author:
    """Who appends a record. The nonce tells this append from every other (W1). `pins`: the run stays with its build."""

    node: str
    build: str
    nonce: str
    pins: bool = False


@struct(kw_only=True)
class Now:
    """What a record needs from the outside: the instant, what the code waits for, and where the jitter falls."""

    at: float
    waits: tuple[Wait, ...] = ()
    u: float = 0.5
    left: int = 0


def put_begin(inputs: Sequence[Input], now: float) -> tuple[Input, ...]:
    """The inputs of a first task with `begin` among them: behind all that lies there, but before the first cancel.

    So a first signal finds its handler before `run` can end, and a cancel finds that `run` has begun.
    """
    cancels = (n for n, each in enumerate(inputs) if each.kind is InputKind.cancel)
    place = next(cancels, len(inputs))
    before = inputs[place - 1].at if place else 0.0
    return (*inputs[:place], Input(InputKind.begin, at=max(now, before), what=BEGIN), *inputs[place:])


class Draft:
    """A workflow task while it is done. It begins where the workflow stands and is told what becomes of each input."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.pending = dict(standing.pending)
        self.seen = dict(standing.seen)
        self.inputs: list[Input] = []
        self.commands: list[Command] = []
        self.answers: list[Answer] = []
        self.patches: list[str] = []
        self.labels = standing.newest.summary.labels
        self.details = standing.newest.summary.details
        self.upto = standing.upto
        self.begun = standing.begun
        self.cancel_request = standing.cancel_request
        self.end: RunEnd | None = None
        self.unreceived: tuple[Input, ...] = ()
        self.wake = 0
        """The input that is kept for the local activities that are asked for here (W15)."""
        self.asks_for_locals_alone = True
        """Whether nothing that is asked for or answered here has to wait for the record, but local activities."""
        self._progress = Progress(self.pending, self.seen)
        self._timers = Timers(self.pending)
        self._bytes = 0

    @property
    def empty(self) -> bool:
        return not self.inputs and not self.commands

    @property
    def full(self) -> bool:
        """Whether the next input begins another task."""
        return self.end is not None or len(self.inputs) >= INPUTS_PER_TASK or self._bytes >= TASK_BYTES

    def judge(self, given: Input, name: str) -> Verdict:
        """What this input means, now that those before it are taken."""
        return judge(self.standing, given, name, self._progress)

    def due_before(self, given: Input) -> Input | None:
        """What stands for the timer that is due first, where this is a later one; what a fork brings has its order."""
        first = None if self.standing.ahead else self._timers.first()
        if first in (None, given.what) or self.pending[first].at == self.pending[given.what].at:
            return None
        return attrs.evolve(given, what=first, seq=0, life=self.standing.life)

    def pass_over(self, seq: int) -> None:
        """The input at `seq` was looked at, and is in no record."""
        self.upto = max(self.upto, seq)

    def take(self, given: Input, turn: Turn) -> None:
        """The input was applied, and this is what the code did."""
        self.inputs.append(given)
        if given.seq >= self.standing.start.wake:  # what a fork brings lay in the inbox of another one
            self.upto = max(self.upto, given.seq)
        settle(self.pending, given)
        if given.id:
            self.seen[given.id] = given.at
        if given.kind is InputKind.begin:
            self.begun = True
        if given.kind is InputKind.cancel and self.cancel_request is None:
            self.cancel_request = given.body.text or ""
        self._bytes += _size(given)
        for command in turn.commands:
            await_end(self.pending, command)
            self._bytes += _text_size(command.body)
            self.asks_for_locals_alone &= command.kind is CommandKind.local
        for answer in turn.answers:
            self._bytes += _text_size(answer.result)
            self.asks_for_locals_alone = False
        self.commands += turn.commands
        self._timers.add(turn.commands)
        self.answers += turn.answers
        self.patches += turn.patches
        self.labels = self.labels if turn.labels is None else turn.labels
        self.details = self.details if turn.details is None else turn.details
        self.end = turn.end
        self.unreceived = turn.unreceived

    @property
    def locals(self) -> list[Command]:
        """The local activities that are asked for here and have not ended."""
        return [each for each in self.commands if each.kind is CommandKind.local and each.id in self.pending]

    def delay(self, now: float) -> None:
        """The first task of a delayed start, or of a retry, gives its timer and nothing else (W5, W9)."""
        at = self.standing.start.due_at
        if at is not None and not self.standing.delayed:
            self.commands.append(Command(DELAY, CommandKind.timer, at=at, since=now))
            self.pending[DELAY] = self.commands[-1]
            self.asks_for_locals_alone = False

    # --- the record -----------------------------------------------------------------------------------------------

    def record(self, author: Author, now: Now) -> Record | None:
        """The record of this task; None when there is nothing to record."""
        if self.empty:
            return None
        record = self._open(author, now)
        if self.end is None:
            return self._too_long(record, now) if self._over else record
        match self.end:
            case Returned(result):
                return self._ended(record, now, WorkflowState.completed, result=result)
            case Stopped():
                return self._ended(record, now, WorkflowState.cancelled, reason=self.cancel_request or "")
            case Continued(payload):
                return self._next_run(record, now, payload, None)
            case Raised(failure):
                return self._raised(record, now, failure)
            case _:
                assert_never(self.end)

    @property
    def _over(self) -> bool:
        events = self.standing.events + len(self.inputs) + len(self.commands)
        return events > EVENTS_MOST or self.standing.newest.summary.size > SIZE_MOST

    def _too_long(self, record: Record, now: Now) -> Record:
        error = ErrorInfo("HistoryTooLong", f"more than {EVENTS_MOST:,} events or {SIZE_MOST:,} bytes in one run")
        failure = Failure(error, (FATAL,), "history_too_long")
        return self._ended(record, now, WorkflowState.faulted, failure=failure, reason="history_too_long")

    def _open(self, author: Author, now: Now) -> Record:
        standing = self.standing
        before = standing.newest
        waiting = [*now.waits]
        scheduled = before.state is WorkflowState.scheduled and not self.begun
        return Record(
            id=before.id,
            name=before.name,
            kind=RecordKind.task,
            number=before.number + 1,
            life=before.life,
            run=before.run,
            nonce=author.nonce,
            node=author.node,
            build=author.build,
            state=WorkflowState.scheduled if scheduled else WorkflowState.running,
            at=max(now.at, before.at),
            upto=self.upto,
            behind=before.upto,
            inputs=tuple(self.inputs),
            commands=tuple(self._kept(command) for command in self.commands),
            answers=tuple(self.answers),
            patches=tuple(self.patches),
            summary=_evolve(
                before.summary,
                labels=self.labels,
                details=self.details,
                waits=tuple(waiting[:WAITS_SHOWN]),
                waiting=len(waiting),
                size=before.summary.size + self._bytes,
                events=standing.events + len(self.inputs) + len(self.commands) + len(self.answers),
                cancel_request=self.cancel_request,
                due_at=before.summary.due_at if scheduled else None,
                run_at=_run_at(before),
                pin=before.summary.pin or (author.build if author.pins and self.begun else ""),
            ),
        )

    def _kept(self, command: Command) -> Command:
        waits = command.kind is CommandKind.local and command.id in self.pending
        return attrs.evolve(command, wake=self.wake) if waits else command

    def _raised(self, record: Record, now: Now, failure: Failure) -> Record:
        """Tried again as a new run, or the end: decided here and nowhere else."""
        start = self.standing.start
        delay = None
        if start.retry is not None and FATAL not in failure.mro and self.cancel_request is None:
            delay = start.retry.next_delay(failures=start.attempt, error_mro=failure.mro, u=now.u)
        if delay is None:
            return self._ended(record, now, WorkflowState.faulted, failure=failure, reason=failure.reason)
        return self._next_run(record, now, start.payload, (failure, record.at + delay))

    def _ended(
        self,
        record: Record,
        now: Now,
        state: WorkflowState,
        *,
        result: Body | None = None,
        failure: Failure | None = None,
        reason: str | None = None,
    ) -> Record:
        ended = final_record(record, self.standing, self.pending.values(), state)
        return _evolve(
            ended,
            result=result,
            failure=failure,
            reason=reason,
            left=now.left,
            unreceived=len(self.unreceived),
            answers=(*record.answers, *self._unanswered("workflow")),
        )

    def _unanswered(self, what: str) -> Iterable[Answer]:
        """The updates that were accepted and not finished: their callers must not wait for ever (W13)."""
        now = {answer.id: answer for answer in self.answers}
        error = ErrorInfo("UpdateFailed", f"the {what} has ended before the update was finished")
        for answer in {**self.standing.answers, **now}.values():
            if answer.state is AnswerState.accepted:
                yield Answer(answer.id, AnswerState.failed, error=error)

    def _next_run(self, record: Record, now: Now, payload: Body, again: tuple[Failure, float] | None) -> Record:
        before = self.standing.start
        seen = remembered(self.seen, record.at)
        unanswered = tuple(self._unanswered("run of the workflow"))
        answers = {**self.standing.answers, **{answer.id: answer for answer in (*self.answers, *unanswered)}}
        start = attrs.evolve(
            before,
            payload=payload,
            labels=self.labels,
            carried=self.unreceived,
            seen=seen,
            answers=tuple(answer for key, answer in answers.items() if key in seen),
            due_at=again[1] if again is not None else None,
            failure=again[0] if again is not None else None,
            attempt=before.attempt + 1 if again is not None else 1,
            details=self.details,
            fork=None,
        )
        return _evolve(
            record,
            run=record.run + 1,
            start=start,
            answers=(*record.answers, *unanswered),
            withdrawn=tuple(self.pending.values()),
            joined=_askers(self.standing, record),
            summary=_evolve(record.summary, waits=(), waiting=0, events=1, size=_start_size(start), pin=""),
        )


def final_record(record: Record, standing: Standing, pending: Iterable[Command], state: WorkflowState) -> Record:
    """`record` as the end of its life: it takes back what is waited for, and says whom to tell and when it goes."""
    start = standing.start
    by_state = FAULTED_RETENTION_S if state is WorkflowState.faulted else RETENTION_S
    parent = () if start.parent is None else (start.parent,)
    lifelong = () if start.timeout is None else (Command(TIMEOUT, CommandKind.timer),)
    return _evolve(
        record,
        state=state,
        withdrawn=(*pending, *lifelong),
        joined=(*parent, *_askers(standing, record)),
        gc_at=record.at + (by_state if start.retention is None else start.retention),
        summary=_evolve(record.summary, waits=(), waiting=0, finished_at=record.at, due_at=None),
    )


def _askers(standing: Standing, record: Record) -> tuple[Asker, ...]:
    new = [each.asker for each in record.inputs if each.kind is InputKind.joining and each.asker is not None]
    return (*standing.joined, *(asker for asker in new if asker not in standing.joined))


def _size(given: Input) -> int:
    return _text_size(given.body) + (_text_size(given.ending.result) if given.ending is not None else 0)


def _start_size(start: Start) -> int:
    return _text_size(start.payload) + sum(_size(given) for given in start.carried)


def _text_size(body: Body | None) -> int:
    """How much of a record the body takes: one that is in the object store takes nothing."""
    return len(body.text) if body is not None and body.text is not None and body.ref is None else 0


# --- records that take no input --------------------------------------------------------------------------------------


@struct(kw_only=True)
class Starting:
    """What a start asks for: the workflow's name and id, its life, its nonce, and what begins the first run.

    `past` is what a fork shares with the workflow before it.
    """

    id: str
    name: str
    life: str
    nonce: str
    start: Start
    past: Past | None = None


def first_record(starting: Starting) -> Record:
    """Record 0 (W5)."""
    start = starting.start
    delayed = start.due_at is not None and start.due_at > start.at
    record = Record(
        id=starting.id,
        name=starting.name,
        kind=RecordKind.start,
        number=0,
        life=starting.life,
        run=1,
        nonce=starting.nonce,
        state=WorkflowState.scheduled if delayed else WorkflowState.running,
        at=start.at,
        start=start if delayed else attrs.evolve(start, due_at=None),
        summary=Summary(
            started_at=start.at,
            labels=start.labels,
            events=1,
            size=_start_size(start),
            parent=start.parent.id if start.parent is not None else "",
            trace_id=start.trace_id,
            due_at=start.due_at if delayed else None,
            traceparent=traceparent_of(start),
            schedule=start.schedule,
        ),
    )
    return record if starting.past is None else with_past(record, starting.past)


def stuck_record(standing: Standing, author: Author, at: float, failure: Failure) -> Record | None:
    """The record that says why the code can't go on; None behind one that says so already (W7)."""
    if standing.stuck:
        return None
    return _evolve(
        bare_record(standing, author, at),
        kind=RecordKind.stuck,
        state=WorkflowState.stuck,
        failure=failure,
        reason=failure.reason,
    )


def terminated_record(standing: Standing, author: Author, at: float, carries_out: Input) -> Record:
    """The end by somebody who needs no code: a `terminate`, or the timeout of the whole workflow (W7, W8)."""
    record = bare_record(standing, author, at)
    if carries_out.kind is InputKind.timer:
        error = ErrorInfo(
            "TimeoutError", f"the workflow has not ended within its timeout of {standing.start.timeout} s"
        )
        ended = final_record(record, standing, standing.pending.values(), WorkflowState.faulted)
        ended = _evolve(ended, failure=Failure(error, ("builtins.TimeoutError",), "timed_out"), reason="timed_out")
    else:
        ended = final_record(record, standing, standing.pending.values(), WorkflowState.terminated)
        ended = _evolve(ended, reason=carries_out.body.text or "")
    return _evolve(ended, kind=RecordKind.terminated, carries_out=carries_out.seq)


def deleted_record(standing: Standing, author: Author, at: float) -> Record:
    """The mark of a workflow that was deleted; a new life may begin behind it (W10)."""
    return _evolve(bare_record(standing, author, at), kind=RecordKind.deleted, state=standing.newest.state)


def unpinned_record(standing: Standing, author: Author, at: float) -> Record:
    """The record from which on the run may go on with any build (W11)."""
    record = bare_record(standing, author, at)
    record = _evolve(record, summary=_evolve(record.summary, pin=""))
    before = standing.newest
    if not standing.stuck:
        return record
    return _evolve(record, kind=RecordKind.stuck, failure=before.failure, reason=before.reason)


def bare_record(standing: Standing, author: Author, at: float) -> Record:
    """A record behind the newest one that takes no input and changes nothing."""
    before = standing.newest
    return Record(
        id=before.id,
        name=before.name,
        kind=RecordKind.task,
        number=before.number + 1,
        life=before.life,
        run=before.run,
        nonce=author.nonce,
        node=author.node,
        build=author.build,
        state=before.state,
        at=max(at, before.at),
        upto=before.upto,
        behind=before.upto,
        summary=_evolve(before.summary, run_at=_run_at(before)),
    )


def _run_at(newest: Record) -> float:
    """When the newest run began, or is to begin."""
    return newest.summary.run_at if newest.start is None else newest.begun_at
