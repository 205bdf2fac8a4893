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
├── ActivityNotFound                 no worker has declared an activity of this name
├── InvalidState                     the job's state does not allow this (delete a running job ...)
├── NotCompletable                   the job waits for no completion from outside: too late, too early, or done already
├── JobFaulted, JobCancelled         how a job ended, raised by `result()`; `.info` tells all
├── NotInWorkflow                    current_workflow() outside of a workflow
├── NotDurable                       what a workflow's code may not do; the message says what to do instead
├── NonDeterminism                   a replay went another way than was recorded
├── WorkflowExists                   the id is taken; `.handle` is the workflow that has it
├── WorkflowNotFound                 nobody knows this id (or its history is gone)
├── WorkflowEnded                    too late: it has ended
├── WorkflowFaulted, WorkflowCancelled, WorkflowTerminated   how it ended, raised by `result()`
├── QueryFailed, UpdateRejected, UpdateFailed                what a query or an update came to
├── ScheduleNotFound                 there is no schedule of this name
├── GroupExists                      the id is taken; `.handle` is the group that has it
├── GroupNotFound                    there is no group of this id (or its record has expired)
├── ServerUnavailable                no server answers at this address, or it went away
├── ServerUnsuitable                 the server is too old, or JetStream is off
├── PermissionDenied                 the credentials do not allow what is needed
├── StorageRefused                   the stream is full, or the disk is
├── OutcomeUnknown                   the server did not say whether it stored the message
├── UnreadableRecord                 a newer turnout has written it: upgrade this one
├── Fatal                            raised by user code: never retry this
├── RetryLater                       raised by user code: retry after this delay
└── Snooze                           raised by user code: there is nothing to do yet, ask again after this delay
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

IF_TAKEN = "if_exists='join' or 'replace'"
"""What a program may choose, beside another id, where one is taken; the command line says it in its own words."""


class TurnoutError(Exception):
    """The base of every error of this package."""


class _Taken(TurnoutError):
    """An id is taken: `handle` is what has it."""

    def __init__(self, message: str, handle: Any = None) -> None:
        super().__init__(message)
        self.handle = handle


class _Ended(TurnoutError):
    """What was waited for has ended without a result: `info` is what it is like then."""

    def __init__(self, message: str, info: Any = None) -> None:
        super().__init__(message)
        self.info = info


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


class JobExists(_Taken):
    """The id is taken. `handle` is the job that has it; submit with `if_exists="join"` to get it instead, or with
    `"replace"` to have it ended first."""


class JobNotFound(TurnoutError, LookupError):
    """No job of this id: never submitted, in another namespace, or its record has expired."""


class AmbiguousJob(TurnoutError, LookupError):
    """More than one activity has a job of this id; ask with `client.job(id, activity)`."""


class ActivityNotFound(TurnoutError, LookupError):
    """No worker of the namespace has declared an activity of this name; the message lists those that are known."""


class InvalidState(TurnoutError):
    """The job's state does not allow this operation; the message says which states do."""


class NotCompletable(TurnoutError):
    """A completion from outside came too late, or twice, or for another attempt; nothing has changed."""


class JobFaulted(_Ended):
    """The job ended by failure. `info` is its `JobInfo`; the text contains the error's message."""


class JobCancelled(_Ended):
    """The job was cancelled. `info` is its `JobInfo`; the text contains the reason."""


class NotInWorkflow(TurnoutError, RuntimeError):
    """`current_workflow()`, or something that only a workflow can do, was called outside of one."""


class NotDurable(TurnoutError, RuntimeError):
    """A workflow's code may not do this, since a replay could not do it again; the message says what to use instead."""


class NonDeterminism(TurnoutError):
    """A replay of the history went another way than was recorded: the code has changed, or depends on more than it.

    The message has both sides. Repair the code (`patched()` lets old runs go the old way), deploy it, and it goes on.
    """


class WorkflowExists(_Taken):
    """The id is taken. `handle` is the workflow that has it; start with `if_exists="join"` to get it instead."""


class WorkflowNotFound(TurnoutError, LookupError):
    """No workflow of this id: never started, in another namespace, or its history is gone."""


class WorkflowEnded(TurnoutError):
    """The workflow has ended: what was asked of it came too late, and nothing has changed."""


class WorkflowFaulted(_Ended):
    """The workflow ended by failure. `info` is its `WorkflowInfo`; the text contains the error's message."""


class WorkflowCancelled(_Ended):
    """The workflow was cancelled. `info` is its `WorkflowInfo`; the text contains the reason."""


class WorkflowTerminated(_Ended):
    """The workflow was terminated. `info` is its `WorkflowInfo`; the text contains the reason."""


class QueryFailed(TurnoutError):
    """A query could not be answered: no such query, no worker alive, or its handler raised."""


class UpdateRejected(TurnoutError):
    """The validator of an update has refused it; nothing has changed."""


class UpdateFailed(TurnoutError):
    """An update has failed: no such update, arguments that don't fit, or its handler raised."""


class ScheduleNotFound(TurnoutError, LookupError):
    """No schedule of this name: never added, deleted, or in another namespace."""


class GroupExists(_Taken):
    """The id is taken. `handle` is the group that has it."""


class GroupNotFound(TurnoutError, LookupError):
    """No group of this id: never submitted, in another namespace, or its record has expired."""


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
    """A record, dead letter or entry that no turnout up to this one has written; it is left alone. Upgrade this one."""


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
        self.delay_s = _delay_s("RetryLater: delay", delay)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.delay_s, str(self)))


class Snooze(TurnoutError):
    """Raise in an activity: there is nothing to do yet, begin again after this long (seconds or `timedelta`).

    That is no failure: it uses no budget, and the attempt isn't counted; the next one has its number. `info.snoozes`
    counts them, and while the job waits `info.reason` is the message.

    >>> raise Snooze(60, "the upload is not complete")  # doctest: +SKIP
    """

    def __init__(self, delay: float | timedelta, message: str = "") -> None:
        super().__init__(message or f"snoozed for {delay}")
        self.delay_s = _delay_s("Snooze: delay", delay)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.delay_s, str(self)))


def _delay_s(name: str, delay: float | timedelta) -> float:
    delay_s = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if isinstance(delay_s, bool) or not isinstance(delay_s, int | float):
        raise InvalidValue(f"{name} must be seconds or a timedelta, not {delay!r}")
    if not 0 <= delay_s < 10 * 365 * 86400:
        raise InvalidValue(f"{name} must be 0 or more seconds, not {delay!r}")
    return float(delay_s)


class CompleteLater(BaseException):
    """Raise in an activity: the code is done, and somebody outside will say how the job ends.

    That is `client.job(id).complete(value)` or `.fail(message)`, from wherever. `timeout` (seconds or `timedelta`): if
    nobody does within it the attempt has timed out, which is a failure like another. It derives from BaseException so
    that `except Exception` lets it pass.

    >>> raise CompleteLater(timeout=3600)  # doctest: +SKIP
    """

    def __init__(self, timeout: float | timedelta | None = None) -> None:
        super().__init__("the job is completed from outside")
        self.timeout_s = None if timeout is None else _delay_s("CompleteLater: timeout", timeout)
        if self.timeout_s == 0:
            raise InvalidValue("CompleteLater: timeout must be more than 0 seconds; None waits for as long as it takes")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.timeout_s,))
