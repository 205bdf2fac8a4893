"""The rules P1 to P13 of decide(), each as what it must answer; docs/lifecycle.md tells what goes wrong without them.

What decide() answers is half of a rule; tests/sim shows the other half: that no history goes wrong with these answers,
and that one does with any other (tests/sim/test_teeth.py).
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from tests.support.decisions import (
    ERROR,
    MESSAGE,
    NOW,
    OTHER,
    RULES,
    completed,
    delivery,
    failed,
    faulted,
    kinds,
    lost,
    received,
    running,
    saved,
    second_life,
    token_of,
)
from tests.support.values import changed
from turnout.core.effects import (
    Abandon,
    Ack,
    Ask,
    Drop,
    Isolate,
    Nak,
    Notify,
    Publish,
    Remove,
    Replace,
    Save,
    Schedule,
    Unschedule,
    WriteDeadLetter,
)
from turnout.core.events import (
    Aborted,
    Cancelled,
    CancelRequested,
    Debounced,
    Declined,
    Event,
    Expired,
    Leftover,
    Lost,
    PriorityRequested,
    Reported,
    Resubmitted,
    RetryRequested,
    Snoozed,
    Stuck,
    Submitted,
    Verdict,
)
from turnout.core.failure import FaultReason
from turnout.core.lifecycle import decide
from turnout.core.record import FINAL, JobRecord, JobState, Outcome, Progress, Token
from turnout.core.spec import Body, JobSpec, SubmitOptions


class TestOrder:
    """Save the record, then the letter, then settle or remove: every prefix followed by a crash is safe."""

    def ends(self) -> list[tuple[JobRecord | None, Event]]:
        record = running()
        ended = faulted()
        found = delivery()
        return [
            (record, completed(record)),
            (record, failed(record)),
            (record, failed(record, fault=FaultReason.invalid_result)),
            (record, Aborted(token=token_of(record), now=NOW)),
            (record, Cancelled(token=token_of(record), now=NOW)),
            (record, Lost(token=token_of(record), now=NOW)),
            (running(losses=2, alone=True), Lost(token=token_of(record), now=NOW)),
            (None, CancelRequested(reason="r", now=NOW, delivery=found)),
            (None, received(delivery=delivery(problem=ERROR))),
            (ended, received()),
            (ended, Leftover(delivery=found, now=NOW)),
            (None, Stuck(now=NOW, delivery=delivery(replaced=3), max_lost=3)),
        ]

    def test_the_record_is_saved_before_the_message_is_settled(self) -> None:
        """No settlement or removal comes before the record that says how it ended."""
        for record, event in self.ends():
            effects = decide(record, event)
            settles = [n for n, e in enumerate(effects) if isinstance(e, Ack | Nak | Remove)]
            saves = [n for n, e in enumerate(effects) if isinstance(e, Save)]
            if not (record is not None and record.state.final):
                assert saves, event
                assert saves[0] < settles[0], event

    def test_p4_the_letter_comes_between(self) -> None:
        """A faulted job's letter is written after its record and before its message goes."""
        for record, event in self.ends():
            effects = decide(record, event)
            state = next((e.record.state for e in effects if isinstance(e, Save)), record.state if record else None)
            if state is not JobState.faulted:
                continue
            assert WriteDeadLetter in kinds(effects), event
            letter = kinds(effects).index(WriteDeadLetter)
            assert all(n > letter for n, e in enumerate(effects) if isinstance(e, Ack | Remove | Nak)), event


class TestP1Ownership:
    def test_a_cancel_request_leaves_the_owner_its_job(self) -> None:
        """A client's cancel only asks; the owner's next write goes through, and keeps the request."""
        record = running()
        effects = decide(record, CancelRequested(reason="enough", now=NOW))
        asked = saved(effects)
        assert asked == attrs.evolve(record, cancel_request="enough")
        assert effects[-1] == Notify(token_of(record), "enough")
        report = Reported(token=token_of(record), progress=Progress(1))
        assert saved(decide(asked, report)).cancel_request == "enough"
        assert saved(decide(asked, completed(record))).state is JobState.completed

    def test_the_first_reason_to_cancel_is_kept(self) -> None:
        """A second request changes nothing but tells the node again."""
        record = running(cancel_request="first")
        assert decide(record, CancelRequested(reason="second", now=NOW)) == (Notify(token_of(record), "first"),)

    @pytest.mark.parametrize("end", [completed, failed, lambda r: Aborted(token=token_of(r), now=NOW)])
    def test_whoever_lost_its_lease_settles_nothing(self, end: Callable[[JobRecord], Event]) -> None:
        """The end of an attempt whose token the record doesn't bear, or that was declared lost, is dropped."""
        mine = running()
        event = end(mine)
        assert decide(running(token=OTHER), event) == (Abandon(),)
        assert decide(lost(mine), event) == (Abandon(),)
        assert decide(None, event) == (Abandon(),)
        cancelled = saved(decide(lost(mine), CancelRequested(reason="r", now=NOW)))
        assert decide(cancelled, event) == (Abandon(),)

    def test_a_report_of_a_lost_attempt_abandons(self) -> None:
        """Progress and checkpoints of an attempt that was declared lost are not written."""
        report = Reported(token=token_of(running()), checkpoint=Body("1"))
        assert decide(lost(running()), report) == (Abandon(),)

    def test_ones_own_end_that_was_stored_after_all_is_settled(self) -> None:
        """When the answer to the last write was lost, the owner finds its end in the record and settles."""
        record = running()
        done = saved(decide(record, completed(record)))
        assert decide(done, completed(record)) == (Ack(MESSAGE),)
        ended = faulted()
        assert decide(ended, failed(record, fault=FaultReason.fatal)) == (WriteDeadLetter(ended), Ack(MESSAGE))
        waiting = saved(decide(record, failed(record)))
        assert decide(waiting, failed(record)) == (Nak(MESSAGE, 1.0),)

    def test_ones_own_start_that_was_stored_after_all_is_ones_own(self) -> None:
        """When the answer to the create was lost, the record bears one's own nonce: it runs."""
        assert decide(running(), received()) == ()

    def test_a_report_that_changes_nothing_writes_nothing(self) -> None:
        """The same progress again is not another write."""
        record = running(progress=Progress(1))
        assert decide(record, Reported(token=token_of(record), progress=Progress(1))) == ()


class TestDebounce:
    AGAIN = Debounced(spec=JobSpec("j", "act", payload=Body("new"), submitted_at=NOW + 3), nonce="again", at=NOW + 8)

    def waiting(self) -> JobRecord:
        event = Debounced(spec=JobSpec("j", "act", payload=Body("old"), submitted_at=NOW), nonce="first", at=NOW + 5)
        effects = decide(None, event)
        assert kinds(effects) == [Save, Schedule]
        return saved(effects)

    def test_what_waits_takes_the_newest_payload_and_waits_on(self) -> None:
        """The record alone is written; the timer fires too early by it, and what it brings is given back."""
        (save,) = decide(self.waiting(), self.AGAIN)
        assert isinstance(save, Save)
        after = save.record
        assert (after.state, after.due_at, after.spec.payload) == (JobState.scheduled, NOW + 8, Body("new"))
        assert after.spec.submitted_at == NOW, "the job is as old as it was"
        fired = received(delivery=attrs.evolve(delivery(), scheduled=True), now=NOW + 5)
        assert decide(after, fired) == (Nak(MESSAGE, 3.0),)
        begun = saved(decide(after, attrs.evolve(fired, now=NOW + 8)))
        assert (begun.state, begun.spec.payload) == (JobState.running, Body("new"))

    def test_what_has_begun_or_ended_takes_nothing(self) -> None:
        """The submission is for another job then."""
        for record in (running(), faulted(), saved(decide(running(), failed(running())))):
            assert decide(record, self.AGAIN) == ()

    def test_a_message_that_comes_too_early_very_often_is_no_duplicate_when_it_is_requeued(self) -> None:
        """A burst may use up all deliveries of the timer's message: the one in its place starts the job as well."""
        record = self.waiting()
        worn = received(delivery=attrs.evolve(delivery(), scheduled=True, exhausted=True), now=NOW)
        (replace,) = decide(record, worn)
        assert isinstance(replace, Replace)
        again = attrs.evolve(delivery(), spec=replace.spec, replaced=replace.replaced)
        assert saved(decide(record, received(delivery=again, now=NOW + 5))).state is JobState.running


class TestP2Generations:
    def test_retry_is_one_publish_of_the_next_generation(self) -> None:
        """No record is saved: one atomic replace of what was seen on the id's subject, the letter first."""
        record = faulted()
        effects = decide(record, RetryRequested(now=NOW, delivery=delivery()))
        assert kinds(effects) == [WriteDeadLetter, Replace]
        replace = effects[-1]
        assert isinstance(replace, Replace)
        assert (replace.spec.generation, replace.expected_seq) == (2, 5)
        none_there = decide(record, RetryRequested(now=NOW))[-1]
        assert isinstance(none_there, Replace)
        assert none_there.expected_seq == 0

    def test_a_retry_from_scratch_leaves_the_checkpoint_behind(self) -> None:
        """The message says so, and the next retry is one with a checkpoint again."""
        record = attrs.evolve(faulted(), checkpoint=Body("half"), progress=Progress(1))
        replace = decide(record, RetryRequested(now=NOW, delivery=delivery(), from_scratch=True))[-1]
        assert isinstance(replace, Replace)
        begun = saved(decide(record, received(delivery=attrs.evolve(delivery(), spec=replace.spec))))
        assert (begun.checkpoint, begun.progress, begun.attempt) == (None, None, 2)
        ended = attrs.evolve(begun, state=JobState.faulted, checkpoint=Body("anew"), token=None)
        after = decide(ended, RetryRequested(now=NOW))[-1]
        assert isinstance(after, Replace)
        third = saved(decide(ended, received(delivery=attrs.evolve(delivery(), spec=after.spec))))
        assert third.checkpoint == Body("anew")

    def test_a_retry_of_what_is_not_ended_or_already_retried_does_nothing(self) -> None:
        """Only a faulted or cancelled job whose next generation nobody has published is retried."""
        assert decide(running(), RetryRequested(now=NOW)) == ()
        assert decide(None, RetryRequested(now=NOW)) == ()
        assert decide(faulted(), RetryRequested(now=NOW, delivery=second_life())) == ()

    def test_an_older_delivery_is_acked_and_a_newer_one_starts_afresh(self) -> None:
        """The first life's message is a duplicate; the second's starts with fresh budgets, attempt numbers go on."""
        record = attrs.evolve(faulted(), checkpoint=Body("half"))
        assert decide(changed(record, generation=2), received()) == (Ack(MESSAGE),)
        again = saved(decide(record, received(delivery=second_life())))
        assert (again.state, again.generation, again.attempt) == (JobState.running, 2, 2)
        assert (again.failures, again.losses, again.aborts) == (0, 0, 0)
        assert again.checkpoint == Body("half")

    @pytest.mark.parametrize("after", ["", "guessed", "5-990000000000"])
    def test_a_generation_without_the_life_before_is_none(self, after: str) -> None:
        """Anybody may write a number into a header: only who knows the life before begins the next one."""
        forged = delivery(generation=2, after=after)
        assert decide(faulted(), received(delivery=forged)) == (Ack(MESSAGE),)
        assert decide(running(), received(delivery=forged)) == (Ack(MESSAGE),)
        assert decide(running(), Leftover(delivery=forged, now=NOW)) == (Remove(MESSAGE),)
        retry = decide(faulted(), RetryRequested(now=NOW, delivery=forged))[-1]
        assert isinstance(retry, Replace)
        assert retry.spec.after == faulted().life

    def test_a_life_without_an_attempt_is_known_by_its_message(self) -> None:
        """A job that was cancelled before it began is retried as well."""
        cancelled = saved(decide(None, CancelRequested(reason="r", now=NOW, delivery=delivery())))
        retry = decide(cancelled, RetryRequested(now=NOW))[-1]
        assert isinstance(retry, Replace)
        again = saved(decide(cancelled, received(delivery=attrs.evolve(delivery(), spec=retry.spec))))
        assert (again.state, again.generation) == (JobState.running, 2)

    def test_a_job_that_takes_an_id_over_begins_with_its_record(self) -> None:
        """The letter that is owed, the record over the one before, the old message, then the new one."""
        before = attrs.evolve(faulted(), checkpoint=Body("half"))
        event = Resubmitted(spec=attrs.evolve(before.spec, generation=2), nonce="new", delivery=delivery())
        effects = decide(before, event)
        assert kinds(effects) == [WriteDeadLetter, Save, Remove, Publish]
        draft = saved(effects)
        assert (draft.state, draft.generation, draft.attempt, draft.attempts) == (JobState.queued, 2, 0, ())
        assert (draft.checkpoint, draft.message, draft.error) == (None, None, None)
        assert decide(draft, received()) == (Ack(MESSAGE),), "a message of the life before"
        begun = saved(decide(draft, received(delivery=delivery(generation=2))))
        assert (begun.state, begun.attempt) == (JobState.running, 1)

    def test_an_id_is_taken_over_from_an_end_and_by_one_alone(self) -> None:
        """What goes on, has been retried, was taken over by another, or is gone is looked at again."""
        event = Resubmitted(spec=attrs.evolve(faulted().spec, generation=2), nonce="new")
        assert decide(running(), event) == ()
        assert decide(faulted(), attrs.evolve(event, delivery=second_life())) == ()
        assert decide(saved(decide(faulted(), event)), event) == ()
        assert decide(changed(faulted(), generation=2), event) == ()
        assert decide(None, event) == ()

    def test_a_message_newer_than_the_record_is_not_a_leftover(self) -> None:
        """Nobody removes the second life's message because the first has ended."""
        assert decide(faulted(), Leftover(delivery=second_life(), now=NOW)) == ()
        effects = decide(faulted(), CancelRequested(reason="r", now=NOW, delivery=second_life()))
        assert (saved(effects).state, saved(effects).generation) == (JobState.cancelled, 2)

    @pytest.mark.parametrize("state", sorted(FINAL))
    def test_a_late_duplicate_of_an_ended_job_is_a_no_op(self, state: JobState) -> None:
        """A delivery of a generation that has ended is acked, and its record left alone."""
        effects = decide(attrs.evolve(faulted(), state=state), received())
        assert effects[-1] == Ack(MESSAGE)
        assert Save not in kinds(effects)


class TestP5Suspicion:
    def test_the_owner_is_asked_always(self) -> None:
        """A redelivery of a running job is no verdict: the owner is asked, by its token."""
        record = running(token=OTHER)
        assert decide(record, received()) == (Ask(OTHER),)

    def test_yes_drops_the_delivery(self) -> None:
        """The owner says that it runs: the delivery is left to its lease."""
        event = received(asked=OTHER, verdict=Verdict.alive)
        assert decide(running(token=OTHER), event) == (Drop(),)

    def test_silence_is_no_verdict(self) -> None:
        """Silent but not lapsed: given back for the rest of the liveness TTL, never started."""
        event = received(asked=OTHER, verdict=Verdict.silent, wait_s=4.0)
        assert decide(running(token=OTHER), event) == (Nak(MESSAGE, 4.0),)

    def test_an_answer_about_another_attempt_counts_for_nothing(self) -> None:
        """The verdict is about a token: when the record bears a newer one, that one is asked."""
        newer = attrs.evolve(OTHER, attempt=2, nonce="newer")
        event = received(asked=OTHER, verdict=Verdict.gone)
        assert decide(running(token=newer), event) == (Ask(newer),)

    def test_a_takeover_counts_the_loss_and_starts_the_next_attempt_in_one_write(self) -> None:
        """Gone: the loss is counted, the attempt closed as lost, the next one started by the same compare-and-set."""
        event = received(asked=OTHER, verdict=Verdict.gone)
        record = saved(decide(running(token=OTHER), event))
        assert (record.losses, record.attempt, record.state) == (1, 2, JobState.running)
        assert [a.outcome for a in record.attempts] == [Outcome.lost, Outcome.running]

    def test_a_takeover_after_the_last_forgiven_loss_ends_the_job(self) -> None:
        """One loss too many is found by whoever is handed the message: recorded, then the dead letter, then the ack."""
        record = running(losses=2, token=OTHER, alone=True)
        effects = decide(record, received(asked=OTHER, verdict=Verdict.gone))
        assert kinds(effects) == [Save, WriteDeadLetter, Ack]
        assert (saved(effects).state, saved(effects).reason) == (JobState.faulted, "lost")


class TestP6Lost:
    def test_the_supervisor_saves_the_outcome_and_gives_the_message_back(self) -> None:
        """Lost: queued with the loss counted, then a NAK by the ack subject in the record."""
        record = running()
        effects = decide(record, Lost(token=token_of(record), now=NOW))
        assert (saved(effects).state, saved(effects).losses) == (JobState.queued, 1)
        assert effects[-1] == Nak(MESSAGE)

    def test_poison_ends_without_a_worker(self) -> None:
        """One loss too many: faulted, with letter, message removed, and only then the retention begins."""
        record = running(losses=2, alone=True)
        effects = decide(record, Lost(token=token_of(record), now=NOW))
        assert kinds(effects) == [Save, WriteDeadLetter, Remove, Save]
        assert saved(effects).state is JobState.faulted
        assert [e.expires for e in effects if isinstance(e, Save)] == [False, True]

    def test_a_loss_in_company_is_never_the_last(self) -> None:
        """Who was not alone on the dead node may be innocent: its losses count, and it is given another try."""
        record = running(losses=2)
        after = saved(decide(record, Lost(token=token_of(record), now=NOW)))
        assert (after.state, after.losses) == (JobState.queued, 3)

    def test_where_the_next_loss_may_be_the_last_the_attempt_runs_alone(self) -> None:
        """With its budget of losses spent a job is alone on its node, by the record too; before that it need not be."""
        (save,) = decide(lost(running(losses=0)), received())
        assert isinstance(save, Save)
        spent = lost(running(losses=1))
        assert decide(spent, received()) == (Isolate(),)
        (save,) = decide(spent, received(alone=True))
        assert isinstance(save, Save)
        assert save.record.attempts[-1].alone

    def test_what_may_never_be_tried_again_is_faulted_by_its_first_loss(self) -> None:
        """`max_lost=0` asks for at most one attempt: it need not be alone, and ends with its node."""
        never = attrs.evolve(RULES, max_lost=0)
        (save,) = decide(None, received(rules=never))
        assert isinstance(save, Save)
        assert lost(save.record).state is JobState.faulted

    def test_a_cancel_asked_of_a_dead_owner_is_fulfilled(self) -> None:
        """Whoever counts the loss of an owner that was asked to cancel ends the job as cancelled."""
        record = running(cancel_request="enough")
        after = saved(decide(record, Lost(token=token_of(record), now=NOW)))
        assert (after.state, after.reason) == (JobState.cancelled, "enough")

    def test_one_loss_is_counted_once(self) -> None:
        """Of two who saw the node die, the second finds that the attempt is closed."""
        record = running()
        assert decide(lost(record), Lost(token=token_of(record), now=NOW)) == ()
        assert decide(running(token=OTHER), Lost(token=token_of(record), now=NOW)) == ()


class TestP7Exhausted:
    def test_what_is_given_back_unbegun_is_never_nearer_to_its_end(self) -> None:
        """Without a slot for it a delivery goes back as it came; exhausted, in a new message that counts no round."""
        for record in (None, attrs.evolve(running(), state=JobState.queued)):
            assert kinds(decide(record, Declined(delivery=delivery(number=5)))) == [Nak]
            (again,) = decide(record, Declined(delivery=delivery(number=26, exhausted=True, replaced=1)))
            assert isinstance(again, Replace)
            assert (again.replaced, again.expected_seq) == (1, MESSAGE.seq)
        for record in (running(), faulted()):
            assert decide(record, Declined(delivery=delivery(number=26, exhausted=True))) == ()

    def test_an_owner_replaces_what_a_nak_cannot_revive(self) -> None:
        """An exhausted message is put in anew by one atomic replace of the same generation."""
        record = running()
        effects = decide(record, attrs.evolve(failed(record), exhausted=True))
        replace = effects[-1]
        assert isinstance(replace, Replace)
        assert (replace.expected_seq, replace.spec.generation) == (5, 1)

    def test_what_is_given_back_early_is_replaced_when_it_was_the_last_delivery(self) -> None:
        """A delivery that comes before its time and is the last one allowed is not NAKed."""
        waiting = running(state=JobState.retrying, due_at=NOW + 9)
        assert decide(waiting, received()) == (Nak(MESSAGE, 9.0),)
        assert kinds(decide(waiting, received(delivery=delivery(exhausted=True)))) == [Replace]

    def test_the_sweep_replaces_what_never_got_a_record_and_counts_the_rounds(self) -> None:
        """Without a record the message counts how often it was put in anew; one round too many faults the job."""
        effects = decide(None, Stuck(now=NOW, delivery=delivery(replaced=1), max_lost=3))
        assert [e.replaced for e in effects if isinstance(e, Replace)] == [2]
        effects = decide(None, Stuck(now=NOW, delivery=delivery(replaced=3), max_lost=3))
        assert kinds(effects) == [Save, WriteDeadLetter, Unschedule, Remove, Save]
        assert (saved(effects).state, saved(effects).reason) == (JobState.faulted, "lost")

    def test_what_is_wrong_with_a_message_is_not_lost_with_it(self) -> None:
        """It is never put in anew as if it could be run: the sweep faults the job, and all others leave it."""
        wrong = delivery(number=26, exhausted=True, problem=ERROR)
        effects = decide(None, Stuck(now=NOW, delivery=wrong))
        assert kinds(effects) == [Save, WriteDeadLetter, Unschedule, Remove, Save]
        assert (saved(effects).reason, saved(effects).error) == ("invalid", ERROR)
        assert decide(None, Declined(delivery=wrong)) == ()
        assert decide(None, PriorityRequested(priority=1, now=NOW, nonce="n", delivery=wrong)) == ()

    def test_the_sweep_leaves_running_jobs_to_their_owners(self) -> None:
        """A running job's message is its owner's business, or that of whoever declares the owner lost."""
        assert decide(running(), Stuck(now=NOW, delivery=delivery())) == ()

    def test_a_job_whose_message_is_gone_is_put_in_anew_from_its_record(self) -> None:
        """A record that is not final and has no message anywhere is published again, expecting none."""
        effects = decide(lost(running()), Stuck(now=NOW))
        assert [(e.expected_seq, e.replaced) for e in effects if isinstance(e, Replace)] == [(0, 1)]


class TestP8Bare:
    def test_a_bare_job_moves_to_its_own_subject(self) -> None:
        """Never a replace on the shared subject: a copy under the id, expecting none, then the old one is removed."""
        message = attrs.evolve(MESSAGE, bare=True)
        effects = decide(None, Stuck(now=NOW, delivery=delivery(message=message)))
        assert [e.expected_seq for e in effects if isinstance(e, Replace)] == [0]
        assert effects[-1] == Remove(message)

    def test_a_retry_beside_a_bare_message_expects_none_on_the_ids_subject(self) -> None:
        """The sequence of a message on the shared subject is no expectation for the id's."""
        effects = decide(
            faulted(), RetryRequested(now=NOW, delivery=delivery(message=attrs.evolve(MESSAGE, bare=True)))
        )
        assert [e.expected_seq for e in effects if isinstance(e, Replace)] == [0]

    def test_what_ran_without_a_message_has_none_to_settle(self) -> None:
        """A record that knows of no message is saved with its end, and that is all."""
        record = running(message=None)
        assert kinds(decide(record, completed(record))) == [Save]


class TestP9Retention:
    def test_who_acks_next_may_begin_the_retention_and_who_removes_begins_it_afterwards(self) -> None:
        """A record loses its life only with its message: by the ack that follows, or after a confirmed removal."""
        record = running()
        assert [e.expires for e in decide(record, completed(record)) if isinstance(e, Save)] == [True]
        effects = decide(None, CancelRequested(reason="r", now=NOW, delivery=delivery()))
        assert kinds(effects) == [Save, Unschedule, Remove, Save]
        assert [e.expires for e in effects if isinstance(e, Save)] == [False, True]

    def test_what_is_not_final_never_expires(self) -> None:
        """The record of a job that goes on has no retention."""
        record = running()
        for event in (failed(record), Aborted(token=token_of(record), now=NOW), Lost(token=token_of(record), now=NOW)):
            assert [e.expires for e in decide(record, event) if isinstance(e, Save)] == [False]

    def test_the_sweep_begins_a_retention_that_its_ender_did_not_live_to_begin(self) -> None:
        """A crash between record and removal leaves a record that would be kept for ever, and perhaps no letter."""
        record = faulted()
        assert decide(record, Leftover(delivery=delivery(), now=NOW)) == (
            WriteDeadLetter(record),
            Remove(MESSAGE),
            Save(record, expires=True),
        )
        assert decide(record, Stuck(now=NOW)) == (WriteDeadLetter(record), Save(record, expires=True))

    def test_the_sweep_removes_what_an_earlier_life_left(self) -> None:
        """A message of an older generation goes; one of this life stays for as long as the job has not ended."""
        assert decide(running(generation=2), Leftover(delivery=delivery(), now=NOW)) == (Remove(MESSAGE),)
        assert decide(running(), Leftover(delivery=delivery(), now=NOW)) == ()


class TestP11Schedules:
    spec = JobSpec("j", "act", submitted_at=NOW)
    draft = JobRecord(spec, JobState.queued, token=Token("", 1, 0, "call"))

    def scheduled(self) -> JobRecord:
        return saved(decide(None, Submitted(spec=self.spec, nonce="call", at=NOW + 60)))

    def test_a_cancelled_schedule_leaves_no_timer(self) -> None:
        """Whoever cancelled it died before the timer was gone: left alone, it would run the job on its day (P11)."""
        record = attrs.evolve(self.scheduled(), state=JobState.cancelled, due_at=None, finished_at=NOW)
        assert decide(record, Stuck(now=NOW)) == (Unschedule(record.spec), Save(record, expires=True))

    def test_the_record_comes_before_the_schedule(self) -> None:
        """A delayed submit creates its record first, so that a second submit and a cancel find it."""
        effects = decide(None, Submitted(spec=self.spec, nonce="call", at=NOW + 60))
        assert kinds(effects) == [Save, Schedule]
        assert (saved(effects).state, saved(effects).due_at) == (JobState.scheduled, NOW + 60)

    def test_a_resend_goes_on_and_a_second_submit_does_not(self) -> None:
        """A record of this very call is its own write that was stored after all; any other has the id."""
        record = self.scheduled()
        assert kinds(decide(record, Submitted(spec=self.spec, nonce="call", at=NOW + 60))) == [Schedule]
        assert decide(record, Submitted(spec=self.spec, nonce="another call", at=NOW + 60)) == ()

    def test_a_message_that_no_timer_sent_is_a_duplicate(self) -> None:
        """An immediate submit that slipped in beside the schedule is acked and never runs."""
        assert decide(self.scheduled(), received()) == (Ack(MESSAGE),)

    def test_the_timers_message_starts_it_when_it_is_due(self) -> None:
        """The fired message starts the job; one that comes early (an older life's) is given back for the rest."""
        fired = received(delivery=delivery(scheduled=True))
        assert decide(self.scheduled(), fired) == (Nak(MESSAGE, 60.0),)
        assert saved(decide(self.scheduled(), attrs.evolve(fired, now=NOW + 60))).state is JobState.running

    def test_a_fired_message_that_the_sweep_put_in_anew_still_starts_it(self) -> None:
        """A replaced message lacks the timer's mark and is no duplicate for that."""
        again = received(delivery=delivery(replaced=1), now=NOW + 61)
        assert saved(decide(self.scheduled(), again)).state is JobState.running

    def test_the_sweep_submits_a_job_whose_timer_is_missing_when_it_is_due(self) -> None:
        """A submitter that died before its schedule leaves a record; the sweep publishes it, never early."""
        assert decide(self.scheduled(), Stuck(now=NOW)) == ()
        assert [e.replaced for e in decide(self.scheduled(), Stuck(now=NOW + 70)) if isinstance(e, Replace)] == [1]

    def test_cancel_takes_the_timer_away(self) -> None:
        """Cancelling a scheduled job records it, purges the schedule, and then lets the record expire."""
        assert kinds(decide(self.scheduled(), CancelRequested(reason="r", now=NOW))) == [Save, Unschedule, Save]


class TestP12Expiry:
    draft = changed(TestP11Schedules.draft, options=SubmitOptions(expires_in=30.0))
    spec = draft.spec

    def test_the_queued_record_follows_the_publish(self) -> None:
        """A job with a deadline has a record while it is queued, so that a sweep finds it."""
        assert decide(None, Submitted(spec=self.spec, nonce="call")) == (Publish(self.spec, "call"), Save(self.draft))

    def test_it_never_overwrites_what_a_quick_worker_wrote(self) -> None:
        """Losing the race for that record is fine: nothing is published or written again."""
        assert decide(running(), Submitted(spec=self.spec, nonce="call")) == ()

    def test_an_expired_job_never_starts(self) -> None:
        """A worker faults it with attempt 0, and so does a sweep that comes first; neither before its time."""
        options = SubmitOptions(expires_in=5.0)
        effects = decide(None, received(delivery=delivery(options=options)))
        assert kinds(effects) == [Save, WriteDeadLetter, Ack]
        assert (saved(effects).reason, saved(effects).attempt) == ("expired", 0)
        queued = changed(self.draft, submitted_at=NOW - 30)
        assert saved(decide(queued, Expired(now=NOW))).reason == "expired"
        assert decide(queued, Expired(now=NOW - 1)) == ()
        assert decide(running(options=options), Expired(now=NOW)) == ()

    def test_a_retry_that_would_come_too_late_is_not_waited_for(self) -> None:
        """When the next attempt would be due after the deadline, the job is faulted now."""
        record = running(options=SubmitOptions(expires_in=10.5), submitted_at=990.0)
        assert saved(decide(record, failed(record))).reason == "expired"

    def test_a_failure_behind_the_deadline_is_the_last(self) -> None:
        """Whether the attempt failed or its node vanished: when the deadline has passed there is no other."""
        record = running(options=SubmitOptions(expires_in=5.0), submitted_at=990.0)
        assert saved(decide(record, failed(record))).reason == "expired"
        assert saved(decide(record, Lost(token=token_of(record), now=NOW))).reason == "expired"


class TestBudgets:
    def test_failures_end_at_max_attempts_even_when_the_code_asks_for_more(self) -> None:
        """The policy's number of failures faults the job, RetryLater or not."""
        record = running(failures=2)
        assert saved(decide(record, failed(record))).state is JobState.faulted
        assert saved(decide(record, failed(record, retry_after=5.0))).state is JobState.faulted

    def test_retry_later_waits_as_long_as_the_code_asked(self) -> None:
        """Its delay replaces the policy's."""
        record = running()
        effects = decide(record, failed(record, retry_after=7.0))
        assert saved(effects).due_at == NOW + 7
        assert effects[-1] == Nak(MESSAGE, 7.0)

    def test_a_snooze_is_no_attempt(self) -> None:
        """It counts as a snooze alone; the next attempt has its number and its place, also after a lost answer."""
        record = running(failures=2)
        event = Snoozed(token=token_of(record), now=NOW, delay_s=7.0, message="not yet")
        effects = decide(record, event)
        snoozed = saved(effects)
        assert (snoozed.snoozes, snoozed.failures, snoozed.attempt) == (1, 2, record.attempt - 1)
        assert (snoozed.state, snoozed.due_at, snoozed.reason) == (JobState.retrying, NOW + 7, "not yet")
        assert effects[-1] == Nak(MESSAGE, 7.0)
        assert decide(snoozed, event) == (Nak(MESSAGE, 7.0),)
        again = saved(decide(snoozed, received(now=NOW + 7)))
        assert (again.attempt, again.reason) == (record.attempt, None)
        assert [each.number for each in again.attempts] == [each.number for each in record.attempts]

    def test_losses_and_aborts_are_no_failures(self) -> None:
        """Each budget has a counter of its own; an abort costs nothing and goes on at once."""
        record = running(failures=2)
        aborted = decide(record, Aborted(token=token_of(record), now=NOW))
        assert (saved(aborted).failures, saved(aborted).aborts, saved(aborted).state) == (2, 1, JobState.queued)
        assert aborted[-1] == Nak(MESSAGE, 0.0)
        assert (lost(record).failures, lost(record).losses) == (2, 1)

    def test_a_result_counts_even_when_a_cancel_was_asked_for(self) -> None:
        """Code that returns normally after a cancel request has completed; code that raises was cancelled."""
        record = running(cancel_request="enough")
        assert saved(decide(record, completed(record))).state is JobState.completed
        assert saved(decide(record, failed(record))).state is JobState.cancelled
        assert saved(decide(record, Aborted(token=token_of(record), now=NOW))).state is JobState.cancelled

    def test_an_ended_job_cannot_be_cancelled(self) -> None:
        """Exactly one terminal state: a cancel that comes late does nothing."""
        assert decide(faulted(), CancelRequested(reason="r", now=NOW)) == ()

    def test_a_job_that_was_never_submitted_can_be_cancelled_by_who_would_have(self) -> None:
        """It gets its final record at once, so that a submit that comes later finds it ended."""
        spec = JobSpec("j", "act", submitted_at=NOW)
        effects = decide(None, CancelRequested(reason="r", now=NOW, unsubmitted=spec))
        assert (saved(effects).state, saved(effects).reason) == (JobState.cancelled, "r")
        assert decide(None, CancelRequested(reason="r", now=NOW)) == ()
