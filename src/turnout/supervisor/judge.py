"""What is the matter with a message that was handed to somebody and is still there. Pure.

Instants are unix seconds by the server's clock.
"""

from __future__ import annotations

import enum

import attrs

from turnout.core.record import JobState, MessageRef
from turnout.wire.brief import Brief

NO_RECORD_MAX_LOST = 3


class Finding(enum.Enum):
    """What somebody has to do about a message."""

    nothing = "nothing"
    """It waits for its time, or for those who deal with it now."""
    owned = "owned"
    """An attempt runs: its owner has to live."""
    swallowed = "swallowed"
    """Whoever was handed it should have begun by now: it is given back."""
    stuck = "stuck"
    """It does not come back by itself any more (P7)."""
    expired = "expired"
    """Its deadline has passed (P12)."""
    leftover = "leftover"
    """Its job has ended, or lives another life."""


@attrs.define
class Handed:
    """A message that was handed to somebody, as the supervisor remembers it.

    `since`: at the latest then it was. `expires_at`: as the message tells, infinite if it doesn't. `look_at`: when to
    look again. `given_back` is how often it was given back, and `deliveries` how much its consumer had handed over by
    the last time. `urgent`: it was a dead node's, whose open pulls may swallow it again. `after`: the life that it says
    it follows. `line`: the name of the consumer that has handed it over.
    """

    activity: str
    id: str
    message: MessageRef
    generation: int
    expires_at: float
    since: float
    look_at: float = 0.0
    after: str = ""
    given_back: int = 0
    deliveries: int = -1
    urgent: bool = False
    line: str = attrs.field(default=attrs.Factory(lambda handed: handed.activity, takes_self=True))


@attrs.frozen(kw_only=True)
class Pace:
    """How long to wait, in seconds: `patience` for the next attempt of what was handed to somebody; `settling` for the
    end of what has ended; `leases` (a number of them) until what nobody takes is stuck; `relook` between two looks at
    what runs."""

    patience: float
    settling: float
    leases: float
    relook: float


def judge(handed: Handed, record: Brief | None, ack_wait_s: float, now: float, pace: Pace) -> tuple[Finding, float]:
    """What is the matter with the message whose job has this record, and when to look at it again."""
    if record is None or (handed.generation > record.generation and handed.after == record.life):
        if now >= handed.expires_at:
            return Finding.expired, now
        return _waiting(handed, handed.since, ack_wait_s, now, pace)
    if handed.generation != record.generation:
        return _after(Finding.leftover, handed.since + pace.settling, now)
    if record.state.final:
        return _after(Finding.leftover, record.finished_at + pace.settling, now)
    if record.outside:
        return _after(Finding.expired, record.expires_at, now)
    if record.state is JobState.running:
        return Finding.owned, now + pace.relook
    if now >= record.expires_at:
        return Finding.expired, now
    if now < record.due_at:
        return Finding.nothing, min(record.due_at + pace.patience, record.expires_at)
    since = max(handed.since, record.due_at, min(record.waiting_since, now))
    finding, again_at = _waiting(handed, since, max(ack_wait_s, record.lease_s), now, pace)
    return finding, min(again_at, record.expires_at)


def _waiting(handed: Handed, since: float, lease_s: float, now: float, pace: Pace) -> tuple[Finding, float]:
    """Nobody has begun what may be begun since that instant."""
    if now - since > pace.leases * lease_s:
        return Finding.stuck, now
    return _after(Finding.swallowed, since + pace.patience, now)


def _after(finding: Finding, at: float, now: float) -> tuple[Finding, float]:
    return (finding, now) if now >= at else (Finding.nothing, at)
