"""Who may call others dead, and when."""

from __future__ import annotations

import pytest

from turnout.store import failure_detector
from turnout.store.failure_detector import RETURN_S, FailureDetector


class Time:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(failure_detector, "boottime", made)
    return made


def lives(sure: FailureDetector, clock: Time, seconds: float, every_s: float) -> None:
    """So many seconds of signs of life that get through, the last of them just now."""
    end = clock.now + seconds
    while clock.now + every_s < end:
        clock.now += every_s
        sure.succeeded()
    clock.now = end
    sure.succeeded()


def test_it_has_to_live_for_a_ttl_first(clock: Time) -> None:
    """From its first sign of life on, however long it took to connect."""
    sure = FailureDetector(10.0)
    assert not sure()
    clock.now += 30.0
    sure.succeeded()
    lives(sure, clock, 9.9, 3.0)
    assert not sure()
    lives(sure, clock, 0.2, 3.0)
    assert sure()


def test_the_last_sign_must_be_recent(clock: Time) -> None:
    """Whoever was suspended has not noticed yet that he was late; when he has, a TTL begins anew."""
    sure = FailureDetector(10.0)
    lives(sure, clock, 11.0, 3.0)
    clock.now += 5.1
    assert not sure()
    sure.succeeded()
    lives(sure, clock, 9.9, 3.0)
    assert not sure()
    lives(sure, clock, 0.2, 3.0)
    assert sure()


@pytest.mark.parametrize("ttl_s", [2.0, 10.0])
def test_after_an_outage_the_others_are_waited_for(clock: Time, ttl_s: float) -> None:
    """Counted from the first sign that got through, not from the last that didn't; and be the TTL ever so short."""
    sure = FailureDetector(ttl_s)
    lives(sure, clock, ttl_s * 2, ttl_s * 0.3)
    assert sure()
    sure.failed()
    assert not sure()
    clock.now += ttl_s * 0.3
    sure.succeeded()
    lives(sure, clock, max(ttl_s, RETURN_S) - 0.1, ttl_s * 0.3)
    assert not sure()
    lives(sure, clock, 0.2, ttl_s * 0.3)
    assert sure()


def test_one_sign_after_another_failure_is_not_enough(clock: Time) -> None:
    """Whoever fails every other time is never sure."""
    sure = FailureDetector(10.0)
    lives(sure, clock, 20.0, 3.0)
    for _ in range(5):
        sure.failed()
        clock.now += 1.0
        sure.succeeded()
        assert not sure()
