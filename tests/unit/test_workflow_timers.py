"""The timers of a workflow's code: in which order they fire, whatever order the server has."""

from __future__ import annotations

from turnout.core.spec import NO_BODY
from turnout.core.workflows.standing import Standing, Verdict, judge, stand
from turnout.core.workflows.task import (
    INPUTS_PER_TASK,
    Author,
    Draft,
    Now,
    Returned,
    Starting,
    Turn,
    first_record,
)
from turnout.core.workflows.values import Command, CommandKind, Input, InputKind, Record, Start
from turnout.worker.workflows.task import apply_inputs

AUTHOR = Author("node", "build", "nonce")


def signal(seq: int) -> Input:
    return Input(InputKind.signal, 10.0 + seq, seq, "go", id=f"s{seq}")


def timer(seq: int, number: int) -> Input:
    return Input(InputKind.timer, 20.0 + seq, seq, f"0-{number}", life="old", run=1)


def sleeping(*due: float) -> tuple[list[Record], Standing]:
    """A run that has asked for timers which are due then."""
    records = [first_record(Starting(id="w", name="flow", life="old", nonce="n", start=Start(at=10.0, wake=1)))]
    asked = tuple(Command(f"0-{number}", CommandKind.timer, at=at) for number, at in enumerate(due))
    draft = Draft(stand([(records[0], 1)]))
    apply_inputs(draft, [], 11.0, lambda _: Turn(commands=asked))
    record = draft.record(AUTHOR, Now(at=12.0))
    assert record is not None
    records.append(record)
    return records, stand([(record, n + 1) for n, record in enumerate(records)])


def test_timers_fire_in_the_order_of_their_times() -> None:
    """In whatever order the inbox has them; those that have not come yet are due as well, and void when they come."""
    _, standing = sleeping(15.0, 13.0, 14.0, 13.0, 16.0)
    draft, heard = Draft(standing), list[tuple[str, int]]()

    def apply(given: Input) -> Turn:
        heard.append((given.what, given.seq))
        return Turn(commands=(Command("0-5", CommandKind.timer, at=13.5),) if given.what == "0-1" else ())

    lying = [(timer(5, 0), "flow"), (timer(6, 2), "flow"), (signal(7), "flow"), (timer(8, 4), "flow")]
    done = apply_inputs(draft, lying, 30.0, apply)
    assert [what for what, _ in heard] == ["0-1", "0-3", "0-5", "0-2", "0-0", "go", "0-4"]
    assert [seq for _, seq in heard if seq] == [5, 7, 8]
    assert done.void == {6}
    assert draft.upto == 8
    assert not draft.pending


def test_a_timer_that_an_earlier_one_has_taken_back_does_not_fire() -> None:
    """What runs at the earlier one may wait for the later one no more, or end the run."""
    _, standing = sleeping(15.0, 13.0)
    taken_back = Command("0-6", CommandKind.withdraw, target="0-0", about=CommandKind.timer)
    for turn, void in ((Turn(commands=(taken_back,)), {5}), (Turn(end=Returned(NO_BODY)), set[int]())):
        draft, heard = Draft(standing), list[str]()

        def apply(given: Input, turn: Turn = turn, heard: list[str] = heard) -> Turn:
            heard.append(given.what)
            return turn

        assert apply_inputs(draft, [(timer(5, 0), "flow")], 30.0, apply).void == void
        assert heard == ["0-1"]


def test_many_timers_that_are_due_fill_one_record_after_the_other() -> None:
    """A record takes no more of them than of other inputs; the one that has come stays until its turn."""
    records, standing = sleeping(*(20_000.0 - number for number in range(2 * INPUTS_PER_TASK)))
    draft = Draft(standing)
    apply_inputs(draft, [(timer(5, 0), "flow")], 30.0, lambda _: Turn())
    assert [given.what for given in draft.inputs[:2]] == ["0-1999", "0-1998"]
    assert len(draft.inputs) == INPUTS_PER_TASK
    assert draft.upto < 5
    record = draft.record(AUTHOR, Now(at=40.0))
    assert record is not None
    after = stand([(record, len(records) + 1)], standing)
    assert judge(after, timer(5, 0), "flow") is Verdict.take
