"""What somebody has to know of a record who looks after very many of them: a sixth of the time that all of it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from turnout import fastjson
from turnout.core.record import DEFAULT_POLICY, JobState, MessageRef, Token, life_of
from turnout.core.spec import DEFAULT_PRIORITY, LANES
from turnout.wire.converter import Garbled, check_version
from turnout.wire.records import load_token


class Brief(NamedTuple):
    """A job's record in brief. Instants are unix seconds by the server's clock; what is not said is 0 or infinite.

    `waiting_since`: when its last attempt ended. `message`: where its message lay when the record was written.
    `waits_for`: the key of the limit that a parked job waits for, "" for all others. `begun`: how many
    attempts have begun, with those that do not count. `requires`: what a node must have.
    `outside`: it runs, and will be completed from outside; `expires_at` is then when somebody must have been heard of.
    """

    activity: str
    id: str
    state: JobState
    generation: int
    attempt: int
    token: Token | None
    message: MessageRef | None
    submitted_at: float
    due_at: float
    expires_at: float
    finished_at: float
    waiting_since: float
    lease_s: float
    max_lost: int
    waits_for: str
    begun: int
    outside: bool
    priority: int
    requires: Mapping[str, str]

    @property
    def life(self) -> str:
        """As of the record."""
        return life_of(self.token, self.message)


def load_brief(data: bytes) -> Brief:
    """The record that `dump_record` wrote, in brief. UnreadableRecord, `Garbled`."""
    try:
        raw = fastjson.loads(data)
        check_version(raw["v"], "a JobRecord")
        return _brief(raw)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise Garbled(f"not a JobRecord of turnout: {data[:80]!r}") from error


def _brief(raw: dict[str, Any]) -> Brief:
    rules, attempts = raw.get("rules") or {}, raw.get("attempts") or [{}]
    options = raw.get("options") or {}
    limits = [options.get("expires_in"), None if raw.get("started_at") else options.get("start_within")]
    submitted_at, outside = _instant(raw.get("submitted_at"), 0.0), "outside" in raw
    deadlines = [submitted_at + float(limit) for limit in limits if limit is not None]
    if outside and raw.get("due_at") is not None:
        deadlines.append(_instant(raw["due_at"], 0.0))
    message = raw.get("message")
    return Brief(
        activity=str(raw["activity"]),
        id=str(raw["id"]),
        state=JobState(raw["state"]),
        generation=int(raw.get("generation", 1)),
        attempt=int(raw.get("attempt", 0)),
        token=load_token(raw["token"]) if raw.get("token") else None,
        message=_message(message) if message else None,
        submitted_at=submitted_at,
        due_at=_instant(raw.get("due_at"), 0.0),
        expires_at=min(deadlines, default=math.inf),
        finished_at=_instant(raw.get("finished_at"), 0.0),
        waiting_since=_instant(attempts[-1].get("ended_at"), 0.0),
        lease_s=float(rules.get("lease", DEFAULT_POLICY.lease)),
        max_lost=int(rules.get("max_lost", DEFAULT_POLICY.max_lost)),
        begun=int(raw.get("attempt", 0)) + int(raw.get("snoozes", 0)),
        waits_for=str((raw.get("waits_for") or {}).get("name", "")),
        outside=outside,
        priority=_priority(options),
        requires=dict(options.get("requires") or {}),
    )


def _message(raw: dict[str, Any]) -> MessageRef:
    return MessageRef(int(raw["seq"]), int(raw["time_ns"]), bare=bool(raw.get("bare")), priority=_priority(raw))


def _priority(raw: dict[str, Any]) -> int:
    priority = raw.get("priority")
    return priority if isinstance(priority, int) and priority in LANES else DEFAULT_PRIORITY


def _instant(value: Any, otherwise: float) -> float:
    instant = otherwise if value is None else float(value)
    if math.isnan(instant):
        raise ValueError("not an instant")
    return instant
