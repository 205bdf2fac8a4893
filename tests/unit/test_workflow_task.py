"""From a workflow task to its record and effects: the rules W1 to W10 as far as they are decisions."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from turnout import RetryPolicy
from turnout.core.failure import ErrorInfo
from turnout.core.spec import Asker, Body
from turnout.core.workflows.effects import (
    CancelJob,
    ClearTimer,
    ClearTimers,
    Dispatch,
    PurgeRecords,
    ScheduleCollection,
    SetTimer,
    Tell,
    Wake,
    effects_of,
)
from turnout.core.workflows.standing import BrokenHistory, Standing, Verdict, judge, stand
from turnout.core.workflows.task import (
    NOTHING,
    Author,
    Continued,
    Draft,
    Now,
    Raised,
    Returned,
    Starting,
    Stopped,
    Turn,
    first_record,
    put_begin,
    stuck_record,
    terminated_record,
)
from turnout.core.workflows.values import (
    Command,
    CommandKind,
    Ending,
    EndKind,
    Failure,
    Input,
    InputKind,
    Record,
    RecordKind,
    Start,
    WorkflowState,
    key_of,
)

AUTHOR = Author("a-1", "build", "nonce")
CHARGE = Command("0-0", CommandKind.activity, "charge", Body(text="{}", size=2))
SLEEP = Command("0-1", CommandKind.timer, at=500.0)
BEGIN = Input(InputKind.begin, 10.0, what="begin")
FAILURE = Failure(ErrorInfo("ValueError", "no"), ("builtins.ValueError", "builtins.Exception"))


def started(**changes: object) -> Standing:
    start = attrs.evolve(Start(at=5.0, wake=3, payload=Body(text="{}", size=2)), **changes)  # type: ignore[arg-type]
    record = first_record(Starting(id="o", name="order", life="L", nonce="s", start=start))
    return stand([(record, 100)])


def task(standing: Standing, *taken: tuple[Input, Turn], at: float = 20.0) -> tuple[Record, Standing]:
    draft = Draft(standing)
    for given, turn in taken:
        draft.take(given, turn)
    record = draft.record(AUTHOR, Now(at=at))
    assert record is not None
    return record, stand([(record, standing.seq + 1)], standing)


def signal(seq: int, name: str = "add", signal_id: str = "") -> Input:
    return Input(InputKind.signal, float(seq), seq, name, signal_id)


def done(seq: int, command: str, run: int = 1, life: str = "L") -> Input:
    return Input(InputKind.done, float(seq), seq, command, life=life, run=run, ending=Ending(EndKind.completed))


def kinds(inputs: Sequence[Input]) -> list[str]:
    return [str(each.kind) for each in inputs]


def test_begin_goes_behind_what_lies_there_but_before_the_first_cancel() -> None:
    """A first signal finds its handler before run can end, and a cancel finds that run has begun."""
    cancel = Input(InputKind.cancel, 9.0, 9)
    assert kinds(put_begin([signal(4), signal(5)], 1.0)) == ["signal", "signal", "begin"]
    assert kinds(put_begin([signal(4), cancel, signal(10)], 1.0)) == ["signal", "begin", "cancel", "signal"]
    assert put_begin([signal(40)], 1.0)[1].at == 40.0


def test_a_task_is_one_record_behind_the_newest() -> None:
    """It has the inputs, the commands and where the next one goes on; the fold of it waits for what was asked for."""
    record, after = task(started(), (signal(4, signal_id="i"), NOTHING), (BEGIN, Turn(commands=(CHARGE, SLEEP))))
    assert (record.number, record.upto, record.behind, record.kind) == (1, 4, 0, RecordKind.task)
    assert set(after.pending) == {"0-0", "0-1"}
    assert after.begun
    assert "i" in after.seen


def test_nothing_taken_is_no_record() -> None:
    """A task that finds only void inputs appends nothing."""
    draft = Draft(started())
    draft.pass_over(7)
    assert draft.record(AUTHOR, Now(at=1.0)) is None


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (signal(5, signal_id="new"), Verdict.take),
        (signal(5, signal_id="old"), Verdict.void),
        (signal(2), Verdict.covered),
        (attrs.evolve(signal(5), life="other"), Verdict.void),
        (done(5, "0-0"), Verdict.take),
        (done(5, "0-0", run=2), Verdict.void),
        (done(5, "0-0", life="other"), Verdict.void),
        (done(5, "0-9"), Verdict.void),
        (Input(InputKind.timer, 5.0, 5, "0-1", life="L", run=1), Verdict.take),
        (Input(InputKind.timer, 5.0, 5, "timeout", life="L"), Verdict.end),
        (Input(InputKind.terminate, 5.0, 5), Verdict.end),
        (Input(InputKind.start, 5.0, 5, life="L"), Verdict.void),
        (Input(InputKind.gc, 5.0, 5, life="L"), Verdict.void),
        (Input(InputKind.joining, 5.0, 5), Verdict.take),
        (Input(InputKind.cancel, 5.0, 5), Verdict.take),
    ],
)
def test_what_an_input_means_to_an_open_workflow(given: Input, verdict: Verdict) -> None:
    """W3: of another life, of a command that does not wait, seen before, or too old: void."""
    first = (signal(4, signal_id="old"), NOTHING)
    _, standing = task(started(), first, (BEGIN, Turn(commands=(CHARGE, SLEEP))))
    assert judge(standing, given, "order") is verdict
    if verdict is Verdict.take:
        assert judge(standing, given, "another name") is Verdict.void


def test_a_start_wakes_until_its_run_has_begun() -> None:
    """The wake-up of the first task is kept until `begin` stands in a record."""
    start = Input(InputKind.start, 3.0, 3, life="L")
    assert judge(started(), start, "order") is Verdict.wake
    _, standing = task(started(), (BEGIN, NOTHING))
    assert judge(standing, start, "order") is Verdict.void


def test_inputs_before_the_start_are_another_lifes() -> None:
    """A bare signal counts from the start's own wake-up on."""
    assert judge(started(), attrs.evolve(signal(2)), "order") is Verdict.void
    assert judge(started(), signal(3), "order") is Verdict.take


def test_an_ended_one_takes_nothing_but_answers_and_is_collected() -> None:
    """After the end all is void but a join, which is answered, and the gc of its own life."""
    _, standing = task(started(), (BEGIN, Turn(end=Returned(Body(text="1", size=1)))))
    assert judge(standing, signal(9), "order") is Verdict.void
    assert judge(standing, Input(InputKind.joining, 9.0, 9), "order") is Verdict.answer
    assert judge(standing, Input(InputKind.gc, 9.0, 9, life="L"), "order") is Verdict.collect
    assert judge(standing, Input(InputKind.gc, 9.0, 9, life="other"), "order") is Verdict.void


def test_the_effects_of_commands_are_named_by_life_run_and_command() -> None:
    """An activity becomes a job of a derived id, a timer a schedule; a command whose end is there is not repeated."""
    record, _ = task(started(), (BEGIN, Turn(commands=(CHARGE, SLEEP))))
    assert effects_of(record) == (Dispatch(CHARGE, key_of("o", "L", 1, "0-0")), SetTimer("0-1", 1, 500.0))
    assert effects_of(record, {"0-0"}) == (SetTimer("0-1", 1, 500.0),)


def test_an_end_takes_back_what_it_waits_for_and_tells_who_asked() -> None:
    """Jobs are cancelled, timers purged, parent and joiners told, the collection scheduled last."""
    parent = Asker("p", "family", "PL", 1, "0-3")
    joiner = Asker("j", "other", "JL", 1, "0-0")
    _, standing = task(started(parent=parent), (BEGIN, Turn(commands=(CHARGE, SLEEP))))
    join = Input(InputKind.joining, 6.0, 6, asker=joiner)
    record, _ = task(standing, (join, NOTHING), (signal(7), Turn(end=Returned(Body(text="1", size=1)))))
    assert record.state is WorkflowState.completed
    ending = Ending(EndKind.completed, Body(text="1", size=1))
    effects = effects_of(record)
    assert isinstance(effects[0], CancelJob)
    assert effects[1] == ClearTimers(1)
    assert effects[2:4] == (Tell(parent, ending), Tell(joiner, ending))
    assert isinstance(effects[-1], ScheduleCollection)


def test_a_withdrawn_command_does_not_wait_any_more() -> None:
    """Its timer is purged or its job cancelled, and its end is void."""
    _, standing = task(started(), (BEGIN, Turn(commands=(CHARGE, SLEEP))))
    about = Command("0-2", CommandKind.withdraw, "", target="0-1", about="timer")
    record, after = task(standing, (signal(6), Turn(commands=(about,))))
    assert effects_of(record) == (ClearTimer("0-1", 1),)
    assert set(after.pending) == {"0-0"}


def test_continue_as_new_ends_one_run_and_begins_the_next() -> None:
    """One record: it takes back the old run's, carries what was not received, and wakes the next run's first task."""
    _, standing = task(started(), (BEGIN, Turn(commands=(CHARGE,))))
    left = signal(6, "later", "kept")
    turn = Turn(end=Continued(Body(text="[2]", size=3)), unreceived=(left,))
    record, after = task(standing, (left, turn))
    assert (record.run, record.done_run, after.run) == (2, 1, 2)
    assert record.start is not None
    assert record.start.carried == (left,)
    assert (after.begun, dict(after.pending), after.seen["kept"]) == (False, {}, 6.0)
    assert effects_of(record)[-2:] == (Wake(), PurgeRecords())
    assert judge(after, done(9, "0-0"), "order") is Verdict.void


def test_a_failed_run_is_tried_again_if_its_policy_says_so() -> None:
    """The next run waits for its delay; the last failure is the end; Fatal and a cancelled one are not retried."""
    policy = RetryPolicy(max_attempts=2, delay=10, jitter=0)
    record, after = task(started(retry=policy), (BEGIN, Turn(end=Raised(FAILURE))), at=20.0)
    assert record.start is not None
    assert (record.run, record.start.due_at, record.start.attempt) == (2, 30.0, 2)
    assert after.waits_for_delay
    again, _ = task(after, (BEGIN, Turn(end=Raised(FAILURE))))
    assert (again.state, again.reason) == (WorkflowState.faulted, "failed")
    fatal = attrs.evolve(FAILURE, mro=("turnout.errors.Fatal",))
    once, _ = task(started(retry=policy), (BEGIN, Turn(end=Raised(fatal))))
    assert once.state is WorkflowState.faulted


def test_a_cancel_that_was_asked_for_is_the_end() -> None:
    """The reason is the first one that was given."""
    first = Input(InputKind.cancel, 6.0, 6, body=Body(text="enough"))
    record, _ = task(started(), (BEGIN, NOTHING), (first, Turn(end=Stopped())))
    assert (record.state, record.reason) == (WorkflowState.cancelled, "enough")


def test_stuck_is_recorded_once() -> None:
    """A second failure behind a stuck record writes nothing; a task behind it goes on where the code was."""
    _, standing = task(started(), (BEGIN, Turn(commands=(CHARGE,))))
    record = stuck_record(standing, AUTHOR, 30.0, FAILURE)
    assert record is not None
    stuck = stand([(record, 102)], standing)
    assert (stuck.state, stuck.upto, set(stuck.pending)) == (WorkflowState.stuck, standing.upto, {"0-0"})
    assert stuck_record(stuck, AUTHOR, 31.0, FAILURE) is None
    repaired, _ = task(stuck, (done(9, "0-0"), NOTHING))
    assert repaired.state is WorkflowState.running


def test_terminate_needs_no_code() -> None:
    """It names the input that it carries out, and takes everything back."""
    _, standing = task(started(timeout=60.0), (BEGIN, Turn(commands=(CHARGE, SLEEP))))
    record = terminated_record(standing, AUTHOR, 30.0, Input(InputKind.terminate, 29.0, 9, body=Body(text="out")))
    assert (record.state, record.reason, record.carries_out) == (WorkflowState.terminated, "out", 9)
    assert ClearTimer("timeout", 0) in effects_of(record)
    timed = terminated_record(standing, AUTHOR, 70.0, Input(InputKind.timer, 65.0, 9, "timeout", life="L"))
    assert (timed.state, timed.reason) == (WorkflowState.faulted, "timed_out")


def test_the_timeout_of_the_whole_workflow_is_an_effect_of_record_0() -> None:
    """It is due from the start, or from the time of a delayed one."""
    assert effects_of(started(timeout=60.0).newest) == (SetTimer("timeout", 0, 65.0),)
    delayed = started(timeout=60.0, due_at=50.0)
    assert delayed.state is WorkflowState.scheduled
    assert effects_of(delayed.newest) == (SetTimer("timeout", 0, 110.0),)


def test_a_delayed_start_gives_its_timer_and_nothing_else() -> None:
    """Its first task gives the timer `delay`; signals are taken meanwhile; it stays scheduled."""
    standing = started(due_at=50.0)
    draft = Draft(standing)
    draft.delay(6.0)
    record = draft.record(AUTHOR, Now(at=6.0))
    assert record is not None
    assert (record.state, effects_of(record)) == (WorkflowState.scheduled, (SetTimer("delay", 1, 50.0),))
    after = stand([(record, 101)], standing)
    assert after.delayed
    assert judge(after, Input(InputKind.timer, 50.0, 9, "delay", life="L", run=1), "order") is Verdict.take


def test_records_that_do_not_follow_one_another_are_no_history() -> None:
    """A hole, or a beginning that begins no run, is read again and never replayed."""
    record, after = task(started(), (BEGIN, NOTHING))
    with pytest.raises(BrokenHistory):
        stand([(record, 101)])
    with pytest.raises(BrokenHistory):
        stand([(attrs.evolve(record, number=3), 103)], after)
    with pytest.raises(BrokenHistory):
        stand([])


def test_only_the_newest_record_newly_covers_an_input() -> None:
    """What the record before had already is not repeated."""
    first, standing = task(started(), (signal(4), NOTHING), (BEGIN, NOTHING))
    second, _ = task(standing, (signal(9), NOTHING))
    assert [seq for seq in (3, 4, 5, 9, 10) if second.newly_covers(seq)] == [5, 9]
    assert first.newly_covers(4)
