"""A workflow task without a server: which inputs it takes, in which order, and what a fork brings along."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from turnout.core.spec import NO_BODY
from turnout.core.workflows.effects import Dispatch, effects_of
from turnout.core.workflows.fork import Forking, forked
from turnout.core.workflows.standing import Standing, Verdict, judge, stand
from turnout.core.workflows.task import Author, Draft, Now, Returned, Starting, Turn, first_record
from turnout.core.workflows.values import (
    Command,
    CommandKind,
    Ending,
    EndKind,
    Input,
    InputKind,
    Record,
    Start,
)
from turnout.worker.workflows.ends import CodeBroke
from turnout.worker.workflows.task import Done, apply_inputs

AUTHOR = Author("node", "build", "nonce")


def asks(number: int) -> Turn:
    return Turn(commands=(Command(f"0-{number}", CommandKind.activity, name=f"a{number}"),))


def done(seq: int, number: int) -> Input:
    return Input(InputKind.done, 10.0 + seq, seq, f"0-{number}", run=1, ending=Ending(EndKind.completed))


def signal(seq: int) -> Input:
    return Input(InputKind.signal, 10.0 + seq, seq, "go", id=f"s{seq}")


def history() -> list[Record]:
    """Four records: begin asks for one activity; its end and a signal for two more; their ends together are the end."""
    starting = Starting(id="w", name="flow", life="old", nonce="n", start=Start(at=10.0, wake=1))
    records = [first_record(starting)]
    turns = {"begin": asks(0), "0-0": asks(1), "go": asks(2), "0-2": Turn(end=Returned(NO_BODY))}
    for inputs in ([], [done(2, 0), signal(3)], [done(4, 1), done(5, 2)]):
        records.append(_task(records, inputs, turns))
    return records


def _task(records: Sequence[Record], inputs: Sequence[Input], turns: dict[str, Turn]) -> Record:
    standing = stand([(record, n + 1) for n, record in enumerate(records)])
    draft = Draft(standing)
    lying = [(attrs.evolve(each, life="old"), "flow") for each in inputs]
    apply_inputs(draft, lying, 11.0, lambda given: turns.get(given.what, Turn()))
    record = draft.record(AUTHOR, Now(at=20.0 + len(records)))
    assert record is not None
    return record


def first_of(at: int) -> tuple[Record, Standing]:
    start, past = forked(history(), at, Forking(id="f", life="new", at=99.0))
    record = first_record(
        Starting(id="f", name="flow", life="new", nonce="m", start=attrs.evolve(start, wake=50), past=past)
    )
    return record, stand([(record, 60)])


# started, begin, ask 0 | done 0, signal, ask 1, ask 2 | done 1, done 2, completed
CUTS = {
    2: ((), ()),
    3: (("begin",), ()),
    4: ((), ("0-0",)),
    5: (("0-0",), ()),
    6: (("0-0", "go"), ()),
    7: (("0-0", "go"), ()),
    8: ((), ("0-1", "0-2")),
    9: (("0-1",), ("0-2",)),
    10: (("0-1", "0-2"), ()),
}


@pytest.mark.parametrize("at", CUTS)
def test_a_fork_asks_again_for_what_has_no_end(at: int) -> None:
    """Wherever the cut is: what has its end in front of it is not asked for, what is yet to be taken is at hand."""
    record, standing = first_of(at)
    ahead, asked = CUTS[at]
    assert tuple(given.what for given in standing.ahead) == ahead
    effects = effects_of(record)
    assert tuple(each.command.id for each in effects if isinstance(each, Dispatch)) == asked
    wake = Input(InputKind.start, 99.0, 50, life="new")
    begun = at > 3
    assert judge(standing, wake, "flow") is (Verdict.void if begun and not ahead else Verdict.wake)


def test_what_a_fork_brings_along_is_taken_first_and_once() -> None:
    """Also where the code breaks in the midst of it: what is left is the next task's, before anything of the inbox."""
    _, standing = first_of(6)
    lying = [(given, "flow") for given in standing.ahead] + [(signal(70), "flow")]
    heard: list[str] = []

    def breaks_at_the_second(given: Input) -> Turn:
        if heard:
            raise CodeBroke("a bug")
        heard.append(given.what)
        return asks(1)

    draft = Draft(standing)
    broken: Done = apply_inputs(draft, lying, 99.0, breaks_at_the_second)
    assert isinstance(broken.broken, CodeBroke)
    record = draft.record(AUTHOR, Now(at=100.0))
    assert record is not None
    after = stand([(record, 61)], standing)
    assert [given.what for given in after.ahead] == ["go"]
    assert judge(after, Input(InputKind.start, 99.0, 50, life="new"), "flow") is Verdict.wake
    draft = Draft(after)
    apply_inputs(draft, [(given, "flow") for given in after.ahead] + [(signal(70), "flow")], 99.0, lambda _: Turn())
    assert [given.seq for given in draft.inputs] == [3, 70]


def test_a_history_adds_up_the_same_at_once_and_piece_by_piece() -> None:
    """Wherever it is cut, what the records in front of the cut add up to is not changed by those behind it."""
    records = [(record, number + 1) for number, record in enumerate(history())]
    whole = stand(records)
    for cut in range(1, len(records)):
        before = stand(records[:cut])
        kept = attrs.evolve(before, pending=dict(before.pending), seen=dict(before.seen), answers=dict(before.answers))
        assert stand(records[cut:], before) == whole
        assert before == kept
    assert list(whole.seen) == ["s3"]
