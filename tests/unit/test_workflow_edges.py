"""What the core decides at the edges of a workflow's life: what is too long, unanswered, deadly or kept for ever."""

from __future__ import annotations

import attrs
import pytest

from tests.support.values import job_record
from turnout.core.failure import ErrorInfo
from turnout.core.record import JobState
from turnout.core.spec import Body
from turnout.core.workflows.caution import POISON, Caution, Handed, caution, poison_failure, trying_record
from turnout.core.workflows.effects import Dispatch, ScheduleCollection, effects_of, ended_in
from turnout.core.workflows.jobs import ending_of_try
from turnout.core.workflows.standing import Standing, Verdict, kept_anew, stand
from turnout.core.workflows.task import (
    EVENTS_MOST,
    INPUTS_PER_TASK,
    NOTHING,
    SIZE_MOST,
    TASK_BYTES,
    Author,
    Draft,
    Now,
    Returned,
    Starting,
    Turn,
    deleted_record,
    first_record,
    stuck_record,
    unpinned_record,
)
from turnout.core.workflows.values import (
    Answer,
    AnswerState,
    Command,
    CommandKind,
    Failure,
    Input,
    InputKind,
    Record,
    RecordKind,
    Start,
    WorkflowState,
)

AUTHOR = Author("a-1", "one", "nonce")
BEGIN = Input(InputKind.begin, 10.0, what="begin")
HANDED = Handed(node="b-1", build="one", number=1, resumed=False, now=100.0, ack_wait_s=10.0)
ENDED = Turn(end=Returned(Body(text="1", size=1)))


def started() -> Standing:
    start = Start(at=5.0, wake=3, payload=Body(text="{}", size=2))
    return stand([(first_record(Starting(id="o", name="order", life="L", nonce="s", start=start)), 100)])


def record_of(standing: Standing, *turns: Turn) -> Record:
    draft = Draft(standing)
    for turn in turns:
        draft.take(BEGIN, turn)
    record = draft.record(AUTHOR, Now(at=20.0))
    assert record is not None
    return record


def behind(standing: Standing, *records: Record | None) -> Standing:
    for record in records:
        assert record is not None
        standing = stand([(record, standing.seq + 1)], standing)
    return standing


@pytest.mark.parametrize(("events", "size"), [(EVENTS_MOST, 0), (0, SIZE_MOST + 1)], ids=["events", "size"])
def test_a_run_that_is_too_long_is_faulted(events: int, size: int) -> None:
    """By its events or its bytes, and not before; an end of its own comes first."""
    standing = started()
    newest = attrs.evolve(standing.newest, summary=attrs.evolve(standing.newest.summary, size=size))
    long = attrs.evolve(stand([(newest, 100)]), events=events)
    record = record_of(long, NOTHING)
    assert (record.state, record.reason) == (WorkflowState.faulted, "history_too_long")
    assert record_of(long, ENDED).state is WorkflowState.completed
    assert record_of(standing, NOTHING).state is WorkflowState.running


def test_an_end_answers_the_updates_that_were_accepted() -> None:
    """Their callers must not wait for ever; those that have their answer keep it."""
    accepted = Turn(answers=(Answer("open", AnswerState.accepted), Answer("shut", AnswerState.completed)))
    record = record_of(started(), accepted, ENDED)
    assert {each.id: each.state for each in record.answers} == {
        "open": AnswerState.failed,
        "shut": AnswerState.completed,
    }


def test_what_is_kept_for_ever_is_not_collected() -> None:
    """Without a day for it there is no schedule for the collection."""
    record = record_of(started(), ENDED)
    for gc_at, count in ((50.0, 1), (None, 0)):
        effects = effects_of(attrs.evolve(record, gc_at=gc_at))
        assert sum(isinstance(effect, ScheduleCollection) for effect in effects) == count


def test_only_an_end_of_its_own_run_spares_a_command() -> None:
    """What lies in the inbox of another run or life has ended another command, though its id be the same."""
    command = Command("0-0", CommandKind.activity, name="charge")
    record = record_of(started(), Turn(commands=(command,)))

    def spared(life: str, run: int) -> bool:
        done = Input(InputKind.done, 30.0, 7, what="0-0", life=life, run=run)
        return not any(isinstance(each, Dispatch) for each in effects_of(record, ended_in(record, [done])))

    assert spared("L", 1)
    assert not spared("L", 2)
    assert not spared("K", 1)


def test_a_deleted_one_leaves_a_mark_and_nothing_to_do() -> None:
    """The mark keeps the state of the end."""
    mark = deleted_record(behind(started(), record_of(started(), ENDED)), AUTHOR, 30.0)
    assert mark.state is WorkflowState.completed
    assert effects_of(mark) == ()


def test_a_command_is_known_again_by_what_it_is_and_not_by_what_it_says() -> None:
    """A replay may give another payload, but no other kind or name."""
    command = Command("0-0", CommandKind.activity, "charge", Body(text="1", size=1))
    assert command.same(attrs.evolve(command, body=Body(text="2", size=1)))
    assert not command.same(attrs.evolve(command, name="refund"))


def test_a_run_that_is_unpinned_goes_on_with_any_build() -> None:
    """It takes no input; one that is stuck stays so, with its failure, and one that runs runs (W11)."""
    pinning = attrs.evolve(AUTHOR, pins=True)
    draft = Draft(started())
    draft.take(BEGIN, NOTHING)
    first = draft.record(pinning, Now(at=20.0))
    assert first is not None
    assert first.summary.pin == "one"
    running = behind(started(), first)
    free = unpinned_record(running, AUTHOR, 30.0)
    assert (free.kind, free.state, free.summary.pin, free.inputs) == (RecordKind.task, WorkflowState.running, "", ())
    failure = Failure(ErrorInfo("ValueError", "no"), (), "nondeterminism")
    stuck = behind(running, stuck_record(running, AUTHOR, 25.0, failure))
    still = unpinned_record(stuck, AUTHOR, 30.0)
    assert (still.kind, still.state, still.failure) == (RecordKind.stuck, WorkflowState.stuck, failure)


def test_a_task_without_anything_is_no_record() -> None:
    """Nor is the timer of a delay given twice."""
    draft = Draft(started())
    draft.pass_over(9)
    draft.delay(6.0)
    assert draft.record(AUTHOR, Now(at=20.0)) is None
    assert draft.upto == 9


def test_a_task_takes_no_more_than_so_much() -> None:
    """By the number of its inputs, by their bytes, and none behind an end; what it took is not taken twice."""
    many, large, over = Draft(started()), Draft(started()), Draft(started())
    for seq in range(INPUTS_PER_TASK):
        assert not many.full
        many.take(Input(InputKind.signal, 10.0, 4 + seq, "add", id=f"s{seq}"), NOTHING)
    assert many.full
    assert many.judge(Input(InputKind.signal, 11.0, 999, "add", id="s0"), "order") is Verdict.void
    assert many.judge(Input(InputKind.signal, 11.0, 999, "add", id="new"), "order") is Verdict.take
    text = "x" * TASK_BYTES
    large.take(Input(InputKind.signal, 10.0, 4, "add", body=Body(text=text, size=TASK_BYTES)), NOTHING)
    assert large.full
    over.take(BEGIN, ENDED)
    assert over.full


def test_local_activities_are_known_while_they_run() -> None:
    """Those that a task asked for and has no end of; a failed attempt that is followed by another is recorded."""
    local = Command("0-0", CommandKind.local, "note", wake=3)
    draft = Draft(started())
    draft.wake = 3
    draft.take(BEGIN, Turn(commands=(local,)))
    assert draft.locals == [local]
    record = draft.record(AUTHOR, Now(at=20.0))
    standing = behind(started(), record)
    assert standing.locals == [local]
    failed = job_record("j", "note", JobState.retrying)
    tried = Input(InputKind.tried, 21.0, what="0-0", life="L", run=1, ending=ending_of_try(failed))
    again = Draft(standing)
    again.take(tried, NOTHING)
    after = behind(standing, again.record(AUTHOR, Now(at=22.0)))
    assert (after.locals, set(after.tried)) == ([local], {"0-0"})
    last = Draft(after)
    last.take(attrs.evolve(tried, kind=InputKind.done), NOTHING)
    assert behind(after, last.record(AUTHOR, Now(at=23.0))).locals == []


class TestCaution:
    def test_an_input_that_is_handed_over_and_over_is_tried_with_caution(self) -> None:
        """Often, and after a while: an ordinary redelivery is none."""
        assert caution(started(), HANDED, ()) is Caution.free
        assert caution(started(), attrs.evolve(HANDED, number=3), ()) is Caution.declare
        assert caution(started(), attrs.evolve(HANDED, number=3, now=20.0), ()) is Caution.free

    def test_whoever_tries_is_left_alone_while_it_lives(self) -> None:
        """For a minute; the one that tries goes on at once."""
        trying = behind(started(), trying_record(started(), Author("c-1", "one", "n"), 90.0))
        assert caution(trying, attrs.evolve(HANDED, node="c-1"), ()) is Caution.free
        assert caution(trying, HANDED, {"c-1"}) is Caution.elsewhere
        assert caution(trying, attrs.evolve(HANDED, now=200.0), {"c-1"}) is Caution.declare
        assert caution(trying, HANDED, ()) is Caution.declare

    def test_what_has_killed_three_nodes_is_not_tried_again(self) -> None:
        """Until the code or a person's word is new."""
        standing = started()
        for number in range(3):
            standing = behind(standing, trying_record(standing, Author(f"c-{number}", "one", f"n{number}"), 90.0))
        assert caution(standing, HANDED, ()) is Caution.poison
        failure = poison_failure(standing)
        assert failure.reason == POISON
        stuck = behind(standing, stuck_record(standing, AUTHOR, 95.0, failure))
        assert caution(stuck, HANDED, ()) is Caution.leave
        assert caution(stuck, attrs.evolve(HANDED, resumed=True), ()) is Caution.declare
        assert caution(stuck, attrs.evolve(HANDED, build="two"), ()) is Caution.declare

    def test_what_is_stuck_for_another_reason_may_be_tried(self) -> None:
        """Its code runs and fails; that kills nobody."""
        failure = Failure(ErrorInfo("ValueError", "no"), (), "nondeterminism")
        stuck = behind(started(), stuck_record(started(), AUTHOR, 95.0, failure))
        assert caution(stuck, HANDED, ()) is Caution.free
        assert stuck_record(stuck, AUTHOR, 96.0, failure) is None


@pytest.mark.parametrize(
    ("given", "wake"),
    [
        (Input(InputKind.start, 12.0, 9, "0-0", life="L", run=1), 9),
        (Input(InputKind.start, 12.0, 9, "0-1", life="L", run=1), 3),
        (Input(InputKind.start, 12.0, 9, "0-0", life="M", run=1), 3),
        (Input(InputKind.start, 12.0, 9, "0-0", life="L", run=2), 3),
        (Input(InputKind.done, 12.0, 9, "0-0", life="L", run=1), 3),
    ],
)
def test_what_was_put_back_keeps_a_local_activity(given: Input, wake: int) -> None:
    """A `start` for it, of this life and run, stands for the input that is lost; it keeps no other command."""
    local = Command("0-0", CommandKind.local, "note", wake=3)
    timer = Command("0-1", CommandKind.timer, at=60.0)
    standing = behind(started(), record_of(started(), Turn(commands=(local, timer))))
    standing = attrs.evolve(standing, pending={"0-0": local, "0-1": timer})
    found = kept_anew(standing, [given])
    assert (found.pending["0-0"].wake, found.pending["0-1"]) == (wake, timer)
