"""Every error turnout raises, one class per remedy.

TurnoutError
├── InvalidArguments (TypeError)     the arguments do not fit the activity's signature
├── InvalidValue (ValueError)        a bad option, id, name or payload; the message names it
│   └── PayloadTooLarge              larger than any payload may be
├── DefinitionError (TypeError)      an activity or worker that cannot be: fix the code
├── NotInJob                         current_job() outside of an attempt
├── JobExists                        the id is taken; `.handle` is the job that has it
├── JobNotFound                      nobody knows this id (or its record has expired)
├── AmbiguousJob                     the id is known under several activities: name one
├── InvalidState                     the job's state does not allow this (delete a running job ...)
├── JobFaulted, JobCancelled         how a job ended, raised by `result()`; `.info` tells all
├── ServerUnavailable                no server answers at this address, or it went away
├── ServerUnsuitable                 the server is too old, or JetStream is off
├── PermissionDenied                 the credentials do not allow what is needed
├── StorageRefused                   the stream is full, or the disk is
├── OutcomeUnknown                   the server did not say whether it stored the message
├── UnreadableRecord                 a newer turnout has written it: upgrade this one
├── Fatal                            raised by user code: never retry this
└── RetryLater                       raised by user code: retry after this delay
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any


class TurnoutError(Exception):
    """The base of every error of this package."""


class InvalidArguments(TurnoutError, TypeError):
    """The arguments do not fit the activity's signature. Nothing was stored."""


class InvalidValue(TurnoutError, ValueError):
    """An option, id, name or payload that cannot be used; the message names it. Nothing was stored."""


class PayloadTooLarge(InvalidValue):
    """A payload, result or checkpoint over the documented limit."""


class DefinitionError(TurnoutError, TypeError):
    """An activity or a worker that cannot be built as written."""


class NotInJob(TurnoutError, RuntimeError):
    """`current_job()` was called outside of a running attempt."""


class JobExists(TurnoutError):
    """The id is taken. `handle` is the job that has it; submit with `if_exists="join"` to get it instead."""

    def __init__(self, message: str, handle: Any = None) -> None:
        super().__init__(message)
        self.handle = handle


class JobNotFound(TurnoutError, LookupError):
    """No job of this id: never submitted, in another namespace, or its record has expired."""


class AmbiguousJob(TurnoutError, LookupError):
    """More than one activity has a job of this id; ask with `client.job(id, activity)`."""


class InvalidState(TurnoutError):
    """The job's state does not allow this operation; the message says which states do."""


class JobFaulted(TurnoutError):
    """The job ended by failure. `info` is its `JobInfo`; the text contains the error's message."""

    def __init__(self, message: str, info: Any = None) -> None:
        super().__init__(message)
        self.info = info


class JobCancelled(TurnoutError):
    """The job was cancelled. `info` is its `JobInfo`; the text contains the reason."""

    def __init__(self, message: str, info: Any = None) -> None:
        super().__init__(message)
        self.info = info


class ServerUnavailable(TurnoutError, ConnectionError):
    """No NATS server answers: check the address, and that the server runs."""


class ServerUnsuitable(TurnoutError):
    """The NATS server cannot carry turnout: it is too old, or JetStream is off."""


class PermissionDenied(TurnoutError):
    """The server refuses these credentials, or does not allow them a subject that turnout needs."""


class StorageRefused(TurnoutError):
    """JetStream refused to store the message: a limit of the stream or the account, or a full disk."""


class OutcomeUnknown(TurnoutError, TimeoutError):
    """The server did not answer in time: the message may or may not be stored. Submitting the same id again is safe."""


class UnreadableRecord(TurnoutError):
    """A record, letter or entry that no turnout up to this one has written; it is left alone. Upgrade this one."""


class Fatal(TurnoutError):
    """Raise in an activity: the failure is final, whatever the retry policy says.

    >>> raise Fatal("this file is not a video")  # doctest: +SKIP
    """


class RetryLater(TurnoutError):
    """Raise in an activity: a failure whose next attempt waits this long (seconds or `timedelta`).

    >>> raise RetryLater(60, "rate limited")  # doctest: +SKIP
    """

    def __init__(self, delay: float | timedelta, message: str = "") -> None:
        super().__init__(message or f"retry in {delay}")
        self.delay_s = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        if not 0 <= self.delay_s < 10 * 365 * 86400:
            raise InvalidValue(f"RetryLater: delay must be 0 or more seconds, not {delay!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.delay_s, str(self)))
