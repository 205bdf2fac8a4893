"""What can happen to a job: everyone who wants something of it says so with one of these values.

Pure. `now` is unix seconds by the server's clock, `u` in [0, 1) places the jitter, `delivery` is the job's message as
it was handed over, or as it was just read from the stream's leader; None when there is none.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

from turnout.core.failure import Failure
from turnout.core.limits import LimitKey
from turnout.core.record import Answer, Delivery, JobRecord, MessageRef, Policy, Progress, Token
from turnout.core.spec import Body, JobSpec
from turnout.core.struct import struct


class Verdict(enum.Enum):
    """What became of the owner of a running attempt when somebody asked (P5)."""

    alive = "alive"
    """It says that it runs the attempt."""
    gone = "gone"
    """It says that it does not, or it is silent and its liveness has lapsed, seen by one whose own is in order."""
    silent = "silent"
    """No answer, but nothing says that it is dead."""


@struct(kw_only=True)
class Submitted:
    """A client submits. `nonce` names this call, so that its own writes are known again (P1, P3); `at` is the instant
    of a delayed submit. `chosen`: the id is the caller's, and others may choose it at the same time.
    """

    spec: JobSpec
    nonce: str
    at: float | None = None
    chosen: bool = False


@struct(kw_only=True)
class Resubmitted:
    """A client submits a job under an id whose last life has ended: `spec` is of the generation after it.

    `nonce` and `at` as of `Submitted`.
    """

    spec: JobSpec
    nonce: str
    at: float | None = None
    delivery: Delivery | None = None


@struct(kw_only=True)
class Debounced:
    """A client submits a job that waits until `at`, or has the one that waits run with this `spec`, and not before
    `at`. `nonce` as of `Submitted`.
    """

    spec: JobSpec
    nonce: str
    at: float


@struct(kw_only=True, slots=False)
class Received:
    """JetStream handed the message to a worker that is ready to run it under `node` and `nonce`.

    `alone`: the node runs nothing else, and takes nothing else until this attempt has ended (P6); filled in after an
    `Isolate`. `verdict` (with `asked`, the token it is about, and `wait_s`, the rest of the owner's liveness TTL) is
    filled in after an `Ask`. `limited`: the job needs places of limits to start (P13). After an `Admit`, `admitted` is
    the generation and turn of the attempt that has them all, or `full` a limit that had none. `requires` is what the
    job requires of a node, if this one has not all of it (P15).
    """

    delivery: Delivery
    node: str
    nonce: str
    now: float
    rules: Policy
    span_id: str = ""
    alone: bool = False
    asked: Token | None = None
    verdict: Verdict | None = None
    wait_s: float = 0.0
    limited: bool = False
    admitted: tuple[int, int] | None = None
    full: LimitKey | None = None
    requires: dict[str, str] | None = None


@struct(kw_only=True)
class Declined:
    """A worker gives back a delivery that it has not begun: it has no slot for it, or it is about to stop."""

    delivery: Delivery


@struct(kw_only=True)
class Reported:
    """The running code reported progress, or stored a checkpoint, or both."""

    token: Token
    progress: Progress | None = None
    checkpoint: Body | None = None


@struct(kw_only=True)
class Ended:
    """What the events that end an attempt have in common; `exhausted`: the message has no deliveries left (P7)."""

    token: Token
    now: float
    progress: Progress | None = None
    exhausted: bool = False


@struct(kw_only=True)
class Completed(Ended):
    """The code returned."""

    result: Body


@struct(kw_only=True)
class Failed(Ended):
    """The code raised, or ran out of time."""

    failure: Failure
    u: float = 0.5


@struct(kw_only=True)
class Snoozed(Ended):
    """The code had nothing to do yet: it begins again after `delay_s`. `message` says what it waits for."""

    delay_s: float
    message: str = ""


@struct(kw_only=True)
class Deferred(Ended):
    """The code is done, and somebody outside will say how the job ends: within `timeout_s` if that is given."""

    timeout_s: float | None = None
    u: float = 0.5


@struct(kw_only=True)
class Cancelled(Ended):
    """The code ended by the cancellation that somebody had asked for."""


@struct(kw_only=True)
class Aborted(Ended):
    """The code was stopped because its node stops."""


@struct(kw_only=True)
class Lost:
    """The node that ran the attempt of this token is dead, or has let go of it."""

    token: Token
    now: float


@struct(kw_only=True)
class Answered:
    """Somebody outside says how the job has ended."""

    answer: Answer
    now: float
    u: float = 0.5
    delivery: Delivery | None = None


@struct(kw_only=True)
class KeptAlive:
    """Somebody outside is at work on the job, in this attempt if one is given."""

    now: float
    attempt: int | None = None
    progress: Progress | None = None


@struct(kw_only=True)
class CancelRequested:
    """Somebody asks for the end of the job.

    `unsubmitted` is the job as whoever is late would submit it (W2): one that is not there yet gets its final record,
    which the late submission meets.
    """

    reason: str
    now: float
    delivery: Delivery | None = None
    unsubmitted: JobSpec | None = None


@struct(kw_only=True)
class RetryRequested:
    """An operator retries or replays a job that ended without a result: a new generation, with fresh budgets.

    `dead_letter` is the record in the job's newest dead letter, for when its own has expired. `from_scratch`: without
    the checkpoint that the job has left.
    """

    now: float
    delivery: Delivery | None = None
    dead_letter: JobRecord | None = None
    from_scratch: bool = False


@struct(kw_only=True)
class PriorityRequested:
    """Somebody wants a job that waits to be of another priority, or in the express lane of its own, whose number
    `priority` is then. `at_once`: nor is it to wait for its time any more. `nonce` names this call."""

    priority: int
    now: float
    nonce: str
    at_once: bool = False
    delivery: Delivery | None = None


@struct(kw_only=True)
class Expired:
    """Somebody looked at a job whose `expires_in` has passed (P12), or of which nothing was heard from outside."""

    now: float
    u: float = 0.5
    delivery: Delivery | None = None


@struct(kw_only=True)
class Stuck:
    """The sweep found a job that no delivery will bring back: exhausted, or its message gone (P7).

    `unparked`: a parked job is in no line either. `twin`: the bare message that was found, where the job was requeued
    already: whoever did that has died before it removed the first one (P8).
    """

    now: float
    delivery: Delivery | None = None
    max_lost: int = 3
    unparked: bool = False
    twin: MessageRef | None = None


@struct(kw_only=True)
class Leftover:
    """The sweep found a message of a job that has ended."""

    delivery: Delivery
    now: float


Event: TypeAlias = (
    Submitted
    | Resubmitted
    | Debounced
    | Received
    | Declined
    | Reported
    | Completed
    | Failed
    | Snoozed
    | Deferred
    | Answered
    | KeptAlive
    | Cancelled
    | Aborted
    | Lost
    | CancelRequested
    | RetryRequested
    | PriorityRequested
    | Expired
    | Stuck
    | Leftover
)
