"""What the writes of a job's record count as, each made by the decision that writes it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tests.support.values import changed, delivery_of
from turnout.core.changes import Change, changes
from turnout.core.effects import Isolate, Save
from turnout.core.events import (
    Aborted,
    Cancelled,
    CancelRequested,
    Completed,
    Event,
    Expired,
    Failed,
    Lost,
    Received,
    Reported,
    RetryRequested,
    Verdict,
)
from turnout.core.failure import ErrorInfo, Failure, FaultReason
from turnout.core.lifecycle import decide
from turnout.core.record import JobRecord, MessageRef, Outcome, Policy, Progress, Token
from turnout.core.retry import RetryPolicy
from turnout.core.spec import Body, SubmitOptions

MESSAGE = MessageRef(seq=1, time_ns=1_000_000_000_000, ack="ack")
DELIVERY = delivery_of("j", "act", MESSAGE)
RULES = Policy(RetryPolicy(max_attempts=2, delay=1.0), max_lost=1)
ERROR = ErrorInfo("ValueError", "no")


class Job:
    """A job that events happen to; `counted` is what its writes have counted as."""

    def __init__(self, **changes: Any) -> None:
        self.record: JobRecord | None = None
        self.delivery = changed(DELIVERY, **changes)
        self.now = 1_000.0
        self.counted: list[Change] = []
        self.ended: list[Outcome] = []

    def happens(self, event: Event) -> None:
        for effect in decide(self.record, event):
            if isinstance(effect, Save):
                found = changes(self.record, effect.record)
                self.counted += found.all
                self.ended += [found.ended.outcome] if found.ended is not None else []
                self.record = effect.record

    def starts(self, verdict: Verdict | None = None) -> None:
        self.now += 100
        nonce = f"n{self.now}"
        asked = self.record.token if self.record is not None and verdict is not None else None
        event = Received(
            delivery=self.delivery, node="a", nonce=nonce, now=self.now, rules=RULES, verdict=verdict, asked=asked
        )
        alone = Isolate() in decide(self.record, event)
        self.happens(attrs.evolve(event, alone=alone))

    @property
    def token(self) -> Token:
        assert self.record is not None
        assert self.record.token is not None
        return self.record.token

    def fails(self, **changes: Any) -> None:
        self.now += 1
        self.happens(
            Failed(token=self.token, now=self.now, failure=Failure(ERROR, ("builtins.Exception",), **changes), u=0.5)
        )


def test_a_job_that_completes() -> None:
    """One start, one end; progress and a result that is written again count nothing."""
    job = Job()
    job.starts()
    job.happens(Reported(token=job.token, progress=Progress(1)))
    event = Completed(token=job.token, now=job.now + 1, result=Body("1"))
    job.happens(event)
    job.happens(event)
    assert (job.counted, job.ended) == ([Change.started, Change.completed], [Outcome.completed])


def test_a_failure_that_is_retried_is_told_from_the_last_one() -> None:
    """The failure that another attempt follows is a retry; the one that ends the job is its fault alone."""
    job = Job()
    job.starts()
    job.fails()
    job.starts()
    job.fails(timed_out=True)
    assert job.counted == [
        *(Change.started, Change.failed, Change.retried),
        *(Change.started, Change.failed, Change.faulted),
    ]
    assert job.ended == [Outcome.faulted, Outcome.timed_out]
    assert job.record is not None
    assert job.record.reason in FaultReason.__members__


@pytest.mark.parametrize("by_the_next_worker", [True, False])
def test_losses_and_the_fault_that_they_become(by_the_next_worker: bool) -> None:
    """A loss counts once, whoever finds it: the supervisor, or a worker whose start closes the lost attempt as well."""
    job = Job()
    job.starts()
    for _ in range(2):
        if by_the_next_worker:
            job.starts(Verdict.gone)
        else:
            job.happens(Lost(token=job.token, now=job.now))
            job.starts()
    assert job.counted == [Change.started, Change.lost, Change.started, Change.lost, Change.faulted]
    assert job.ended == [Outcome.lost, Outcome.lost]


def test_an_abort_and_a_cancel() -> None:
    """An attempt whose node stops is aborted, not retried; a cancel ends the job, its request alone counts nothing."""
    job = Job()
    job.starts()
    job.happens(Aborted(token=job.token, now=job.now))
    job.starts()
    job.happens(CancelRequested(reason="enough", now=job.now))
    job.happens(Cancelled(token=job.token, now=job.now))
    assert job.counted == [Change.started, Change.aborted, Change.started, Change.cancelled]
    assert job.ended == [Outcome.aborted, Outcome.cancelled]


def test_a_failure_after_a_cancel_request_is_no_retry() -> None:
    """What fails while it cleans up after a cancel has been cancelled."""
    job = Job()
    job.starts()
    job.happens(CancelRequested(reason="enough", now=job.now))
    job.fails()
    assert job.counted == [Change.started, Change.failed, Change.cancelled]


def test_jobs_that_never_start() -> None:
    """A payload that can't be read, a deadline that has passed and a cancel in time end a job without an attempt."""
    invalid, expired, cancelled = Job(problem=ERROR), Job(options=SubmitOptions(expires_in=1.0)), Job()
    invalid.starts()
    expired.happens(Expired(now=2_000.0, delivery=expired.delivery))
    cancelled.happens(CancelRequested(reason="", now=1.0, delivery=cancelled.delivery))
    assert invalid.counted + expired.counted + cancelled.counted == [Change.faulted, Change.faulted, Change.cancelled]
    assert not invalid.ended + expired.ended + cancelled.ended


def test_another_life_counts_anew() -> None:
    """After a retry by hand the same job starts, fails and faults again, with budgets that begin at zero."""
    job = Job()
    job.starts()
    job.fails(fault=FaultReason.fatal)
    job.counted.clear()
    assert job.record is not None
    job.delivery = changed(job.delivery, generation=2, after=job.record.life)
    job.starts()
    job.fails()
    assert job.counted == [Change.started, Change.failed, Change.retried]


def test_a_record_that_is_put_back_counts_nothing() -> None:
    """A retry puts the record of a dead letter back whose record is forgotten: all of it was counted in its time."""
    job = Job()
    job.starts()
    job.fails(fault=FaultReason.fatal)
    letter, job.record = job.record, None
    job.counted.clear()
    job.happens(RetryRequested(now=job.now, dead_letter=letter))
    assert job.record == letter
    assert job.counted == []
