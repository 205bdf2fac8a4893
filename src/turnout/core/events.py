"""What can happen to a job: everyone who wants something of it says so with one of these values.

Pure. `now` is unix seconds by the server's clock, `u` in [0, 1) places the jitter, `found` is the job's message as just
read from the stream's leader, None when there is none.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

from turnout.core.frozen import frozen
from turnout.core.values import Body, Delivery, ErrorInfo, JobRecord, Progress, Rules, Token


class Verdict(enum.Enum):
    """What became of the owner of a running attempt when somebody asked (P5)."""

    alive = "alive"
    """It says that it runs the attempt."""
    gone = "gone"
    """It says that it does not, or it is silent and its liveness has lapsed, seen by one whose own is in order."""
    silent = "silent"
    """No answer, but nothing says that it is dead."""


@frozen(kw_only=True)
class Submitted:
    """A client submits: `draft` is the record as it would be, `at` the instant of a delayed submit."""

    draft: JobRecord
    at: float | None = None


@frozen(kw_only=True)
class Received:
    """JetStream handed the message to a worker that is ready to run it under `node` and `nonce`.

    `verdict` (with `asked`, the token it is about, and `wait_s`, the rest of the owner's liveness TTL) is filled in
    after an `Ask`.
    """

    delivery: Delivery
    node: str
    nonce: str
    now: float
    rules: Rules
    span_id: str = ""
    asked: Token | None = None
    verdict: Verdict | None = None
    wait_s: float = 0.0


@frozen(kw_only=True)
class Reported:
    """The running code reported progress, or stored a checkpoint, or both."""

    token: Token
    progress: Progress | None = None
    checkpoint: Body | None = None


@frozen(kw_only=True)
class Ended:
    """What the events that end an attempt have in common; `exhausted`: the message has no deliveries left (P7)."""

    token: Token
    now: float
    progress: Progress | None = None
    exhausted: bool = False


@frozen(kw_only=True)
class Completed(Ended):
    """The code returned."""

    result: Body


@frozen(kw_only=True)
class Failed(Ended):
    """The code raised, or ran out of time.

    `error_mro`: the qualified class names that the retry policy matches. `fatal`: never retried, and why.
    `retry_after`: the delay that the code itself asked for.
    """

    error: ErrorInfo
    error_mro: tuple[str, ...] = ()
    u: float = 0.5
    retry_after: float | None = None
    fatal: str | None = None
    timed_out: bool = False


@frozen(kw_only=True)
class Cancelled(Ended):
    """The code ended by the cancellation that somebody had asked for."""


@frozen(kw_only=True)
class Aborted(Ended):
    """The code was stopped because its node stops."""


@frozen(kw_only=True)
class Lost:
    """The node that ran the attempt of this token is dead."""

    token: Token
    now: float


@frozen(kw_only=True)
class CancelRequested:
    """Somebody asks for the end of the job."""

    reason: str
    now: float
    found: Delivery | None = None


@frozen(kw_only=True)
class RetryRequested:
    """An operator retries or replays a job that ended without a result: a new generation, with fresh budgets.

    `letter` is the record in the job's newest dead letter, for when its own has expired.
    """

    now: float
    found: Delivery | None = None
    letter: JobRecord | None = None


@frozen(kw_only=True)
class Expired:
    """Somebody looked at a job whose `expires_in` has passed (P12)."""

    now: float
    found: Delivery | None = None


@frozen(kw_only=True)
class Stuck:
    """The sweep found a job that no delivery will bring back: exhausted, or its message gone (P7)."""

    now: float
    found: Delivery | None = None
    max_lost: int = 3


@frozen(kw_only=True)
class Leftover:
    """The sweep found a message of a job that has ended."""

    found: Delivery
    now: float


Event: TypeAlias = (
    Submitted
    | Received
    | Reported
    | Completed
    | Failed
    | Cancelled
    | Aborted
    | Lost
    | CancelRequested
    | RetryRequested
    | Expired
    | Stuck
    | Leftover
)
