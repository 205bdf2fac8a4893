"""What a fork shares with the run that it was forked from, and what it asks for anew (W16)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from turnout import InvalidValue
from turnout.core.failure import ErrorInfo
from turnout.core.spec import Asker, Body
from turnout.core.workflows.effects import Dispatch, SendSignal, StartChild, Tell, effects_of
from turnout.core.workflows.fork import Forking, failed_at, forked, with_past
from turnout.core.workflows.shared import steps_of
from turnout.core.workflows.standing import Standing, Verdict, judge, stand
from turnout.core.workflows.task import (
    Author,
    Continued,
    Draft,
    Now,
    Raised,
    Returned,
    Starting,
    Turn,
    first_record,
    terminated_record,
)
from turnout.core.workflows.values import (
    Answer,
    AnswerState,
    ChildOptions,
    Command,
    CommandKind,
    Ending,
    EndKind,
    Failure,
    Input,
    InputKind,
    Record,
    Start,
    Wait,
    WorkflowState,
    key_of,
)

BEGIN = Input(InputKind.begin, 10.0, what="begin")
CHARGE = Command("0-0", CommandKind.activity, "charge", Body(text="{}", size=2))
SHIP = Command("0-1", CommandKind.activity, "ship")
LOCAL = Command("0-2", CommandKind.local, "note", wake=3)
REQUEST = Command("0-3", CommandKind.request, "ship", target="0-1", about="activity")
FAILURE = Failure(ErrorInfo("ValueError", "no"))
FORKING = Forking(id="f", life="F", at=100.0)


def run_of(*tasks: tuple[Input, Turn], start: Start | None = None, at: float = 20.0) -> list[Record]:
    """The history of a run with a record for each task."""
    start = start or Start(at=5.0, wake=3, payload=Body(text="{}", size=2))
    records = [first_record(Starting(id="o", name="order", life="L", nonce="s", start=start))]
    standing = stand([(records[0], 100)])
    for given, turn in tasks:
        draft = Draft(standing)
        draft.take(given, turn)
        record = draft.record(Author("a-1", "one", f"n{len(records)}"), Now(at=at, waits=(Wait("activity"),)))
        assert record is not None
        records.append(record)
        standing = stand([(record, standing.seq + 1)], standing)
    return records


def done(command: str, kind: EndKind = EndKind.completed, seq: int = 7) -> Input:
    return Input(InputKind.done, float(seq), seq, command, life="L", run=1, ending=Ending(kind))


def signal(seq: int, **changes: Any) -> Input:
    return attrs.evolve(Input(InputKind.signal, float(seq), seq, "add"), **changes)


def fork_at(records: list[Record], at: int, wake: int = 50) -> tuple[Record, Standing]:
    """Record 0 of a fork from event number `at` on, and where it stands."""
    start, past = forked(records, at, FORKING)
    start = attrs.evolve(start, wake=wake)
    record = with_past(first_record(Starting(id="f", name="order", life="F", nonce="f", start=start)), past)
    return record, stand([(record, 200)])


def test_it_shares_the_tasks_before_the_event_and_asks_again_for_what_had_not_ended() -> None:
    """Events: 1 start, 2 begin, 3 charge, 4 ship, 5 the end of charge, 6 the end of the run."""
    end = Turn(end=Raised(FAILURE))
    records = run_of((BEGIN, Turn(commands=(CHARGE, SHIP), patches=("new",))), (done("0-0"), end))
    record, standing = fork_at(records, 5)
    assert (record.state, record.inputs, record.commands) == (WorkflowState.running, (BEGIN,), (CHARGE, SHIP))
    assert (standing.begun, set(standing.pending), standing.events) == (True, {"0-0", "0-1"}, 4)
    assert standing.patches == {"new"}
    assert [each.key for each in effects_of(record) if isinstance(each, Dispatch)] == [
        key_of("f", "F", 1, "0-0"),
        key_of("f", "F", 1, "0-1"),
    ]
    assert (record.summary.waits, record.summary.waiting) == ((Wait("activity"),), 1), "as the last task has left it"
    assert [each.shared.inputs for each in steps_of(record)] == [1]
    later, after = fork_at(records, 6)
    assert after.ahead == (attrs.evolve(done("0-0"), life="F"),), "the task that ended the run is cut before its end"
    assert [each.command for each in effects_of(later) if isinstance(each, Dispatch)] == [SHIP]


def test_the_inputs_of_a_task_that_is_cut_come_first() -> None:
    """They are given to the code as new ones, under the life of the fork, before all that lies in its inbox."""
    records = run_of((BEGIN, Turn(commands=(CHARGE,))), (signal(6), Turn(commands=(SHIP,))))
    record, standing = fork_at(records, 5)
    assert standing.ahead == (signal(6, life="F"),)
    assert record.summary.waits == ()
    woken = Input(InputKind.start, 50.0, 50)
    assert judge(standing, woken, "order") is Verdict.wake
    draft = Draft(standing)
    draft.take(standing.ahead[0], Turn(commands=(SHIP,)))
    first = draft.record(Author("a-2", "one", "n"), Now(at=110.0))
    assert first is not None
    assert stand([(first, 201)], standing).ahead == ()


def test_an_end_that_is_ahead_is_not_asked_for_again() -> None:
    """The input of the cut task has ended the activity already."""
    records = run_of((BEGIN, Turn(commands=(CHARGE, SHIP))), (done("0-0"), Turn(commands=(LOCAL,))))
    record, _ = fork_at(records, 6)
    assert [each.command for each in effects_of(record) if isinstance(each, Dispatch)] == [SHIP]


def test_a_local_activity_is_run_by_the_forks_own_wake_up() -> None:
    """What kept it for the workflow before is in another inbox (W15)."""
    _, standing = fork_at(run_of((BEGIN, Turn(commands=(LOCAL,)))), 4)
    assert standing.locals == [attrs.evolve(LOCAL, wake=50)]


def test_what_was_asked_to_cancel_is_asked_again() -> None:
    """As long as it is waited for."""
    records = run_of((BEGIN, Turn(commands=(SHIP, REQUEST))))
    record, standing = fork_at(records, 5)
    assert standing.requested == {"0-1"}
    assert [type(each).__name__ for each in effects_of(record)] == ["Dispatch", "CancelJob"]


def test_nobody_is_told_of_the_forks_end_who_asked_for_that_of_the_workflow_before() -> None:
    """Parents and those who joined asked another one; neither do its callers wait for answers here."""
    asker = Asker("p", "family", "PL", 1, "0-3")
    start = Start(at=5.0, wake=3, parent=asker, schedule="nightly", attempt=2)
    joining = Input(InputKind.joining, 6.0, 6, asker=asker)
    update = Input(InputKind.update, 7.0, 8, "add", "u1")
    accepted = Turn(answers=(Answer("u1", AnswerState.accepted),))
    answered = Turn(answers=(Answer("u1", AnswerState.completed),))
    records = run_of((BEGIN, Turn()), (joining, Turn()), (update, accepted), (signal(9), answered), start=start)
    assert dict(stand([(each, n) for n, each in enumerate(records)]).asked) == {}
    record, standing = fork_at(records, 6)
    assert record.start is not None
    assert (record.start.parent, record.start.schedule, record.start.attempt) == (None, "", 1)
    assert standing.joined == ()
    assert dict(standing.asked) == {}
    assert set(standing.answers) == {"u1"}


def test_a_cancel_that_is_shared_was_asked_for() -> None:
    """The fork's listing says so, with the reason."""
    cancel = Input(InputKind.cancel, 6.0, 6, body=Body(text="enough"))
    record, standing = fork_at(run_of((BEGIN, Turn()), (cancel, Turn(commands=(SHIP,)))), 5)
    assert record.summary.cancel_request == "enough"
    assert standing.cancel_request == "enough"


@pytest.mark.parametrize("delayed", [True, False])
def test_a_delay_that_is_not_over_is_waited_for(delayed: bool) -> None:
    """One that is over when the fork is made begins at once, and so does one that had begun."""
    start = Start(at=5.0, wake=3, due_at=500.0 if delayed else 50.0, carried=(signal(4, id="s"), signal(5)))
    records = run_of(start=start)
    record, standing = fork_at(records, 3)
    assert record.state is (WorkflowState.scheduled if delayed else WorkflowState.running)
    assert record.summary.due_at == (500.0 if delayed else None)
    assert record.start is not None
    assert record.start.carried == (signal(4, id="s"),), "what rides along is cut as well"
    assert (standing.begun, standing.events) == (False, 2)
    begun, _ = fork_at(run_of((BEGIN, Turn(commands=(CHARGE,))), start=start), 6)
    assert begun.state is WorkflowState.running


def test_a_fork_of_a_fork_shares_what_that_had_shared() -> None:
    """Record 0 of a fork has the work of many tasks, which are told apart."""
    records = run_of((BEGIN, Turn(commands=(CHARGE,))), (signal(6), Turn(commands=(SHIP,))), (signal(7), Turn()))
    first, _ = fork_at(records, 6)
    again, standing = fork_at([first], 4)
    assert (again.inputs, again.commands) == ((BEGIN,), (CHARGE,))
    assert set(standing.pending) == {"0-0"}


def test_a_run_that_continued_is_forked_from_its_own_beginning() -> None:
    """The record that ends one run begins the next; its last task belongs to the run before."""
    records = run_of((BEGIN, Turn(end=Continued(Body(text="[2]", size=3)), unreceived=(signal(6, id="s"),))))
    draft = Draft(stand([(records[-1], 101)]))
    draft.take(BEGIN, Turn(commands=(CHARGE,)))
    newest = draft.record(Author("a-1", "one", "n9"), Now(at=30.0))
    assert newest is not None
    record, standing = fork_at([records[-1], newest], 5)
    assert (record.run, record.commands, set(standing.pending)) == (2, (CHARGE,), {"0-0"})
    with pytest.raises(InvalidValue, match="from 3 to 5"):
        fork_at([records[-1], newest], 2)


@pytest.mark.parametrize("at", [1, 7, 0, True, "2", None])
def test_the_event_has_to_be_there(at: Any) -> None:
    """Of an open run it may be the one that comes next; the start alone is no fork."""
    records = run_of((BEGIN, Turn(commands=(CHARGE, SHIP))))
    with pytest.raises(InvalidValue, match="an event from 2 to 5 of workflow o, whose newest run has 4"):
        forked(records, at, FORKING)
    ended = run_of((BEGIN, Turn(end=Returned(Body(text="1", size=1)))))
    with pytest.raises(InvalidValue, match="from 2 to 3 "):
        forked(ended, 4, FORKING)


def test_a_history_without_its_beginning_is_not_forked() -> None:
    """The first record of a run says what it was started with."""
    records = run_of((BEGIN, Turn(commands=(CHARGE,))))
    with pytest.raises(InvalidValue, match="does not begin with the begin of a run"):
        forked(records[1:], 2, FORKING)


def test_what_it_brings_covers_nothing_of_its_inbox() -> None:
    """It lay in the inbox of the workflow before it, which has other numbers."""
    records = run_of((BEGIN, Turn(commands=(CHARGE,))), (signal(9), Turn(commands=(SHIP,))))
    _, standing = fork_at(records, 5)
    (given,) = standing.ahead
    draft = Draft(standing)
    draft.take(given, Turn())
    assert draft.upto == 0
    draft.take(signal(51), Turn())
    assert draft.upto == 51


class TestChildren:
    def forked_child(self, child: Command, end: EndKind | None) -> Command:
        tasks = [(BEGIN, Turn(commands=(child,)))]
        tasks += [(done(child.id, end), Turn(commands=(SHIP,)))] if end is not None else []
        record, _ = fork_at(run_of(*tasks), 4)
        (renamed,) = record.commands
        return renamed

    def test_one_without_a_name_of_its_own_is_another_child(self) -> None:
        """Its id derives from the workflow's life."""
        child = Command("0-0", CommandKind.child, "sub", target=key_of("o", "L", 1, "0-0"), child=ChildOptions())
        assert self.forked_child(child, None).target == key_of("f", "F", 1, "0-0")

    @pytest.mark.parametrize(
        ("end", "if_exists"),
        [
            (None, "join"),
            (EndKind.completed, "join"),
            (EndKind.faulted, "join"),
            (EndKind.exists, "raise"),
        ],
    )
    def test_one_whose_id_the_code_has_chosen_is_there_already(self, end: EndKind | None, if_exists: str) -> None:
        """It is joined, not started twice; one that was another's stays another's."""
        child = Command("0-0", CommandKind.child, "sub", target="mine", child=ChildOptions(if_exists="raise"))
        renamed = self.forked_child(child, end)
        assert renamed.target == "mine"
        assert renamed.child is not None
        assert renamed.child.if_exists == if_exists

    @pytest.mark.parametrize(("ours", "theirs"), [(key_of("o", "L", 1, "0-0"), key_of("f", "F", 1, "0-0")), ("m", "m")])
    def test_what_is_about_it_is_about_the_one_of_the_fork(self, ours: str, theirs: str) -> None:
        """Who takes it back, or sends it something, means the child under its new id."""
        child = Command("0-0", CommandKind.child, "sub", target=ours, child=ChildOptions())
        sent = Command("0-1", CommandKind.signal, "go", target=ours)
        about = Command("0-2", CommandKind.withdraw, f"{ours} sub", target="0-0", about="child")
        record, _ = fork_at(run_of((BEGIN, Turn(commands=(child, sent, about)))), 6)
        assert [each.target for each in record.commands] == [theirs, theirs, "0-0"]
        assert record.commands[2].name == f"{theirs} sub"

    @pytest.mark.parametrize(
        ("target", "end", "again"),
        [
            (key_of("o", "L", 1, "0-0"), None, True),
            ("mine", None, False),
            (key_of("o", "L", 1, "0-0"), EndKind.completed, False),
        ],
    )
    def test_another_child_is_sent_what_the_one_before_was_sent(
        self, target: str, end: EndKind | None, again: bool
    ) -> None:
        """What had been taken is sent again to a child that is started anew, not to one that is joined."""
        child = Command("0-0", CommandKind.child, "sub", target=target, child=ChildOptions())
        sent = Command("0-1", CommandKind.signal, "go", target=target)
        tasks = [(BEGIN, Turn(commands=(child, sent))), (done("0-1"), Turn(commands=(SHIP,)))]
        tasks += [(done("0-0", end, 8), Turn(commands=(REQUEST,)))] if end is not None else []
        record, _ = fork_at(run_of(*tasks), 9 if end is EndKind.completed else 7)
        assert any(isinstance(each, SendSignal) for each in effects_of(record)) == again
        replacing = (
            attrs.evolve(each, child=each.child and attrs.evolve(each.child, if_exists="replace"))
            for each in record.commands
        )
        effects = effects_of(attrs.evolve(record, commands=tuple(replacing)))
        assert any(isinstance(each, SendSignal) for each in effects) == (end is None)

    @pytest.mark.parametrize("target", [key_of("o", "L", 1, "0-0"), "mine"])
    @pytest.mark.parametrize("kind", [CommandKind.signal, CommandKind.cancel])
    def test_one_whose_end_is_shared_stays_who_it_was_and_is_sent_nothing(self, target: str, kind: CommandKind) -> None:
        """What the code had sent it, and was not told yet whether that was taken, counts as taken. Not so what it has
        sent to another one under that id, who goes on."""
        child = Command("0-0", CommandKind.child, "sub", target=target, child=ChildOptions())
        sent = Command("0-5", kind, "go", target=target)
        begun, ended = (BEGIN, Turn(commands=(child, sent))), done("0-0")
        record, _ = fork_at(run_of(begun, (ended, Turn(commands=(SHIP,)))), 7)
        assert [each.target for each in record.commands[:2]] == [target, target]
        tell, dispatch = effects_of(record)
        assert tell == Tell(Asker("f", "order", "F", 1, "0-5"), Ending(EndKind.completed))
        assert isinstance(dispatch, Dispatch)
        assert effects_of(record, {"0-5"}) == (dispatch,)

        another = attrs.evolve(child, id="0-4")
        record, _ = fork_at(run_of(begun, (ended, Turn(commands=(another,)))), 7)
        assert not any(isinstance(each, Tell) for each in effects_of(record))

    def test_it_is_started_under_its_new_name(self) -> None:
        """As any child of the fork."""
        child = Command("0-0", CommandKind.child, "sub", target=key_of("o", "L", 1, "0-0"), child=ChildOptions())
        record, _ = fork_at(run_of((BEGIN, Turn(commands=(child,)))), 4)
        (start,) = effects_of(record)
        assert isinstance(start, StartChild)
        assert start.command.target == key_of("f", "F", 1, "0-0")


class TestFailedAt:
    def test_it_is_the_end_that_the_run_failed_by(self) -> None:
        """Without it the activity has not ended, so it is asked for anew."""
        failed = (done("0-0", EndKind.faulted), Turn(end=Raised(FAILURE)))
        records = run_of((BEGIN, Turn(commands=(CHARGE,))), failed)
        assert failed_at(records) == 4
        record, _ = fork_at(records, failed_at(records))
        assert [type(each) for each in effects_of(record)] == [Dispatch]

    def test_where_the_code_failed_by_itself_its_last_input_comes_again(self) -> None:
        """What it had asked for before stays as it ended."""
        records = run_of(
            (BEGIN, Turn(commands=(CHARGE,))), (done("0-0"), Turn()), (signal(9), Turn(end=Raised(FAILURE)))
        )
        assert failed_at(records) == 6
        _, standing = fork_at(records, 6)
        assert [each.kind for each in standing.ahead] == [InputKind.signal]
        assert dict(standing.pending) == {}

    def test_where_one_was_cancelled_because_of_another_it_is_the_other(self) -> None:
        """As a task group does: it asks the rest to cancel when one has failed, and fails with the last end."""
        records = run_of(
            (BEGIN, Turn(commands=(CHARGE, SHIP))),
            (done("0-0", EndKind.faulted), Turn(commands=(REQUEST,))),
            (done("0-1", EndKind.cancelled, 8), Turn(end=Raised(FAILURE))),
        )
        assert failed_at(records) == 5

    def test_a_cancel_that_nothing_had_failed_before_is_no_cause(self) -> None:
        """The code has thought better of it by itself."""
        records = run_of(
            (BEGIN, Turn(commands=(CHARGE, SHIP))),
            (signal(6), Turn(commands=(REQUEST,))),
            (done("0-1", EndKind.cancelled, 8), Turn(end=Raised(FAILURE))),
        )
        assert failed_at(records) == 7

    def test_a_run_that_was_ended_without_its_code_goes_on_where_it_was(self) -> None:
        """Its last record has no inputs: all before that is shared."""
        records = run_of((BEGIN, Turn(commands=(CHARGE,))))
        standing = stand([(each, n) for n, each in enumerate(records)])
        out = Input(InputKind.terminate, 29.0, 9, body=Body(text="out"))
        end = terminated_record(standing, Author("a-1", "one", "n"), 30.0, out)
        assert failed_at([*records, end]) == 4
