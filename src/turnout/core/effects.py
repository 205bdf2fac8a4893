"""What a decision wants done: values that one interpreter performs in order, stopping at the first that fails.

Every prefix of a decision's effects, followed by a crash, is safe: that is what the order is for (docs/lifecycle.md).
"""

from __future__ import annotations

from typing import TypeAlias

from turnout.core.record import JobRecord, MessageRef, Token
from turnout.core.spec import Body, JobSpec
from turnout.core.struct import struct


@struct
class Save:
    """Write the record, if it still is what was decided upon (compare-and-set; a create when there was none).

    `expires`: its retention begins. A record may only begin to expire when its message is surely removed, or when the
    one who saves it settles the message next and the sweep stands behind it (P9).
    """

    record: JobRecord
    expires: bool = False


@struct
class WriteDeadLetter:
    """Write the dead letter of a faulted job, once per generation (P4)."""

    record: JobRecord


@struct
class TellParent:
    """Tell the inbox of the workflow that submitted the job how it has ended, before the message is settled (W4)."""

    record: JobRecord


@struct
class Ack:
    """Settle the message for good."""

    message: MessageRef


@struct
class Nak:
    """Give the message back, for redelivery after `delay_s`. Anyone may do that: acks in NATS are not fenced."""

    message: MessageRef
    delay_s: float = 0.0


@struct
class Drop:
    """Leave the delivery alone: its owner keeps the message, or the lease brings it back."""


@struct
class Ask:
    """Ask the owner of the running attempt whether it runs (P5), and decide again with the verdict."""

    token: Token


@struct
class Isolate:
    """Wait until the node runs nothing else, and decide again with what is known by then (P6)."""


@struct
class Admit:
    """Take a place of each limit for this attempt, and decide again with what is known by then (P13).

    `payload` is what the attempt will run with: that in the message of a debounced job may be an older one.
    """

    generation: int
    turn: int
    payload: Body


@struct
class Park:
    """Put the job into the line of the limit that it waits for, as this record says (P13)."""

    record: JobRecord


@struct
class Unpark:
    """Take the job, which has ended, out of the line of the limit that it waited for, as this record of it says."""

    record: JobRecord


@struct
class Rank:
    """Have the job, if it waits in the line of a limit, wait among those of its priority, as this record says."""

    record: JobRecord


@struct
class SendOn:
    """Put the job, which requires a property that this node has not, onto the way to those that have it, as this record
    says (P15). `message`: the one that goes there in place of it."""

    record: JobRecord
    message: MessageRef


@struct
class TakeOff:
    """Take the job, which has ended, off that way: who put it there may have died before its message was settled."""

    record: JobRecord


@struct
class Publish:
    """Put the job's first message into the stream, expecting none on its subject (P3).

    `chosen`: expecting none of this id under any activity either.
    """

    spec: JobSpec
    nonce: str
    chosen: bool = False


@struct
class Schedule:
    """Have the server publish the job's message at `at`, expecting no schedule of this id (P11); `chosen` as above."""

    spec: JobSpec
    at: float
    nonce: str
    chosen: bool = False


@struct
class Replace:
    """Requeue the job: one atomic publish that replaces what is on the subject of its id (P2, P7, P8).

    `expected_seq`: the sequence that was seen there, 0 for none.
    """

    spec: JobSpec
    expected_seq: int
    replaced: int = 0


@struct
class Remove:
    """Delete the message, after a look from the leader that sequence and timestamp are still its own."""

    message: MessageRef


@struct
class Unschedule:
    """Purge the job's pending schedule."""

    spec: JobSpec


@struct
class Notify:
    """Push the cancel request to the owner's node; a hint, the record is what counts."""

    token: Token
    reason: str


@struct
class Abandon:
    """The lease is lost: stop the code, settle nothing, write nothing."""


Effect: TypeAlias = (
    Save
    | WriteDeadLetter
    | TellParent
    | Ack
    | Nak
    | Drop
    | Ask
    | Isolate
    | Admit
    | Park
    | Unpark
    | Rank
    | SendOn
    | TakeOff
    | Publish
    | Schedule
    | Replace
    | Remove
    | Unschedule
    | Notify
    | Abandon
)
