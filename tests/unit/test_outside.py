"""Jobs that are completed from outside (P14): what is said there, silence, and what comes between."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from tests.support.decisions import (
    ERROR,
    MESSAGE,
    NOW,
    completed,
    delivery,
    failed,
    kinds,
    received,
    running,
    saved,
    token_of,
)
from turnout.core.effects import Ack, Nak, Remove, Replace, Save, Unschedule, WriteDeadLetter
from turnout.core.ends import OUTSIDE_LOOK_S
from turnout.core.events import Aborted, Answered, CancelRequested, Deferred, Expired, KeptAlive, Lost, Snoozed, Stuck
from turnout.core.failure import Stop, StopReason
from turnout.core.lifecycle import decide
from turnout.core.record import Answer, JobRecord, JobState, Outcome, Outside, Progress
from turnout.core.spec import Body, SubmitOptions

DONE = Answer(result=Body("42"))
WRONG = Answer(error=ERROR)


def deferral(record: JobRecord, timeout_s: float | None = 60.0) -> Deferred:
    return Deferred(token=token_of(record), now=NOW, timeout_s=timeout_s)


def left_to_others(timeout_s: float | None = 60.0, **changes: Any) -> JobRecord:
    record = running(**changes)
    return saved(decide(record, deferral(record, timeout_s)))


def answered(answer: Answer, **changes: Any) -> Answered:
    return attrs.evolve(Answered(answer=answer, now=NOW + 1), **changes)


def test_the_attempt_goes_on_without_an_owner() -> None:
    """It runs, nobody owns it, and its message is given back for as long as somebody may be silent."""
    record = running()
    effects = decide(record, deferral(record))
    left = saved(effects)
    assert (left.state, left.token, left.due_at) == (
        JobState.running,
        attrs.evolve(token_of(record), node=""),
        NOW + 60,
    )
    assert left.outside == Outside(60.0)
    assert effects[-1] == Nak(MESSAGE, 60.0)
    assert decide(left, Lost(token=token_of(record), now=NOW)) == ()
    assert decide(left, Lost(token=token_of(left), now=NOW)) == ()


def test_a_deferral_that_was_stored_after_all_is_settled() -> None:
    """When the answer to that write was lost, whoever left the job to others gives its message back."""
    record = running()
    assert decide(saved(decide(record, deferral(record))), deferral(record)) == (Nak(MESSAGE, 60.0),)


def test_nobody_waits_for_an_answer_where_the_code_is_at_work() -> None:
    """Whatever deadline the job has: that is the attempt's own."""
    assert running().answer_due == math.inf
    record = left_to_others(None, options=SubmitOptions(expires_in=50.0), submitted_at=NOW)
    assert (left_to_others().answer_due, left_to_others(None).answer_due, record.answer_due) == (
        NOW + 60,
        math.inf,
        NOW + 50,
    )


def test_its_message_comes_back_now_and_then() -> None:
    """It is given back until an answer is due, an hour at a time where none is."""
    assert decide(left_to_others(), received(nonce="next", now=NOW + 20)) == (Nak(MESSAGE, 40.0),)
    assert decide(left_to_others(None), received(nonce="next", now=NOW + 20)) == (Nak(MESSAGE, OUTSIDE_LOOK_S),)


def test_a_result_from_outside_ends_the_job() -> None:
    """Whoever says so has no delivery: the message is removed before the record may expire."""
    effects = decide(left_to_others(), answered(DONE))
    assert (saved(effects).state, saved(effects).result) == (JobState.completed, Body("42"))
    assert saved(effects).outside is None
    assert kinds(effects) == [Save, Remove, Save]


def test_a_failure_from_outside_is_retried_as_any_other() -> None:
    """By the policy, and by a new message; a fatal one faults the job, and one that says nothing is told in words."""
    effects = decide(left_to_others(), answered(WRONG))
    assert (saved(effects).state, saved(effects).due_at) == (JobState.retrying, NOW + 2)
    assert kinds(effects) == [Save, Replace]
    (_, replace) = decide(left_to_others(), answered(WRONG, delivery=delivery()))
    assert isinstance(replace, Replace)
    assert replace.expected_seq == MESSAGE.seq
    fatal = saved(decide(left_to_others(), answered(attrs.evolve(WRONG, fatal=True))))
    assert (fatal.state, fatal.error) == (JobState.faulted, ERROR)
    silent = saved(decide(left_to_others(), answered(Answer(fatal=True))))
    assert silent.error is not None
    assert silent.error.message == "it failed"


@pytest.mark.parametrize("attempt", [None, 1])
def test_an_answer_that_comes_before_the_code_is_done_is_kept(attempt: int | None) -> None:
    """The first one counts, as soon as the code leaves the rest to others; if that returns or fails, it does not."""
    record = running()
    early = saved(decide(record, answered(attrs.evolve(DONE, attempt=attempt))))
    assert (early.state, early.token) == (JobState.running, record.token)
    assert decide(early, answered(WRONG)) == ()
    assert saved(decide(early, deferral(record))).result == Body("42")
    assert saved(decide(early, deferral(record))).answer is None
    unused = saved(decide(early, completed(record)))
    assert (unused.result, unused.answer) == (Body("1"), early.answer), "that it did not count is told"


@pytest.mark.parametrize("attempt", [None, 1])
def test_a_failure_of_the_code_leaves_what_was_said(attempt: int | None) -> None:
    """It counts for the next attempt unless it was meant for this one; then another one may be said."""
    early = saved(decide(running(), answered(attrs.evolve(DONE, attempt=attempt))))
    waiting = saved(decide(early, failed(early)))
    assert (waiting.state, waiting.answer) == (JobState.retrying, early.answer)
    again = saved(decide(waiting, received(nonce="next", now=NOW + 100)))
    assert again.attempt == 2
    after = saved(decide(again, deferral(again)))
    if attempt is None:
        assert (after.state, after.result) == (JobState.completed, Body("42"))
        assert decide(again, answered(WRONG)) == ()
    else:
        assert after.outside is not None
        assert saved(decide(again, answered(WRONG))).answer == WRONG
        assert saved(decide(after, answered(DONE))).answer is None


def test_an_answer_for_another_attempt_is_none() -> None:
    """Nor is one for a job that does not run, or is not there."""
    stray = answered(attrs.evolve(DONE, attempt=2))
    assert decide(running(), stray) == ()
    assert decide(left_to_others(), stray) == ()
    assert decide(None, answered(DONE)) == ()
    assert decide(saved(decide(left_to_others(), answered(DONE))), answered(WRONG)) == ()


def test_a_word_from_outside_begins_the_wait_anew() -> None:
    """With its progress; where no wait is set there is nothing to begin anew, and nothing is written."""
    alive = saved(decide(left_to_others(), KeptAlive(now=NOW + 30, progress=Progress(3))))
    assert (alive.due_at, alive.progress) == (NOW + 90, Progress(3))
    endless = left_to_others(None)
    assert saved(decide(endless, KeptAlive(now=NOW + 30, attempt=1, progress=Progress(3)))).due_at is None
    assert decide(endless, KeptAlive(now=NOW + 30)) == ()
    assert decide(left_to_others(), KeptAlive(now=NOW + 30, attempt=2)) == ()
    assert decide(running(), KeptAlive(now=NOW + 30)) == ()
    assert decide(None, KeptAlive(now=NOW + 30)) == ()


class TestSilence:
    def test_whoever_is_handed_the_message_finds_it(self) -> None:
        """The attempt has timed out: recorded, and the message given back for the retry, or settled with the last."""
        effects = decide(left_to_others(), received(nonce="next", now=NOW + 61))
        assert kinds(effects) == [Save, Nak]
        assert (saved(effects).state, saved(effects).attempts[-1].outcome) == (JobState.retrying, Outcome.timed_out)
        assert effects[-1] == Nak(MESSAGE, 1.0)
        effects = decide(left_to_others(failures=2), received(nonce="next", now=NOW + 61))
        assert kinds(effects) == [Save, WriteDeadLetter, Ack]
        assert (saved(effects).state, saved(effects).reason) == (JobState.faulted, "timed_out")

    def test_so_does_the_supervisor(self) -> None:
        """It has no delivery: the message is requeued. Before its time nothing happens."""
        effects = decide(left_to_others(), Expired(now=NOW + 61))
        assert kinds(effects) == [Save, Replace]
        error = saved(effects).attempts[-1].error
        assert error is not None
        assert error.message == "nobody completed it, or was heard of, for 60 s"
        assert decide(left_to_others(), Expired(now=NOW + 59)) == ()

    def test_the_deadline_of_the_job_counts_as_well(self) -> None:
        """The job ends with it, and says so: also where somebody had to be heard of, a little later."""
        for timeout_s in (None, 60.0):
            self.ends_with_its_deadline(timeout_s)

    def ends_with_its_deadline(self, timeout_s: float | None) -> None:
        record = left_to_others(timeout_s, options=SubmitOptions(expires_in=50.0), submitted_at=NOW)
        after = saved(decide(record, Expired(now=NOW + 51)))
        assert (after.state, after.reason) == (JobState.faulted, "expired")
        assert after.error is not None
        assert after.error.message == "nobody completed it before the job expired"

    def test_a_job_whose_message_is_gone_is_requeued(self) -> None:
        """Nobody else would find out that its time has come."""
        assert [e.expected_seq for e in decide(left_to_others(), Stuck(now=NOW)) if isinstance(e, Replace)] == [0]
        (replace,) = decide(left_to_others(), Stuck(now=NOW, delivery=delivery()))
        assert isinstance(replace, Replace)
        assert replace.expected_seq == MESSAGE.seq


class TestCancel:
    def test_nobody_has_to_be_asked(self) -> None:
        """A job that is left to others ends at once, with its message and whatever its timer was."""
        effects = decide(left_to_others(), CancelRequested(reason="enough", now=NOW))
        after = saved(effects)
        assert (after.state, after.reason, after.attempts[-1].outcome) == (
            JobState.cancelled,
            "enough",
            Outcome.cancelled,
        )
        assert kinds(effects) == [Save, Remove, Save]
        assert Unschedule not in kinds(effects)

    def test_what_was_asked_of_the_code_counts_when_it_leaves_the_rest_to_others(self) -> None:
        """So it does when it snoozes, or is stopped with its node."""
        asked = running(cancel_request="enough")
        token = token_of(asked)
        for end in (
            deferral(asked),
            Snoozed(token=token, now=NOW, delay_s=5.0),
            Aborted(token=token, now=NOW),
        ):
            after = saved(decide(asked, end))
            assert (after.state, after.reason) == (JobState.cancelled, "enough"), end

    def test_so_it_does_when_the_code_fails(self) -> None:
        """The error is told, and the job is cancelled."""
        asked = running(cancel_request="enough")
        after = saved(decide(asked, failed(asked)))
        assert (after.state, after.error) == (JobState.cancelled, ERROR)


def test_a_snooze_beyond_the_deadline_is_the_end() -> None:
    """The job would be too late: it expires now."""
    record = running(options=SubmitOptions(expires_in=30.0), submitted_at=NOW)
    after = saved(decide(record, Snoozed(token=token_of(record), now=NOW, delay_s=31.0)))
    assert (after.state, after.reason) == (JobState.faulted, "expired")


def test_why_code_is_asked_to_stop_is_told_in_words() -> None:
    """With what the person said who cancelled it, if anything."""
    assert str(StopReason(Stop.cancelled, "too slow")) == "cancelled: too slow"
    assert str(StopReason(Stop.timed_out)) == "timed_out"
