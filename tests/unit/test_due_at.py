"""An attempt keeps from when on it might begin, where the job's other times do not tell."""

from __future__ import annotations

import attrs

from tests.support.values import delivery_of, job_record
from turnout.core.effects import Save
from turnout.core.events import Received
from turnout.core.lifecycle import decide
from turnout.core.record import AttemptRecord, JobRecord, JobState, MessageRef, Policy
from turnout.core.retry import RetryPolicy
from turnout.wire import dump_record, load_record

NOW = 1_000.0


def started(record: JobRecord | None, generation: int = 1, message_at: float = 900.0) -> JobRecord:
    """The record after a delivery of the job has begun an attempt; it survives being stored."""
    message = MessageRef(7, int(message_at * 1e9), ack="$JS.ACK.7")
    delivery = delivery_of("a", "add", message, generation=generation, scheduled=True)
    event = Received(now=NOW, delivery=delivery, node="n", nonce="x", rules=Policy(RetryPolicy()))
    (save,) = decide(record, event)
    assert isinstance(save, Save)
    assert load_record(dump_record(save.record)) == save.record
    return save.record


def test_the_end_of_a_delay_is_kept() -> None:
    """After a delay the attempt says when that was over, whoever asked for it."""
    waiting = job_record("a", "add", JobState.retrying, submitted_at=900.0, attempt=1, due_at=995.0)
    waiting = attrs.evolve(waiting, attempts=(AttemptRecord(1, 1, "m", 901.0, ended_at=902.0),))
    assert started(waiting).attempts[-1].due_at == 995.0
    assert started(job_record("a", "add", JobState.scheduled, due_at=990.0)).attempts[-1].due_at == 990.0


def test_a_retry_by_hand_is_kept() -> None:
    """The first attempt of a new life might begin when its message was put in, not when the life before ended."""
    ended = job_record(
        "a", "add", JobState.faulted, attempt=1, attempts=(AttemptRecord(1, 1, "m", 901.0, ended_at=902.0),)
    )
    assert started(ended, generation=2, message_at=980.0).attempts[-1].due_at == 980.0


def test_nothing_is_kept_where_it_tells_nothing() -> None:
    """A first attempt without delay, and one after a loss, might begin at once: their records are no longer for it."""
    assert started(None).attempts[-1].due_at is None
    lost = job_record(
        "a", "add", JobState.queued, attempt=1, attempts=(AttemptRecord(1, 1, "m", 901.0, ended_at=902.0),)
    )
    assert started(lost).attempts[-1].due_at is None
