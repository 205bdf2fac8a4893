"""How long an attempt waited, from what the write of its start changed in the record."""

from __future__ import annotations

from typing import Any

import attrs

from tests.support.values import changed, delivery_of, job_record
from turnout.core.effects import Save
from turnout.core.events import Received, Verdict
from turnout.core.lifecycle import decide
from turnout.core.record import AttemptRecord, JobRecord, JobState, MessageRef, Outcome, Policy, Token, queue_wait

MESSAGE = MessageRef(seq=1, time_ns=1_000_000_000_000, ack="ack")
QUEUED = job_record("j", "act", JobState.queued, message=MESSAGE)
FAILED = AttemptRecord(1, 1, "a", 1_000.5, outcome=Outcome.faulted, ended_at=1_010.0)


def started(before: JobRecord | None, now: float, **changes: Any) -> JobRecord:
    """The record of an attempt that starts at `now`, as the decision writes it."""
    delivery = changed(delivery_of("j", "act", MESSAGE), **changes)
    verdict, asked = (Verdict.gone, before.token) if before is not None else (None, None)
    event = Received(
        delivery=delivery, node="b", nonce="n", now=now, rules=Policy(), verdict=verdict, asked=asked
    )  # fmt: skip
    [save] = decide(before, event)
    assert isinstance(save, Save)
    return save.record


def test_a_first_attempt_waits_from_the_time_of_its_message() -> None:
    """Without a record of before, the message is when the job was there."""
    assert queue_wait(None, started(None, 1_002.5)) == 2.5


def test_a_delay_is_no_waiting() -> None:
    """A scheduled job and one that waits for its retry are due when their instant comes, not before."""
    scheduled = attrs.evolve(QUEUED, state=JobState.scheduled, due_at=1_003.0)
    assert queue_wait(scheduled, started(scheduled, 1_003.25, scheduled=True)) == 0.25
    retrying = attrs.evolve(QUEUED, state=JobState.retrying, due_at=1_020.0, attempt=1, attempts=(FAILED,))
    assert queue_wait(retrying, started(retrying, 1_021.0)) == 1.0


def test_the_time_of_the_attempt_before_is_no_waiting() -> None:
    """An attempt is due when the one before it has ended, by itself or because it was found lost."""
    aborted = attrs.evolve(QUEUED, attempt=1, attempts=(attrs.evolve(FAILED, outcome=Outcome.aborted),))
    assert queue_wait(aborted, started(aborted, 1_010.5)) == 0.5
    token = Token("a", 1, 1, "m")
    running = attrs.evolve(
        QUEUED, state=JobState.running, token=token, attempt=1, attempts=(AttemptRecord(1, 1, "a", 1_000.5),)
    )
    assert queue_wait(running, started(running, 1_030.0)) == 0.0


def test_what_a_limit_has_let_in_has_waited_since_it_was_submitted() -> None:
    """It has come by another message than the one that was submitted, and its wait is all of it."""
    later = attrs.evolve(MESSAGE, seq=2, time_ns=1_007_000_000_000)
    queued = attrs.evolve(QUEUED, spec=attrs.evolve(QUEUED.spec, submitted_at=1_000.0), message=later)
    assert queue_wait(queued, started(queued, 1_007.5)) == 7.5


def test_a_job_that_is_run_again_waits_from_then_on() -> None:
    """Also where no attempt of the life before it has begun."""
    second = {"submitted_at": 10.0, "generation": 2}
    again = changed(QUEUED, **second)
    assert queue_wait(again, started(again, 1_002.0, **second)) == 2.0


def test_clocks_that_disagree_do_not_make_it_negative() -> None:
    """A start that seems to lie before its message waited for nothing."""
    assert queue_wait(None, started(None, 999.0)) == 0.0


def test_what_never_started_has_waited_for_nothing() -> None:
    """A record without an attempt has no start to measure to."""
    assert queue_wait(None, QUEUED) == 0.0
