"""The words of a workflow as values: what reaches it, what its code asks for, and the records that its history is of.

Pure. Instants are unix seconds by the NATS server's clock. A **life** is what begins with one start, a **run** is one
execution of the code within it (continue-as-new and a retry begin another). docs/workflows.md tells the rules W1 to W17
that are named here where they are kept.
"""

from __future__ import annotations

import enum
import hashlib

import attrs

from turnout.core.failure import ErrorInfo
from turnout.core.record import JobRecord
from turnout.core.retry import RetryPolicy
from turnout.core.spec import NO_BODY, Asker, Body, SubmitOptions
from turnout.core.struct import struct

DELAY = "delay"
"""The command of the timer that a delayed start, or the retry of a workflow, waits for. No code gives it."""

TIMEOUT = "timeout"
"""The command of the timer of the whole workflow. It belongs to no run (run 0) and needs no code."""

COLLECTION = "gc"
"""What the timer is called that removes what is left of an ended workflow. It belongs to no run either."""

BEGIN = "begin"


class WorkflowState(enum.StrEnum):
    """Where a workflow is in its life; the last four are final."""

    scheduled = "scheduled"
    running = "running"
    stuck = "stuck"
    completed = "completed"
    faulted = "faulted"
    cancelled = "cancelled"
    terminated = "terminated"

    @property
    def final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = frozenset(
    {WorkflowState.completed, WorkflowState.faulted, WorkflowState.cancelled, WorkflowState.terminated}
)


_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [first + second for first in _BASE32 for second in _BASE32]
_SHIFTS = range(120, -1, -10)


def key_of(workflow_id: str, life: str, run: int, command: str) -> str:
    """What the job, child or message of a command is called: a job's id, a workflow's id, a `Turnout-Id`.

    >>> key_of("o-17", "7f3a", 1, "0-1")
    'zccnzlqlpthdlxgc667bq726hv'
    """
    # The first 130 bits in base 32, two digits at a time: base64.b32encode takes more than twice as long.
    text = "\0".join((workflow_id, life, str(run), command))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:17], "big") >> 6
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def token_of(command: str) -> str:
    """The id of a command as a part of a subject.

    >>> token_of("0.2-7")
    '0_2-7'
    """
    token = command.replace(".", "_")
    return token if len(token) <= 100 else hashlib.sha256(token.encode()).hexdigest()[:32]


# --- what reaches a workflow -----------------------------------------------------------------------------------------


class InputKind(enum.StrEnum):
    """The kinds of what lies in an inbox; `begin` and `tried` never lie there, whoever does a task puts them in."""

    start = "start"
    begin = "begin"
    signal = "signal"
    update = "update"
    cancel = "cancel"
    terminate = "terminate"
    done = "done"
    started = "started"
    timer = "timer"
    joining = "join"
    gc = "gc"
    tried = "tried"
    """An attempt of a local activity has failed and is followed by another: for people, no code hears of it (W15)."""


COUNTED = frozenset({InputKind.signal, InputKind.update, InputKind.cancel})
"""The kinds that count once by their id, however often they are sent."""


class EndKind(enum.StrEnum):
    """How what a command asked for has ended."""

    completed = "completed"
    faulted = "faulted"
    cancelled = "cancelled"
    terminated = "terminated"
    ended = "ended"
    """Refused: the workflow that was to get a signal or a cancel has ended."""
    unknown = "unknown"
    """Refused: there is no such workflow."""
    exists = "exists"
    """Refused: the id of the child is another's."""
    there = "there"
    """The child is started, or joined."""


@struct
class Ending:
    """The end of a command. `job` is the activity's final record where the workflow's code may look at it."""

    kind: EndKind
    result: Body | None = None
    error: ErrorInfo | None = None
    reason: str | None = None
    job: JobRecord | None = None


@struct
class Input:
    """One thing that has reached a workflow, with its content: replay needs nothing else.

    `seq` is where it lay in the inbox, 0 if it never did. `at` is when it was stored there. `what` names the signal,
    the update or the command; `id` is what an input of the `COUNTED` kinds is counted by. One of nobody's command has
    no `life`, `run` 0 belongs to the life as a whole. `traceparent` is of those kinds: the span of whoever has sent it.
    """

    kind: InputKind
    at: float
    seq: int = 0
    what: str = ""
    id: str = ""
    life: str = ""
    run: int = 0
    body: Body = NO_BODY
    ending: Ending | None = None
    asker: Asker | None = None
    traceparent: str = ""


# --- what the code asks for ------------------------------------------------------------------------------------------


class CommandKind(enum.StrEnum):
    """What a workflow's code can ask for. All wait for their end but the last three, which are about one of those."""

    activity = "activity"
    timer = "timer"
    child = "child"
    signal = "signal"
    cancel = "cancel"
    joining = "join"
    local = "local"
    """An activity that runs on the worker that does the task, without a job (W15)."""
    withdraw = "withdraw"
    """Nobody waits for the target any more: its job is asked to cancel, its timer is purged, its child is cancelled."""
    request = "request"
    """The target is asked to cancel, and waited for all the same."""
    abandon = "abandon"
    """Nobody waits for the target any more, and it goes on."""


ABOUT_OTHERS = frozenset({CommandKind.withdraw, CommandKind.request, CommandKind.abandon})

ParentClose = str
"""What becomes of a child when its parent ends: "cancel", "abandon" or "terminate"."""


@struct
class ChildOptions:
    """How a child is started; see `StartOptions` of turnout.definition.workflow."""

    if_exists: str = "raise"
    parent_close: ParentClose = "cancel"
    timeout: float | None = None
    retry: RetryPolicy | None = None
    retention: float | None = None
    labels: dict[str, str] = attrs.field(factory=dict)


@struct
class Command:
    """One thing that the code asked for. `id` is (path of the asyncio task that asked, ordinal within it).

    `name`: the activity, the child's workflow, or the signal. `at`: when the timer is due, or the delayed job or child
    begins. `target`: the command that this one is about, or the id of the other workflow, or of the child. `about`:
    the kind of the command that this one is about; `name` is that one's activity or child then. `code`: the line that
    asked. `since`: when it was asked for. `wake`, of a local activity: the input that stays in the inbox until it has
    ended; whoever is handed that one runs it.
    """

    id: str
    kind: CommandKind
    name: str = ""
    body: Body = NO_BODY
    at: float | None = None
    target: str = ""
    about: str = ""
    job: SubmitOptions | None = None
    child: ChildOptions | None = None
    code: str = ""
    since: float = 0.0
    wake: int = 0

    def same(self, other: Command) -> bool:
        """Whether a replay gave the command that was recorded: by id, kind and name."""
        return self.id == other.id and self.kind == other.kind and self.name == other.name


class AnswerState(enum.StrEnum):
    accepted = "accepted"
    completed = "completed"
    rejected = "rejected"
    failed = "failed"


@struct
class Answer:
    """What became of an update, by its id (W13)."""

    id: str
    state: AnswerState
    result: Body | None = None
    error: ErrorInfo | None = None


# --- records ---------------------------------------------------------------------------------------------------------


class RecordKind(enum.StrEnum):
    start = "start"
    """Record 0, by whoever starts the workflow. It takes no input (W5)."""
    task = "task"
    """A workflow task: the inputs that it took and what the code made of them. It may end the run, or the life."""
    stuck = "stuck"
    """The code can't go on (W7); nothing of the input that broke is in any record."""
    trying = "trying"
    """A node is about to try what has killed others (W7)."""
    terminated = "terminated"
    """The end, by somebody who needs no code (W8)."""
    deleted = "deleted"
    """The workflow was deleted; a new life may be appended behind it (W10)."""


@struct
class Failure:
    """Why a run failed, with the class names that a retry policy matches."""

    error: ErrorInfo
    mro: tuple[str, ...] = ()
    reason: str = "failed"


@struct
class Shared:
    """How much of what a fork's record 0 holds is of one task of the workflow before it; of which life, and whose."""

    life: str
    at: float = 0.0
    node: str = ""
    inputs: int = 0
    commands: int = 0
    answers: int = 0
    patches: int = 0


@struct
class Fork:
    """Where a workflow was forked from (W16): the id, the event of it that is not shared any more, the tasks that are.

    The inputs of the record behind those of the tasks are of a task that was cut: the code is yet to be given them.
    """

    id: str
    at: int
    tasks: tuple[Shared, ...] = ()


@struct
class Start:
    """What begins a run: a part of record 0, and of the record that ends the run before it (W9).

    `wake`: inputs before this sequence are another life's (W5). `carried`: signals and updates that ride along: a first
    one, or those that the run before took and did not receive. `seen`: the ids that signals and updates were
    counted by, and when, `answers` those that updates of these ids were given. `due_at`: not before. `attempt`
    counts the runs since the last that did not fail. `fork`: the record has the first part of another workflow's run.
    `schedule`: the one whose run this is.
    """

    payload: Body = NO_BODY
    at: float = 0.0
    wake: int = 0
    due_at: float | None = None
    parent: Asker | None = None
    parent_close: ParentClose = "cancel"
    labels: dict[str, str] = attrs.field(factory=dict)
    timeout: float | None = None
    retry: RetryPolicy | None = None
    retention: float | None = None
    headers: dict[str, str] = attrs.field(factory=dict)
    trace_id: str = ""
    carried: tuple[Input, ...] = ()
    seen: dict[str, float] = attrs.field(factory=dict)
    answers: tuple[Answer, ...] = ()
    attempt: int = 1
    failure: Failure | None = None
    details: str = ""
    fork: Fork | None = None
    schedule: str = ""


class WaitKind(enum.StrEnum):
    activity = "activity"
    timer = "timer"
    child = "child"
    signal = "signal"
    condition = "condition"


@struct
class Wait:
    """One thing that a workflow waits for, for people to see. `attempt` is that of a local activity."""

    kind: str
    name: str = ""
    id: str = ""
    since: float | None = None
    due_at: float | None = None
    code: str = ""
    attempt: int | None = None


WAITS_SHOWN = 20


@struct(slots=False)
class Summary:
    """What a listing shows of a workflow, in the headers of its newest record.

    `events` and `size` measure the run's history, the newest record included. `run_at` is when the run
    began that this record is of, `traceparent` the span that its runs hang below, as W3C Trace Context spells it. `pin`
    is the build that the run stays with.
    """

    started_at: float = 0.0
    finished_at: float | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
    details: str = ""
    waits: tuple[Wait, ...] = ()
    waiting: int = 0
    events: int = 0
    size: int = 0
    parent: str = ""
    trace_id: str = ""
    due_at: float | None = None
    cancel_request: str | None = None
    run_at: float = 0.0
    traceparent: str = ""
    pin: str = ""
    schedule: str = ""


NO_SUMMARY = Summary()


@struct(slots=False)
class Record:
    """One entry of a history. With the records before it in its run it is all that a replay needs.

    `number` counts from 0 in each life. `upto` is the sequence of the last input that was looked at, `behind` that of
    the record before. `withdrawn` are the commands that nobody waits for any more because the run has ended.
    `start` begins a run. `joined` are those who asked for this workflow's end, its parent among them. `gc_at` is
    when an ended one is removed. `carries_out` is the sequence of the `terminate` that this record carries out.
    `left` counts what lies behind an end, `unreceived` the signals that nobody received. `previous` is the state
    that listings show while a node is `trying`.
    """

    id: str
    name: str
    kind: RecordKind
    number: int
    life: str
    run: int
    nonce: str
    state: WorkflowState
    at: float
    node: str = ""
    build: str = ""
    upto: int = 0
    behind: int = 0
    inputs: tuple[Input, ...] = ()
    commands: tuple[Command, ...] = ()
    answers: tuple[Answer, ...] = ()
    patches: tuple[str, ...] = ()
    withdrawn: tuple[Command, ...] = ()
    joined: tuple[Asker, ...] = ()
    start: Start | None = None
    result: Body | None = None
    failure: Failure | None = None
    reason: str | None = None
    gc_at: float | None = None
    carries_out: int = 0
    left: int = 0
    unreceived: int = 0
    summary: Summary = NO_SUMMARY

    def newly_covers(self, seq: int) -> bool:
        """Whether this record has the input at `seq`, and those before it do not (W2)."""
        return self.behind < seq <= self.upto or (seq > 0 and seq == self.carries_out)

    @property
    def begins_run(self) -> bool:
        """Whether a replay may begin here."""
        return self.start is not None

    @property
    def begun_at(self) -> float:
        """When the run that this record begins may begin. A fork's `start` is as old as that of the workflow before."""
        start = self.start
        return self.at if start is None or start.fork is not None else start.due_at or self.at

    @property
    def ends_run(self) -> bool:
        """Whether a run has ended with this record: for good, or for another run that follows."""
        if self.kind is RecordKind.deleted:
            return False
        return self.state.final or (self.kind is RecordKind.task and self.start is not None)

    @property
    def done_run(self) -> int:
        """The run whose inputs and commands this record holds: one that continues as new belongs to the run it ends."""
        return self.run - 1 if self.kind is RecordKind.task and self.start is not None else self.run

    def asker(self, command: str) -> Asker:
        """This workflow, as whoever asks for the end of this command."""
        return Asker(self.id, self.name, self.life, self.done_run, command)
