"""What is the matter with a message that was handed to somebody: by its job's record, and by how long it is so."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from tests.support.values import changed, job_record
from turnout import wire
from turnout.core.record import AttemptRecord, JobState, MessageRef, Outcome, Policy, Token
from turnout.core.spec import SubmitOptions
from turnout.supervisor.judge import Finding, Handed, Pace, judge

NOW = 10_000.0
TTL_S = 10.0
PACE = Pace(patience=TTL_S, settling=7.0, leases=2.0, relook=5.0)
MESSAGE = MessageRef(7, 1)
ACK_WAIT_S = 30.0


def handed(ago_s: float, generation: int = 1, expires_at: float = math.inf) -> Handed:
    return Handed("add", "a", MESSAGE, generation, expires_at, since=NOW - ago_s)


def record(state: JobState, **fields: Any) -> wire.Brief:
    """By way of its bytes."""
    base = job_record(id="a", activity="add", state=state, submitted_at=NOW - 5000, rules=Policy(lease=ACK_WAIT_S))
    return wire.load_brief(wire.dump_record(changed(base, **fields)))


def found(it: Handed, about: wire.Brief | None, now: float = NOW) -> Finding:
    return judge(it, about, ACK_WAIT_S, now, PACE)[0]


def test_what_nobody_has_begun_is_swallowed_after_one_patience() -> None:
    """Without a record it counts from when it was handed over, and the answer says when to look again."""
    assert judge(handed(TTL_S - 1), None, ACK_WAIT_S, NOW, PACE) == (Finding.nothing, NOW + 1)
    assert found(handed(TTL_S), None) is Finding.swallowed


def test_what_waits_for_its_next_attempt_counts_from_the_end_of_the_last() -> None:
    """An aborted or lost attempt has ended some time after the message was handed over first."""
    for ago_s, expected in ((TTL_S - 1, Finding.nothing), (TTL_S + 1, Finding.swallowed)):
        attempt = AttemptRecord(1, 1, "n", NOW - 100, Outcome.lost, NOW - ago_s)
        assert found(handed(3000), record(JobState.queued, attempt=1, attempts=(attempt,))) is expected


def test_a_retry_counts_from_when_it_is_due() -> None:
    """However long it has waited for that."""
    for due_in_s, expected in ((50, Finding.nothing), (1 - TTL_S, Finding.nothing), (-TTL_S, Finding.swallowed)):
        assert found(handed(3000), record(JobState.retrying, due_at=NOW + due_in_s)) is expected
    assert judge(handed(3000), record(JobState.retrying, due_at=NOW + 50), ACK_WAIT_S, NOW, PACE)[1] == NOW + 60


def test_what_nobody_takes_for_two_leases_is_stuck() -> None:
    """The longer of the consumer's ack wait and the record's lease counts."""
    assert found(handed(61), None) is Finding.stuck
    assert found(handed(61), record(JobState.queued)) is Finding.stuck
    assert found(handed(61), record(JobState.queued, rules=Policy(lease=40))) is Finding.swallowed


def test_what_runs_has_an_owner() -> None:
    """Whoever owns it is asked elsewhere; it is looked at again."""
    running = record(JobState.running, token=Token("n", 1, 1, "x"))
    assert judge(handed(3000), running, ACK_WAIT_S, NOW, PACE) == (Finding.owned, NOW + PACE.relook)


@pytest.mark.parametrize("state", [JobState.completed, JobState.faulted, JobState.cancelled])
def test_what_has_ended_leaves_in_its_own_time(state: JobState) -> None:
    """Its message may be on its way out; later it is left over."""
    assert found(handed(3000), record(state, finished_at=NOW - 6)) is Finding.nothing
    assert found(handed(3000), record(state, finished_at=NOW - 7)) is Finding.leftover


def test_generations_are_told_apart() -> None:
    """A newer message is a life without a record, an older one is left over."""
    assert found(handed(TTL_S, generation=2), record(JobState.faulted, finished_at=1.0)) is Finding.swallowed
    assert found(handed(TTL_S), record(JobState.running, generation=2)) is Finding.leftover
    ended = record(JobState.faulted, finished_at=1.0, token=Token("n", 1, 1, "nonce"))
    assert found(handed(3000, generation=2), ended) is Finding.leftover  # anybody may have written that number
    assert found(attrs.evolve(handed(TTL_S, generation=2), after="nonce"), ended) is Finding.swallowed


def test_deadlines_come_first() -> None:
    """By the record, or by the message where there is none; and the next look is no later than that."""
    soon = record(JobState.retrying, due_at=NOW + 500, submitted_at=NOW - 10, options=SubmitOptions(expires_in=12))
    assert judge(handed(3), soon, ACK_WAIT_S, NOW, PACE) == (Finding.nothing, NOW + 2)
    assert found(handed(3), soon, NOW + 2) is Finding.expired
    assert found(handed(1, expires_at=NOW), None) is Finding.expired
