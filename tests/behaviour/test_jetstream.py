"""What turnout rests on, held against the simulated JetStream and a real nats-server alike.

What only one of them does would be a lie of the simulation. Times are those of an ack wait of a second.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.behaviour.substrate import ACK_WAIT_S, MAX_DELIVER, Got, Real, Refused, Simulated, Substrate
from tests.support.waiting import best_of_three
from turnout.testing import NatsServer

LATE_S = 0.4
"""By how much a busy machine may be late."""


@pytest.fixture(params=["simulated", "real"])
def js(request: pytest.FixtureRequest) -> Iterator[Substrate]:
    if request.param == "simulated":
        simulated = Simulated()
        yield simulated
        simulated.close()
        return
    with NatsServer() as server:
        real = Real(server)
        yield real
        real.close()


def take(js: Substrate, timeout_s: float = 2.0) -> Got:
    got = js.pull(timeout_s)
    assert got is not None, "nothing was delivered"
    return got


def exhaust(js: Substrate) -> Got:
    """The last delivery that max_deliver allows, its ack wait over, and a pull that finds nothing any more."""
    for _ in range(MAX_DELIVER - 1):
        js.nak(take(js))
    got = take(js)
    assert got.count == MAX_DELIVER
    assert js.pull(ACK_WAIT_S + LATE_S) is None
    return got


# -- leases ------------------------------------------------------------------------------------------------------------


def test_what_is_not_settled_is_delivered_again_after_the_ack_wait(js: Substrate) -> None:
    """The same message, counted, after one ack wait and not before."""
    for late in best_of_three(LATE_S):
        js.publish("jobs.act.a", "x")
        asked = js.now()  # before the delivery, from which the ack wait runs
        first = take(js)
        second = take(js)
        assert (second.seq, second.count, second.data) == (first.seq, 2, "x")
        assert second.at - asked >= ACK_WAIT_S - 0.1
        late.append(second.at - first.at - ACK_WAIT_S)
        js.ack(second)


def test_a_redelivery_comes_before_what_is_new(js: Substrate) -> None:
    """What was given back goes out again before messages that nobody has had."""
    js.publish("jobs.act.a")
    got = take(js)
    js.publish("jobs.act.b")
    js.nak(got)
    assert take(js).seq == got.seq


def test_acks_are_not_fenced(js: Substrate) -> None:
    """The ack of an old delivery removes the message while the new owner works on it; an ack proves nothing."""
    js.publish("jobs.act.a")
    old = take(js)
    js.nak(old)
    new = take(js)
    js.ack(old)
    assert not js.holds(new.seq)


def test_anyone_may_give_a_message_back(js: Substrate) -> None:
    """A NAK by the ack subject of any delivery redelivers at once, whatever is left of the ack wait."""
    js.publish("jobs.act.a")
    got = take(js)
    js.nak(got)
    assert take(js, 0.5).count == 2


def test_a_made_up_nak_names_a_delivery_that_is_not_settled(js: Substrate) -> None:
    """An ack subject can be made from the stream's sequence alone, but a NAK counts only if the consumer sequence in it
    is above all that is acknowledged, and is none that is still to come."""
    for name in "abc":
        js.publish(f"jobs.act.{name}")
        js.ack(take(js))
    js.publish("jobs.act.d")
    got = take(js)  # the consumer's fourth delivery
    for nonsense in (3, 1, 40):
        js.nak_built(got, nonsense)
    assert js.pull(0.3) is None
    js.nak_built(got, 4)
    assert take(js, 0.5).seq == got.seq


def test_a_pull_that_a_message_is_too_large_for_ends_and_leaves_it_there(js: Substrate) -> None:
    """The server says so as soon as there is a message, which the next one gets, for the first time."""
    assert "408" in js.glance()
    js.publish("jobs.act.a", "x")
    assert "message size" in js.glance()
    assert take(js).count == 1


def test_an_old_deliverys_extension_keeps_a_dropped_redelivery(js: Substrate) -> None:
    """+WPI acts on the message: the owner's own keeps what another worker was handed and dropped (P5)."""
    for _ in range(3):
        js.publish("jobs.act.a")
        mine = take(js)
        js.nak(mine)
        since = js.now()
        gaps = []
        take(js)  # somebody else's, who drops it
        for _ in range(3):
            js.pass_time(ACK_WAIT_S * 0.6)
            before = js.now()
            js.extend(mine)
            gaps.append(js.now() - since)
            since = before
        again = js.pull(ACK_WAIT_S * 0.5)
        gaps.append(js.now() - since)
        if max(gaps) < ACK_WAIT_S * 0.9:  # else a busy machine let the ack wait end, and the round says nothing
            assert again is None
            return
        js.ack(mine)
    pytest.fail("the machine stood still in each of three rounds")


@pytest.mark.parametrize("delay_s", [0.3, 1.6])
def test_a_delayed_nak_is_on_time(js: Substrate, delay_s: float) -> None:
    """nak(delay) brings the message back after the delay, shorter or longer than the ack wait."""
    for late in best_of_three(LATE_S):
        js.publish("jobs.act.a")
        got = take(js)
        since = js.now()
        js.nak(got, delay_s)
        again = take(js, 4.0)
        assert again.at - since >= delay_s - 0.1
        late.append(again.at - since - delay_s)
        js.ack(again)


def test_an_extension_undoes_a_delayed_nak(js: Substrate) -> None:
    """A +WPI that comes after one's own nak(delay) starts the ack wait anew, and the delay is forgotten (P10)."""
    for late in best_of_three(LATE_S):
        js.publish("jobs.act.a")
        got = take(js)
        js.nak(got, 3.0)
        since = js.now()
        js.extend(got)
        again = take(js, 4.0)
        assert again.at - since >= ACK_WAIT_S - 0.1
        late.append(again.at - since - ACK_WAIT_S)
        js.ack(again)


# -- exhaustion --------------------------------------------------------------------------------------------------------


def test_an_exhausted_message_stays_and_nothing_revives_it(js: Substrate) -> None:
    """After max_deliver deliveries the message lies there; NAK and +WPI do nothing (P7)."""
    js.publish("jobs.act.a")
    got = exhaust(js)
    js.nak(got)
    assert js.pull(0.3) is None
    js.extend(got)
    assert js.pull(ACK_WAIT_S + LATE_S) is None
    assert js.holds(got.seq)


def test_the_alarm_comes_with_the_next_pull_only(js: Substrate) -> None:
    """While nobody pulls, no alarm tells that the deliveries have run out; and it may get lost."""
    js.publish("jobs.act.a")
    for _ in range(MAX_DELIVER - 1):
        js.nak(take(js))
    take(js)
    js.pass_time(ACK_WAIT_S + LATE_S)
    assert js.alarms() == []
    js.pull(0.3)
    assert len(js.alarms()) <= 1


def test_an_exhausted_message_can_still_be_acked(js: Substrate) -> None:
    """Its owner, who may be alive, settles it as any other."""
    js.publish("jobs.act.a")
    got = exhaust(js)
    js.ack(got)
    assert not js.holds(got.seq)


def test_replacing_an_exhausted_message_starts_the_count_anew(js: Substrate) -> None:
    """One atomic publish puts it in anew: a new sequence, delivered for the first time (P7)."""
    js.publish("jobs.act.a")
    got = exhaust(js)
    js.publish("jobs.act.a", "again", expected=got.seq, rollup=True)
    again = take(js)
    assert (again.count, again.data) == (1, "again")
    assert not js.holds(got.seq)


# -- publishing --------------------------------------------------------------------------------------------------------


def test_expecting_nothing_refuses_a_second_message_of_the_id(js: Substrate) -> None:
    """For as long as the first is in the stream, and on its subject only."""
    first = js.publish("jobs.act.a", expected=0)
    with pytest.raises(Refused):
        js.publish("jobs.act.a", expected=0)
    js.publish("jobs.act.b", expected=0)
    js.delete(first.seq)
    js.publish("jobs.act.a", expected=0)


def test_the_expectation_is_checked_before_the_message_id(js: Substrate) -> None:
    """One's own resend is refused, and not called a duplicate (P3)."""
    js.publish("jobs.act.a", msg_id="m", expected=0)
    with pytest.raises(Refused):
        js.publish("jobs.act.a", msg_id="m", expected=0)


def test_message_ids_are_remembered_over_the_whole_stream_and_after_removal(js: Substrate) -> None:
    """A known id is swallowed on any subject, though its message is long gone (P3)."""
    first = js.publish("jobs.act.a", msg_id="m")
    js.ack(take(js))
    assert not js.holds(first.seq)
    assert js.publish("jobs.act.b", msg_id="m").duplicate
    assert js.last("jobs.act.b") == 0


def test_a_restart_forgets_the_ids_of_removed_messages(js: Substrate) -> None:
    """The window is no gate: after a restart the same id is stored again."""
    js.publish("jobs.act.a", msg_id="m")
    js.ack(take(js))
    js.publish("jobs.act.b", msg_id="kept")
    js.restart()
    assert not js.publish("jobs.act.a", msg_id="m").duplicate
    assert js.publish("jobs.act.c", msg_id="kept").duplicate


def test_a_rollup_replaces_atomically_and_only_what_was_seen(js: Substrate) -> None:
    """The old message is gone, a second writer is refused, a late ack of the old one does nothing (P2)."""
    js.publish("jobs.act.a", "old")
    old = take(js)
    new = js.publish("jobs.act.a", "new", expected=old.seq, rollup=True)
    assert not js.holds(old.seq)
    with pytest.raises(Refused):
        js.publish("jobs.act.a", "other", expected=old.seq, rollup=True)
    js.ack(old)
    assert js.holds(new.seq)
    assert take(js).data == "new"


def test_a_rollup_on_a_shared_subject_wipes_it(js: Substrate) -> None:
    """Which is why a bare job is put in anew on a subject of its own (P8)."""
    kept = [js.publish("jobs.act").seq for _ in range(3)]
    js.publish("jobs.act", expected=kept[-1], rollup=True)
    assert [js.holds(seq) for seq in kept] == [False, False, False]


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_a_schedule_fires_on_time_with_its_own_headers_and_no_id(js: Substrate) -> None:
    """The copy keeps the submitter's headers, loses the message id, and the schedule itself is gone (P11)."""
    names = iter("abc")
    for late in best_of_three(0.3 + LATE_S):
        name = next(names)
        made = js.now()
        schedule = js.schedule(f"timers.act.{name}", "x", 1.0, f"jobs.act.{name}", expected=0)
        got = take(js, 4.0)
        assert (got.subject, got.data, got.headers.get("Own")) == (f"jobs.act.{name}", "x", "kept")
        assert "Nats-Msg-Id" not in got.headers
        assert got.at - made >= 0.95
        assert not js.holds(schedule.seq)
        late.append(got.at - made - 1.0)
        js.ack(got)


def test_a_fired_message_is_appended_whatever_is_on_its_target(js: Substrate) -> None:
    """An immediate submit beside a pending schedule is accepted, and the schedule fires beside it (P11)."""
    js.schedule("timers.act.a", "later", 2.0, "jobs.act.a", expected=0)
    js.publish("jobs.act.a", "now", expected=0)
    first = take(js)
    js.ack(first)
    assert [first.data, take(js, 5.0).data] == ["now", "later"]


def test_a_second_schedule_is_refused_only_when_none_was_expected(js: Substrate) -> None:
    """Without the expectation it silently replaces the first."""
    first = js.schedule("timers.act.a", "x", 60.0, "jobs.act.a", expected=0)
    with pytest.raises(Refused):
        js.schedule("timers.act.a", "y", 60.0, "jobs.act.a", expected=0)
    assert js.holds(first.seq)


def test_purging_its_subject_cancels_a_schedule(js: Substrate) -> None:
    """Nothing fires any more."""
    js.schedule("timers.act.a", "x", 2.0, "jobs.act.a", expected=0)
    js.purge("timers.act.a")
    assert js.pull(3.0) is None


# -- the registry ------------------------------------------------------------------------------------------------------


def test_compare_and_set_lets_one_write(js: Substrate) -> None:
    """Of two writers that read the same revision one is refused; a create is refused where something is."""
    revision = js.put("k", "a", 0)
    js.put("k", "b", revision)
    with pytest.raises(Refused):
        js.put("k", "c", revision)
    with pytest.raises(Refused):
        js.put("k", "d", 0)
    assert js.get("k")[0] == "b"


def test_a_deletes_marker_refuses_a_create(js: Substrate) -> None:
    """Where a record was deleted, only a write that knows the marker's revision goes through (P9)."""
    revision = js.put("k", "a", 0)
    marker = js.put("k", None, revision, 60.0)
    assert js.get("k") == (None, marker)
    with pytest.raises(Refused):
        js.put("k", "b", 0)
    js.put("k", "b", marker)


def test_an_expired_record_leaves_a_marker_too(js: Substrate) -> None:
    """It reads as no value with a revision, and a create is refused until the marker has gone as well."""
    revision = js.put("k", "a", 0, 1.0)
    since = js.now()
    while (found := js.get("k"))[0] is not None and js.now() - since < 20:
        js.pass_time(0.2)
    value, marker = found
    assert value is None
    assert marker > revision
    with pytest.raises(Refused):
        js.put("k", "b", 0)


def test_a_plain_write_ends_a_records_retention(js: Substrate) -> None:
    """The TTL belongs to the write, not to the key."""
    revision = js.put("k", "a", 0, 3.0)
    js.put("k", "b", revision)
    js.pass_time(4.0 + LATE_S)
    assert js.get("k")[0] == "b"
