"""What an exception that leaves a workflow's code means: its end by failure, or trouble that is ours to repair (W7)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

import attrs

from turnout.core.retry import mro_names, qualified
from turnout.core.workflows.standing import BrokenHistory
from turnout.core.workflows.values import Answer, Failure, Record
from turnout.errors import (
    DefinitionError,
    Fatal,
    JobCancelled,
    JobFaulted,
    NonDeterminism,
    UnreadableRecord,
    WorkflowCancelled,
    WorkflowEnded,
    WorkflowExists,
    WorkflowFaulted,
    WorkflowNotFound,
    WorkflowTerminated,
)
from turnout.flow.thread import HeldTooLong, LeftByExit
from turnout.store.payloads import ObjectGone
from turnout.worker.failure import Redact, error_info, redacted_error

MESSAGE_CHARS = 10_000
"""How much of the messages of a group is kept."""

_FAULTS = (
    JobFaulted,
    JobCancelled,
    WorkflowFaulted,
    WorkflowCancelled,
    WorkflowTerminated,
    WorkflowExists,
    WorkflowNotFound,
    WorkflowEnded,
    Fatal,
    TimeoutError,
    asyncio.CancelledError,
)


class CodeBroke(Exception):
    """The code raised what no workflow ends by: it is stuck until repaired code is deployed. The cause is the error."""


class LocalActivityMissing(DefinitionError):
    """A workflow calls a local activity that its worker was not given."""


NOT_LOADED = (CodeBroke, NonDeterminism, UnreadableRecord, ObjectGone, HeldTooLong, LeftByExit)
"""What a replay raises that time will not mend."""


def is_fault(error: BaseException, fail_on: Collection[str]) -> bool:
    """Whether the workflow ends by this; everything else leaves it stuck. A group does when all that it holds would."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_fault(each, fail_on) for each in error.exceptions)
    if isinstance(error, _FAULTS):
        return True
    return any(qualified(cls) in fail_on for cls in type(error).__mro__)


def is_cancel(error: BaseException) -> bool:
    """Whether this is how a cancel that was asked for ends the code: its own, or that of an activity it waited for."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_cancel(each) for each in error.exceptions)
    return isinstance(error, asyncio.CancelledError | JobCancelled)


def failure_of(error: BaseException) -> Failure:
    """The error as a record keeps it. The message of a group holds those of all that are in it."""
    info = error_info(error)
    if isinstance(error, BaseExceptionGroup):
        info = attrs.evolve(info, message=f"{error.message}: {'; '.join(_messages(error))}"[:MESSAGE_CHARS])
    return Failure(info, mro_names(error))


def cause_of(error: BaseException) -> BaseException:
    """What a workflow is stuck by: the error itself, or what the code raised."""
    return error.__cause__ if isinstance(error, CodeBroke) and error.__cause__ is not None else error


def trouble_of(error: BaseException) -> Failure:
    """Why a workflow is stuck, as a record keeps it: the error, and one of the reasons that are listed in the docs."""
    cause = cause_of(error)
    reason = next((reason for kind, reason in _REASONS if isinstance(cause, kind)), "code_raised")
    return Failure(error_info(cause), (), reason)


def redacted_record(record: Record, redact: Redact | None) -> Record:
    """The record with what `redact` leaves of the errors of this workflow's code: of its end, and of its answers."""
    if redact is None or (record.failure is None and not record.answers and record.start is None):
        return record
    edit = redact

    def failure(given: Failure | None) -> Failure | None:
        return None if given is None else attrs.evolve(given, error=redacted_error(given.error, edit))

    def answers(given: tuple[Answer, ...]) -> tuple[Answer, ...]:
        return tuple(
            each if each.error is None else attrs.evolve(each, error=redacted_error(each.error, edit)) for each in given
        )

    start = record.start
    if start is not None:  # the run that a retry begins knows how the one before has failed
        start = attrs.evolve(start, failure=failure(start.failure), answers=answers(start.answers))
    return attrs.evolve(record, failure=failure(record.failure), answers=answers(record.answers), start=start)


def _messages(group: BaseExceptionGroup[BaseException]) -> Iterator[str]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _messages(each)
        else:
            yield error_info(each).shown


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (NonDeterminism, "non_determinism"),
    (HeldTooLong, "held_too_long"),
    (LocalActivityMissing, "activity_missing"),
    (BrokenHistory, "unreadable_history"),
    (UnreadableRecord, "unreadable_history"),
    (ObjectGone, "unreadable_history"),
)
