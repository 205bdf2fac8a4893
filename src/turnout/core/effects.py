"""What a decision wants done: values that one interpreter performs in order, stopping at the first that fails.

Every prefix of a decision's effects, followed by a crash, is safe: that is what the order is for (docs/lifecycle.md).
"""

from __future__ import annotations

from typing import TypeAlias

from turnout.core.frozen import frozen
from turnout.core.values import JobRecord, MessageRef, Token


@frozen
class Save:
    """Write the record, if it still is what was decided upon (compare-and-set; a create when there was none).

    `expires`: its retention begins. A record may only begin to expire when its message is surely removed, or when the
    one who saves it settles the message next and the sweep stands behind it (P9).
    """

    record: JobRecord
    expires: bool = False


@frozen
class Letter:
    """Write the dead letter of a faulted job, once per generation (P4)."""

    record: JobRecord


@frozen
class Ack:
    """Settle the message for good."""

    message: MessageRef


@frozen
class Nak:
    """Give the message back, for redelivery after `delay_s`. Anyone may do that: acks in NATS are not fenced."""

    message: MessageRef
    delay_s: float = 0.0


@frozen
class Drop:
    """Leave the delivery alone: its owner keeps the message, or the lease brings it back."""


@frozen
class Ask:
    """Ask the owner of the running attempt whether it runs (P5), and decide again with the verdict."""

    token: Token


@frozen
class Publish:
    """Put the job's first message into the stream, expecting none on its subject (P3)."""

    record: JobRecord


@frozen
class Schedule:
    """Have the server publish the job's message at `at`, expecting no schedule of this id (P11)."""

    record: JobRecord
    at: float


@frozen
class Replace:
    """Put the job's message in anew: one atomic publish that replaces what is on the id's subject (P2, P7, P8).

    `expected_seq`: the sequence that was seen there, 0 for none.
    """

    record: JobRecord
    expected_seq: int
    replaced: int = 0


@frozen
class Remove:
    """Delete the message, after a look from the leader that sequence and timestamp are still its own."""

    message: MessageRef


@frozen
class Unschedule:
    """Purge the job's pending schedule."""

    record: JobRecord


@frozen
class Notify:
    """Push the cancel request to the owner's node; a hint, the record is what counts."""

    token: Token
    reason: str


@frozen
class Abandon:
    """The lease is lost: stop the code, settle nothing, write nothing."""


Effect: TypeAlias = (
    Save | Letter | Ack | Nak | Drop | Ask | Publish | Schedule | Replace | Remove | Unschedule | Notify | Abandon
)
