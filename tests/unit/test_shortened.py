"""What a record holds of errors and attempts: bounded, and less where there is no room for it."""

from __future__ import annotations

import pytest

from tests.support.values import job_record
from turnout.core.failure import ErrorInfo, given_reason
from turnout.core.record import SHORTENED_ATTEMPTS_KEPT, AttemptRecord, JobState
from turnout.errors import InvalidValue

LONG = ErrorInfo("E" * 3_000, "m" * 9_000, "t" * 9_000)


def test_a_record_without_room_keeps_the_newest_attempts_and_the_first_words_of_errors() -> None:
    """Who it is, where it stands and what is to be done are as before."""
    attempts = tuple(
        AttemptRecord(number, 1, "n", 0.0, error=LONG if number % 2 else None)
        for number in range(1, SHORTENED_ATTEMPTS_KEPT + 6)
    )
    record = job_record("j", "a", JobState.faulted, attempts=attempts, error=LONG)
    short = record.shortened
    assert [each.number for each in short.attempts] == [*range(6, SHORTENED_ATTEMPTS_KEPT + 6)]
    assert [each.error is None for each in short.attempts] == [each.error is None for each in attempts[5:]]
    assert short.error == short.attempts[1].error == ErrorInfo("E" * 200, "m" * 500)
    assert (short.spec, short.state) == (record.spec, record.state)
    assert job_record("j", "a", JobState.queued).shortened == job_record("j", "a", JobState.queued)


def test_a_reason_is_text_and_bounded() -> None:
    """Whatever it is asked for: a record must be able to carry it."""
    assert given_reason("why" * 1_000) == ("why" * 1_000)[:1_000]
    with pytest.raises(InvalidValue, match="reason must be text, not 5"):
        given_reason(5)


def test_an_error_reads_as_the_last_line_of_its_traceback() -> None:
    """Its class alone where it has no message: no colon stands before nothing."""
    assert str(ErrorInfo("KeyError", "'a'")) == "KeyError: 'a'"
    assert str(ErrorInfo("TimeoutError", "")) == "TimeoutError"
