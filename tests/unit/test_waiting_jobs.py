"""Jobs that wait: in the line of a limit (P13), on the way to nodes that fit (P15), for another priority, too long."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tests.support.decisions import (
    MESSAGE,
    NOW,
    delivery,
    faulted,
    kinds,
    received,
    running,
    saved,
    second_life,
)
from tests.support.values import changed
from turnout.core.effects import (
    Ack,
    Admit,
    Nak,
    Park,
    Rank,
    Remove,
    Replace,
    Save,
    Schedule,
    SendOn,
    TakeOff,
    Unpark,
    Unschedule,
    WriteDeadLetter,
)
from turnout.core.ends import seen_at
from turnout.core.events import CancelRequested, Declined, Expired, Leftover, PriorityRequested, Stuck, Submitted
from turnout.core.lifecycle import decide
from turnout.core.limits import LimitKey
from turnout.core.moving import twin_of
from turnout.core.record import JobRecord, JobState, WaitsFor
from turnout.core.spec import EXPRESS, Body, JobSpec, SubmitOptions, checked_priority
from turnout.errors import InvalidValue

FULL = LimitKey("calls-7", "calls-{user}")
EAST = {"region": "east"}
OTHER_MESSAGE = attrs.evolve(MESSAGE, seq=6)


def parked(**changes: Any) -> JobRecord:
    return saved(decide(None, received(limited=True, full=FULL, **changes)))


def prioritize(priority: int, **changes: Any) -> PriorityRequested:
    return attrs.evolve(PriorityRequested(priority=priority, now=NOW, nonce="call"), **changes)


def scheduled(**options: Any) -> JobRecord:
    spec = JobSpec("j", "act", submitted_at=NOW, options=SubmitOptions(**options))
    return saved(decide(None, Submitted(spec=spec, nonce="first", at=NOW + 60)))


class TestP13Limits:
    def test_a_limited_job_needs_a_place_for_this_very_attempt(self) -> None:
        """One of the attempt before, or of another life, is none."""
        assert decide(None, received(limited=True)) == (Admit(1, 1, Body("{}")),)
        assert decide(None, received(limited=True, admitted=(1, 2))) == (Admit(1, 1, Body("{}")),)
        assert saved(decide(None, received(limited=True, admitted=(1, 1)))).state is JobState.running

    def test_without_a_place_it_waits_in_the_line_and_holds_no_delivery(self) -> None:
        """The record first, then the line, then the message goes."""
        effects = decide(None, received(limited=True, full=FULL))
        record = saved(effects)
        assert (record.state, record.waits_for) == (JobState.queued, WaitsFor("calls-7", "calls-{user}", NOW))
        assert effects == (Save(record), Park(record), Ack(MESSAGE))

    def test_the_message_with_which_it_was_parked_begins_nothing(self) -> None:
        """Whoever parked it may have died before the line had it. Who has a place comes with another message."""
        assert decide(parked(), received(limited=True)) == (Park(parked()), Ack(MESSAGE))
        placed = received(limited=True, admitted=(1, 1), delivery=delivery(message=OTHER_MESSAGE))
        begun = saved(decide(parked(), placed))
        assert (begun.state, begun.waits_for) == (JobState.running, None)

    def test_it_has_waited_since_it_came_to_this_limit(self) -> None:
        """Parked again for the same one it keeps its place; for another one it begins to wait."""
        again = received(limited=True, full=FULL, now=NOW + 9, delivery=delivery(message=OTHER_MESSAGE))
        same = saved(decide(parked(), again)).waits_for
        other = saved(decide(parked(), attrs.evolve(again, full=LimitKey("gpu", "gpu")))).waits_for
        assert same is not None
        assert other is not None
        assert (same.since, other.since) == (NOW, NOW + 9)

    def test_the_sweep_leaves_it_in_the_line(self) -> None:
        """It has no message on purpose; one that is in no line either is requeued."""
        assert decide(parked(), Stuck(now=NOW)) == ()
        assert kinds(decide(parked(), Stuck(now=NOW, unparked=True))) == [Replace]

    def test_its_end_takes_it_out_of_the_line(self) -> None:
        """Whether somebody cancels it or its time is over."""
        assert kinds(decide(parked(), CancelRequested(reason="r", now=NOW)))[-1] is Unpark
        late = changed(parked(), options=SubmitOptions(expires_in=1.0), submitted_at=NOW - 9)
        assert kinds(decide(late, Expired(now=NOW)))[-1] is Unpark


class TestP15Routes:
    def test_it_is_sent_on_to_nodes_that_fit(self) -> None:
        """By a message of its own; the record says first what it requires."""
        effects = decide(None, received(requires=EAST))
        record = saved(effects)
        assert (record.state, record.spec.options.requires) == (JobState.queued, EAST)
        assert effects == (Save(record), SendOn(record, MESSAGE), Ack(MESSAGE))

    def test_its_end_takes_it_off_the_way(self) -> None:
        """There may be two messages of it, and none may outlive its record."""
        record = saved(decide(None, received(requires=EAST)))
        assert TakeOff in kinds(decide(record, CancelRequested(reason="r", now=NOW)))
        ended = saved(decide(record, CancelRequested(reason="r", now=NOW)))
        assert decide(ended, received()) == (TakeOff(ended), Ack(MESSAGE))
        faulted = attrs.evolve(ended, state=JobState.faulted)
        assert kinds(decide(faulted, received())) == [WriteDeadLetter, TakeOff, Ack], "what is owed comes first"

    def test_one_that_ends_where_it_is_received_is_taken_off_too(self) -> None:
        """A server that has crashed hands over again what was acknowledged when it was sent on."""
        record = saved(decide(None, received(requires=EAST)))
        options = attrs.evolve(record.spec.options, expires_in=1.0)
        waiting = attrs.evolve(record, spec=attrs.evolve(record.spec, options=options))
        effects = decide(waiting, received(requires=EAST, now=NOW + 60))
        assert kinds(effects) == [Save, WriteDeadLetter, TakeOff, Ack]
        assert kinds(decide(saved(effects), Leftover(delivery=delivery(), now=NOW))) == [
            WriteDeadLetter,
            TakeOff,
            Remove,
            Save,
        ]


class TestPriority:
    def test_it_is_one_of_five(self) -> None:
        """Anything else is refused before it is stored."""
        assert [checked_priority(value) for value in (1, 5)] == [1, 5]
        for bad in (0, 6, True, "3", None):
            with pytest.raises(InvalidValue, match="priority must be an integer from 1"):
                checked_priority(bad)

    def test_what_waits_moves_into_the_lane_of_its_priority(self) -> None:
        """The record first, then the message there, then the one here goes."""
        effects = decide(None, prioritize(1, delivery=delivery()))
        assert kinds(effects) == [Save, Replace, Remove]
        assert saved(effects).spec.priority == 1
        assert decide(saved(effects), prioritize(1, delivery=delivery(message=attrs.evolve(MESSAGE, priority=1)))) == ()

    @pytest.mark.parametrize("record", [None, running(), faulted()])
    def test_what_runs_has_ended_or_is_not_there_stays_as_it_is(self, record: JobRecord | None) -> None:
        """There is nothing that would go before anything."""
        assert decide(record, prioritize(1)) == ()

    def test_an_express_lane_is_for_jobs_of_its_priority(self) -> None:
        """From there they come back for another priority alone."""
        assert decide(None, prioritize(1 + EXPRESS, delivery=delivery())) == ()
        effects = decide(None, prioritize(3 + EXPRESS, delivery=delivery()))
        express = saved(effects)
        assert (express.spec.lane, express.spec.priority) == (3 + EXPRESS, 3)
        assert decide(express, prioritize(3, delivery=delivery(message=attrs.evolve(MESSAGE, priority=8)))) == ()

    def test_what_waits_in_a_line_is_ranked_there(self) -> None:
        """Also when the record says so already: whoever wrote it may have died on the way."""
        effects = decide(parked(), prioritize(1))
        assert kinds(effects) == [Save, Rank]
        assert decide(saved(effects), prioritize(1)) == (Rank(saved(effects)),)

    def test_a_timer_is_set_anew(self) -> None:
        """A schedule says in which lane its message goes; nothing is done twice, and a queued job has no timer."""
        effects = decide(scheduled(), prioritize(1))
        assert kinds(effects) == [Save, Unschedule, Schedule]
        assert effects[-1] == Schedule(saved(effects).spec, NOW + 60, "call")
        assert decide(saved(effects), prioritize(1)) == ()
        assert kinds(decide(queued(), prioritize(1))) == [Save]

    def test_at_once_it_does_not_wait_for_its_time_either(self) -> None:
        """Its timer goes and its message comes; one that has fired is requeued as the timer's still (P11)."""
        effects = decide(scheduled(), prioritize(1, at_once=True))
        assert kinds(effects) == [Save, Unschedule, Replace]
        assert saved(effects).due_at == NOW
        retrying = running(state=JobState.retrying, due_at=NOW + 9)
        moved = decide(retrying, prioritize(3, at_once=True, delivery=delivery()))
        assert kinds(moved) == [Save, Replace]
        fired = decide(scheduled(), prioritize(1, delivery=delivery(scheduled=True)))
        assert [e.replaced for e in fired if isinstance(e, Replace)] == [1]
        there = delivery(scheduled=True, message=attrs.evolve(MESSAGE, priority=1))
        assert kinds(decide(scheduled(), prioritize(1, delivery=there))) == [Save]

    def test_of_a_job_in_two_lanes_the_message_that_was_seen_first_is_the_twin(self) -> None:
        """One is there of old; on a lane there is one message of an id, so it is no twin of itself."""
        seen, found = delivery(), delivery(message=attrs.evolve(OTHER_MESSAGE, priority=1))
        assert twin_of(seen, found) == MESSAGE
        assert twin_of(seen, seen) is None
        assert twin_of(None, found) is None
        assert twin_of(seen, delivery(message=OTHER_MESSAGE)) is None
        bare = delivery(message=attrs.evolve(MESSAGE, bare=True))
        assert twin_of(bare, delivery(message=OTHER_MESSAGE)) == bare.message
        assert decide(queued(), Stuck(now=NOW, delivery=found, twin=MESSAGE)) == (Remove(MESSAGE),)


def queued() -> JobRecord:
    return running(state=JobState.queued, attempts=(), attempt=0)


class TestTooLong:
    def test_a_reader_sees_that_it_has_ended(self) -> None:
        """Though nobody has written so: at its deadline, and not before, unless it runs or has ended."""
        late = changed(queued(), options=SubmitOptions(expires_in=30.0), submitted_at=NOW)
        assert seen_at(late, NOW + 29) == late
        seen = seen_at(late, NOW + 90)
        assert (seen.state, seen.reason, seen.finished_at) == (JobState.faulted, "expired", NOW + 30)
        running_late = attrs.evolve(late, state=JobState.running)
        assert seen_at(running_late, NOW + 90) == running_late
        assert seen_at(faulted(), NOW + 90) == faulted()

    def test_one_that_has_not_begun_in_time_never_begins(self) -> None:
        """By whoever is handed it, or by the supervisor; what has begun has kept that deadline."""
        options = SubmitOptions(start_within=30.0)
        effects = decide(None, received(delivery=delivery(options=options, submitted_at=NOW - 31)))
        assert kinds(effects) == [Save, WriteDeadLetter, Ack]
        assert saved(effects).reason == "not_started"
        assert saved(effects).error is not None
        again = changed(running(options=options, submitted_at=NOW - 31), state=JobState.retrying)
        assert decide(again, Expired(now=NOW)) == ()


def test_only_what_is_of_this_life_is_given_back() -> None:
    """A worker without a slot leaves the message of a life that is over where it is; that of the next one goes back."""
    assert decide(changed(queued(), generation=2), Declined(delivery=delivery())) == ()
    assert kinds(decide(faulted(), Declined(delivery=second_life()))) == [Nak]
