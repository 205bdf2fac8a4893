"""The words of the domain as values: a job's record, its attempts, who owns it, and the message that carries it.

Pure. Instants are unix seconds by the NATS server's clock, durations are seconds.
"""

from __future__ import annotations

import enum
import hashlib
import math
from typing import Any

import attrs

from turnout.core.evolve import evolve
from turnout.core.failure import ErrorInfo, FaultReason, one_line
from turnout.core.retry import RetryPolicy
from turnout.core.spec import DEFAULT_PRIORITY, Body, JobSpec
from turnout.core.struct import struct
from turnout.errors import InvalidValue

ATTEMPTS_KEPT = 50
"""How many attempts a record lists: the first ones go when there are more; the counters count them all."""


SHORTENED_ATTEMPTS_KEPT = 10


def derived_span_id(trace_id: str) -> str:
    """The span, in hex, that a job's attempts belong to whose submitter has told of none: the same on every node."""
    return hashlib.sha256(trace_id.encode()).hexdigest()[:16]


class JobState(enum.StrEnum):
    """Where a job is in its life; the last three are final."""

    scheduled = "scheduled"
    queued = "queued"
    running = "running"
    retrying = "retrying"
    completed = "completed"
    faulted = "faulted"
    cancelled = "cancelled"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({JobState.completed, JobState.faulted, JobState.cancelled})
RETRYABLE = frozenset({JobState.faulted, JobState.cancelled})
"""The ends after which somebody may have the job run again."""


class Outcome(enum.StrEnum):
    """How an attempt stands or ended."""

    running = "running"
    completed = "completed"
    faulted = "faulted"
    timed_out = "timed_out"
    lost = "lost"
    snoozed = "snoozed"
    aborted = "aborted"
    cancelled = "cancelled"


@struct
class Token:
    """Who owns a running attempt (P1). The nonce makes it unique; the rest says whom to ask."""

    node: str
    generation: int
    attempt: int
    nonce: str


def _number(value: float) -> float:
    """JSON's numbers are doubles to some readers: an integer beyond their reach becomes one."""
    return value if abs(value) < 2**53 else float(value)


@attrs.frozen
class Progress:
    done: float = attrs.field(default=0, converter=_number)
    total: float | None = attrs.field(default=None, converter=attrs.converters.optional(_number))
    message: str = attrs.field(default="", converter=one_line)


def progress_of(done: object, total: object, message: object) -> Progress:
    """What somebody says of how far the work is. InvalidValue for what no record can keep, such as a nan."""
    return Progress(_finite("done", done), None if total is None else _finite("total", total), str(message))


def _finite(name: str, value: object) -> float:
    try:
        if isinstance(value, int | float) and math.isfinite(value):
            return value
    except OverflowError:
        pass  # an integer that no double reaches
    raise InvalidValue(f"progress {name} must be a finite number, not {value!r}")


@struct(slots=False)
class AttemptRecord:
    """One try. `span_id` lets whoever counts a loss emit the span of an attempt whose node is gone.

    `due_at`: from when on it might begin, where that is not when the job was submitted or the attempt before ended:
    after a delay, or after somebody has retried the job. `alone`: its node ran nothing else meanwhile (P6).
    """

    number: int
    generation: int
    node: str
    started_at: float
    outcome: Outcome = Outcome.running
    ended_at: float | None = None
    error: ErrorInfo | None = None
    span_id: str = ""
    due_at: float | None = None
    alone: bool = False


@struct
class MessageRef:
    """The job's message in the stream. Sequences are reused after a power cut: the timestamp tells two apart.

    `time_ns` is unix nanoseconds; `ack` is the subject that settles the newest delivery, "" before there was one.
    `bare`: it does not lie on the subject of its own id, but on the one that all bare jobs of the activity share, or on
    the way to the nodes that fit (P15). `priority`: it lies in this lane, whatever the job's own priority is by now.
    """

    seq: int
    time_ns: int
    ack: str = ""
    bare: bool = False
    priority: int = DEFAULT_PRIORITY

    @property
    def time(self) -> float:
        return self.time_ns / 1e9

    def same(self, other: MessageRef | None) -> bool:
        return other is not None and (self.seq, self.time_ns) == (other.seq, other.time_ns)


@struct
class Outside:
    """The code of the attempt is done, and the job runs on outside. `timeout`: seconds without a word from there that
    are too many; None: as long as it takes."""

    timeout: float | None = None


@struct
class Answer:
    """What was said from outside while the code was still at work: it counts when the code leaves the rest to others.
    When the job ends in another way it stays in the record, which tells so that it did not count.

    `attempt`: the only one that it is meant for, if there is one. Without a `result` it is a failure, as `error` says,
    which is not retried if it is `fatal`.
    """

    attempt: int | None = None
    result: Body | None = None
    error: ErrorInfo | None = None
    fatal: bool = False


_DEFAULT_RETRY = RetryPolicy()


@struct
class Policy:
    """The activity's options that decide a job's life, fixed in the record when an attempt starts."""

    retry: RetryPolicy = _DEFAULT_RETRY
    max_lost: int = 3
    lease: float = 30.0


DEFAULT_POLICY = Policy()


@struct
class WaitsFor:
    """What a queued job that is parked waits for: a place of the limit `limit`, which for this job is called `name`."""

    name: str
    limit: str
    since: float


@struct(slots=False)
class JobRecord:
    """All that is known of a job; one value in the registry. See docs/lifecycle.md for who writes which field."""

    spec: JobSpec
    state: JobState
    rules: Policy = DEFAULT_POLICY
    message: MessageRef | None = None
    token: Token | None = None
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    aborts: int = 0
    snoozes: int = 0
    attempts: tuple[AttemptRecord, ...] = ()
    started_at: float | None = None
    finished_at: float | None = None
    due_at: float | None = None
    cancel_request: str | None = None
    progress: Progress | None = None
    checkpoint: Body | None = None
    result: Body | None = None
    error: ErrorInfo | None = None
    reason: str | None = None
    waits_for: WaitsFor | None = None
    outside: Outside | None = None
    answer: Answer | None = None

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def activity(self) -> str:
        return self.spec.activity

    @property
    def generation(self) -> int:
        return self.spec.generation

    @property
    def deadline(self) -> tuple[float, FaultReason] | None:
        """The instant by which the job must have ended, or else begun, and why it is faulted then; the nearer one."""
        spec = self.spec
        if not spec.options.has_deadline:
            return None
        found = []
        if spec.expires_at is not None:
            found.append((spec.expires_at, FaultReason.expired))
        if spec.starts_by is not None and self.started_at is None:
            found.append((spec.starts_by, FaultReason.not_started))
        return min(found, default=None)

    @property
    def begun(self) -> int:
        """How many attempts have begun, with those that do not count: within a generation it never goes back."""
        return self.attempt + self.snoozes

    def is_of(self, nonce: str) -> bool:
        """Whether this nonce, of an attempt or of a submission, is that of the record's owner."""
        return self.token is not None and self.token.nonce == nonce

    @property
    def life(self) -> str:
        """What a message must say that claims to be this job's next generation."""
        return life_of(self.token, self.message)

    @property
    def answer_due(self) -> float:
        """By when somebody outside must have been heard of; infinite for one that is not left to others."""
        if self.outside is None:
            return math.inf
        return min(limit for limit in (self.due_at, self.spec.expires_at, math.inf) if limit is not None)

    @property
    def shortened(self) -> JobRecord:
        """The record where there is no room for all of it: without what only tells of the past and of the trouble."""
        attempts = tuple(
            attempt if attempt.error is None else evolve(attempt, error=attempt.error.shortened)
            for attempt in self.attempts[-SHORTENED_ATTEMPTS_KEPT:]
        )
        error = None if self.error is None else self.error.shortened
        return evolve(self, attempts=attempts, error=error)

    def owned_by(self, token: Token | None) -> bool:
        """Whether `token` is that of the attempt that runs now."""
        return self.state is JobState.running and token is not None and self.token == token

    def with_attempt(self, **changes: Any) -> tuple[AttemptRecord, ...]:
        """The list of attempts with the newest one changed."""
        return (*self.attempts[:-1], evolve(self.attempts[-1], **changes)) if self.attempts else ()


def life_of(token: Token | None, message: MessageRef | None) -> str:
    """The nonce of a life: that of its last attempt, or of its submit; else when its message was stored, to the ns."""
    if token is not None and token.nonce:
        return token.nonce
    return f"{message.seq}-{message.time_ns}" if message is not None else ""


def queue_wait(before: JobRecord | None, after: JobRecord) -> float:
    """How long the attempt that `after` has just begun was due before it ran, in seconds; `before` is what it replaced.

    An attempt is due when the job was submitted, or run again by somebody, its delay or instant has come, and the
    attempt before it has ended. What it waits for then makes no difference: a worker, a limit or the end of a pause.

    >>> again = AttemptRecord(2, 1, "b", started_at=18.0)
    >>> spec = JobSpec("a", "add")
    >>> after = JobRecord(spec, JobState.running, attempts=(AttemptRecord(1, 1, "a", 10.0, ended_at=12.0), again))
    >>> queue_wait(JobRecord(spec, JobState.retrying, due_at=17.5), after)
    0.5
    """
    if not after.attempts:
        return 0.0
    due, last = after.spec.submitted_at, after.attempts[-1]
    if after.message is not None and after.generation > 1:
        due = after.message.time  # of the first life it may be a newer one, of a job that a limit has let in
    due = max(due, last.due_at or 0.0)
    if before is not None and before.due_at is not None:
        due = max(due, before.due_at)
    if len(after.attempts) > 1:
        due = max(due, after.attempts[-2].ended_at or 0.0)
    return max(last.started_at - due, 0.0)


@struct(slots=False)
class Delivery:
    """A job's message, as JetStream handed it over or as it was read from the stream.

    `number` counts deliveries (not durably); `exhausted`: the last one that max_deliver allows. `scheduled`: a timer
    put it there (P11). `replaced`: how often it was requeued (P7). `problem`: why it can't be run at all.
    """

    spec: JobSpec
    message: MessageRef
    number: int = 1
    exhausted: bool = False
    scheduled: bool = False
    replaced: int = 0
    problem: ErrorInfo | None = None

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def activity(self) -> str:
        return self.spec.activity

    @property
    def generation(self) -> int:
        return self.spec.generation

    @property
    def doubtful(self) -> bool:
        """Whether the message itself may keep its job from beginning: by a problem, or by a deadline."""
        return self.problem is not None or self.spec.options.has_deadline
