"""Why attempts and jobs end without a result, as values: the words that records, events and metrics share."""

from __future__ import annotations

import enum

import attrs

from turnout.core.struct import struct
from turnout.errors import InvalidValue


class FaultReason(enum.StrEnum):
    """Why a job is faulted: all that a faulted record's `reason` says."""

    failed = "failed"
    """Its code failed, and the retry policy allows no more attempts."""
    fatal = "fatal"
    """Its code raised `Fatal`."""
    timed_out = "timed_out"
    """Its last attempt took too long."""
    lost = "lost"
    """More nodes vanished while they ran it than `max_lost` forgives."""
    expired = "expired"
    """It was not finished within `expires_in`."""
    not_started = "not_started"
    """No attempt had begun within `start_within`."""
    invalid = "invalid"
    """Its message can't be read as a job."""
    invalid_payload = "invalid_payload"
    """Its payload does not fit the activity's parameters."""
    invalid_result = "invalid_result"
    """Its result can't be stored."""


class Stop(enum.StrEnum):
    """What the code of an attempt is asked to stop for."""

    cancelled = "cancelled"
    """Somebody asked for the end of the job."""
    node_stopping = "node_stopping"
    """The node is stopped in order; another one goes on."""
    timed_out = "timed_out"
    """The attempt has taken too long, or was silent for too long."""
    lease_lost = "lease_lost"
    """Another node owns the job by now."""


@struct
class StopReason:
    """Why the code of an attempt is asked to stop; `detail` is what the person who cancelled it said.

    >>> str(StopReason(Stop.cancelled, "too slow"))
    'cancelled: too slow'
    """

    stop: Stop
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.stop.value}: {self.detail}" if self.detail else self.stop.value


NODE_STOPPING = StopReason(Stop.node_stopping)
TIMED_OUT = StopReason(Stop.timed_out)
LEASE_LOST = StopReason(Stop.lease_lost)


def _utf8(value: str) -> str:
    """`value` with what UTF-8 can't carry written out: a file's name may hold half of a surrogate pair."""
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()


def one_line(value: str) -> str:
    """A text that somebody gave, as a record keeps it: bounded, so that the record can be stored."""
    return _utf8(value)[:1_000]


NO_REASON = "no reason was given"
"""What an error says where somebody has ended something and has not said why."""


def given_reason(reason: object) -> str:
    """Why somebody asks for an end, as it is kept. InvalidValue when it is no text."""
    if not isinstance(reason, str):
        raise InvalidValue(f"reason must be text, not {reason!r}")
    return one_line(reason)


def _message(value: str) -> str:
    return _utf8(value)[:4_000]


def _traceback(value: str) -> str:
    return _utf8(value)[-8_000:]


@attrs.frozen
class ErrorInfo:
    """An exception as a record keeps it: class name, message and traceback, bounded so that a record can be stored."""

    type: str = attrs.field(converter=one_line)
    message: str = attrs.field(converter=_message)
    traceback: str = attrs.field(default="", converter=_traceback)

    def __str__(self) -> str:
        """Its class and its message, as the last line of a traceback has them; its class alone where it has no message.

        >>> str(ErrorInfo("KeyError", "'a'")), str(ErrorInfo("TimeoutError", ""))
        ("KeyError: 'a'", 'TimeoutError')
        """
        return f"{self.type}: {self.message}" if self.message else self.type

    @property
    def shown(self) -> str:
        """The message; of an exception that was raised without one, its class."""
        return self.message or self.type

    @property
    def brief(self) -> ErrorInfo:
        """What is kept of it once another attempt has begun: a record lists many attempts."""
        return ErrorInfo(self.type, self.message[:500], self.traceback[-1_000:])

    @property
    def shortened(self) -> ErrorInfo:
        """What is kept of it where there is no room for more."""
        return ErrorInfo(self.type[:200], self.message[:500])


@struct
class Failure:
    """How the code of an attempt failed: all that decides whether it is tried again.

    `mro`: the qualified class names that the retry policy matches. `fault`: it is never tried again, and this is the
    reason of the fault. `retry_after`: the delay, in seconds, that the code itself asked for. `snoozed`: it did not
    fail, but has asked to begin again after that delay. `deferred`: nor has it failed, and the job will be
    completed from outside, within that many seconds if it says so.
    """

    error: ErrorInfo
    mro: tuple[str, ...] = ()
    fault: FaultReason | None = None
    retry_after: float | None = None
    timed_out: bool = False
    snoozed: bool = False
    deferred: bool = False
