"""The words of the domain as values: a job's record, its attempts, who owns it, and the message that carries it.

Pure. Instants are unix seconds by the NATS server's clock, durations are seconds.
"""

from __future__ import annotations

import enum
import hashlib
import re
from typing import Any

import attrs

from turnout.core.evolve import evolve
from turnout.core.frozen import frozen
from turnout.core.retry import RetryPolicy
from turnout.errors import InvalidValue

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What an id, an activity's or node's name and a namespace look like: a token of a subject and a part of a key."""

BARE_ID = re.compile(r"\d+-[0-9a-z]{9,}")
"""The form of an id that is derived from a bare message's sequence and time (P8); callers may not choose it."""

ATTEMPTS_KEPT = 50
"""How many attempts a record lists: the first ones go when there are more; the counters count them all."""


def valid_name(value: object, what: str) -> str:
    """`value` if it is a valid token, else InvalidValue that names `what`."""
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise InvalidValue(f"{what} must match [A-Za-z0-9_-]{{1,64}}, not {value!r}")


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


class Outcome(enum.StrEnum):
    """How an attempt stands or ended."""

    running = "running"
    completed = "completed"
    faulted = "faulted"
    timed_out = "timed_out"
    lost = "lost"
    aborted = "aborted"
    cancelled = "cancelled"


@frozen
class Token:
    """Who owns a running attempt (P1). The nonce makes it unique; the rest says whom to ask."""

    node: str
    generation: int
    attempt: int
    nonce: str


@frozen
class Body:
    """A payload, result or checkpoint: JSON text, or the name of the object that holds it (claim check)."""

    text: str | None = None
    ref: str | None = None
    size: int = 0


def _utf8(value: str) -> str:
    """`value` with what UTF-8 can't carry spelt out: a file's name may hold half of a surrogate pair."""
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()


def one_line(value: str) -> str:
    """A text that somebody gave, as a record keeps it: bounded, so that the record can be stored."""
    return _utf8(value)[:1_000]


def _message(value: str) -> str:
    return _utf8(value)[:4_000]


def _traceback(value: str) -> str:
    return _utf8(value)[-8_000:]


def _number(value: float) -> float:
    """JSON's numbers are doubles to some readers: an integer beyond their reach becomes one."""
    return value if abs(value) < 2**53 else float(value)


@attrs.frozen
class Progress:
    done: float = attrs.field(default=0, converter=_number)
    total: float | None = attrs.field(default=None, converter=attrs.converters.optional(_number))
    message: str = attrs.field(default="", converter=one_line)


@attrs.frozen
class ErrorInfo:
    """An exception as a record keeps it: class name, message and traceback, bounded so that a record can be stored."""

    type: str = attrs.field(converter=one_line)
    message: str = attrs.field(converter=_message)
    traceback: str = attrs.field(default="", converter=_traceback)

    @property
    def brief(self) -> ErrorInfo:
        """What is kept of it once another attempt has begun: a record lists many attempts."""
        return ErrorInfo(self.type, self.message[:500], self.traceback[-1_000:])


@frozen(slots=False)
class Attempt:
    """One try. `span_id` lets whoever counts a loss emit the span of an attempt whose node is gone.

    `due_at`: from when on it might begin, where that is not when the job was submitted or the attempt before ended:
    after a delay, or after somebody has retried the job.
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


@frozen
class MessageRef:
    """The job's message in the stream. Sequences are reused after a power cut: the timestamp tells two apart.

    `time_ns` is unix nanoseconds; `ack` is the subject that settles the newest delivery, "" before there was one.
    `bare`: it lies on the subject that all bare jobs of the activity share, not on one of its own id.
    """

    seq: int
    time_ns: int
    ack: str = ""
    bare: bool = False

    @property
    def time(self) -> float:
        return self.time_ns / 1e9

    def same(self, other: MessageRef | None) -> bool:
        return other is not None and (self.seq, self.time_ns) == (other.seq, other.time_ns)


@frozen
class SubmitOptions:
    """What one submission asked for; None means the activity's own."""

    timeout: float | None = None
    retry: RetryPolicy | None = None
    expires_in: float | None = None
    labels: dict[str, str] = attrs.field(factory=dict)


_DEFAULT_RETRY = RetryPolicy()
NO_BODY = Body()
NO_OPTIONS = SubmitOptions()


@frozen
class Rules:
    """The activity's options that decide a job's life, fixed in the record when an attempt starts."""

    retry: RetryPolicy = _DEFAULT_RETRY
    max_lost: int = 3
    lease: float = 30.0


DEFAULT_RULES = Rules()


@frozen(slots=False)
class JobRecord:
    """All that is known of a job; one value in the registry. See docs/lifecycle.md for who writes which field."""

    id: str
    activity: str
    state: JobState
    generation: int = 1
    submitted_at: float = 0.0
    payload: Body = NO_BODY
    headers: dict[str, str] = attrs.field(factory=dict)
    options: SubmitOptions = NO_OPTIONS
    rules: Rules = DEFAULT_RULES
    message: MessageRef | None = None
    token: Token | None = None
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    aborts: int = 0
    attempts: tuple[Attempt, ...] = ()
    started_at: float | None = None
    finished_at: float | None = None
    due_at: float | None = None
    cancel_request: str | None = None
    progress: Progress | None = None
    checkpoint: Body | None = None
    result: Body | None = None
    error: ErrorInfo | None = None
    reason: str | None = None
    trace_id: str = ""

    @property
    def expires_at(self) -> float | None:
        """The instant by which the last attempt must have ended, or None."""
        return None if self.options.expires_in is None else self.submitted_at + self.options.expires_in

    def owned_by(self, token: Token | None) -> bool:
        """Whether `token` is that of the attempt that runs now."""
        return self.state is JobState.running and token is not None and self.token == token

    def with_attempt(self, **changes: Any) -> tuple[Attempt, ...]:
        """The list of attempts with the newest one changed."""
        return (*self.attempts[:-1], evolve(self.attempts[-1], **changes)) if self.attempts else ()


def queue_wait(before: JobRecord | None, after: JobRecord) -> float:
    """How long the attempt that `after` has just begun was due before it ran, in seconds; `before` is what it replaced.

    An attempt is due when its message is there, its delay or instant has come, and the attempt before it has ended.

    >>> again = Attempt(2, 1, "b", started_at=18.0)
    >>> after = JobRecord("a", "add", JobState.running, attempts=(Attempt(1, 1, "a", 10.0, ended_at=12.0), again))
    >>> queue_wait(JobRecord("a", "add", JobState.retrying, due_at=17.5), after)
    0.5
    """
    if not after.attempts:
        return 0.0
    due = after.message.time if after.message is not None else after.submitted_at
    due = max(due, after.attempts[-1].due_at or 0.0)
    if before is not None and before.due_at is not None:
        due = max(due, before.due_at)
    if len(after.attempts) > 1:
        due = max(due, after.attempts[-2].ended_at or 0.0)
    return max(after.attempts[-1].started_at - due, 0.0)


@frozen(slots=False)
class Delivery:
    """A job's message, as JetStream handed it over or as it was read from the stream.

    `number` counts deliveries (not durably); `exhausted`: the last one that max_deliver allows. `scheduled`: a timer
    put it there (P11). `replaced`: how often it was put in anew (P7). `problem`: why it can't be run at all.
    """

    id: str
    activity: str
    message: MessageRef
    generation: int = 1
    payload: Body = NO_BODY
    headers: dict[str, str] = attrs.field(factory=dict)
    options: SubmitOptions = NO_OPTIONS
    number: int = 1
    exhausted: bool = False
    scheduled: bool = False
    replaced: int = 0
    trace_id: str = ""
    problem: ErrorInfo | None = None

    @property
    def expires_at(self) -> float | None:
        return None if self.options.expires_in is None else self.message.time + self.options.expires_in
