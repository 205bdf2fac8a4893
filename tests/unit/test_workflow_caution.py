"""When the code of a workflow may be loaded, how long a history may grow, and where nonces come from."""

from __future__ import annotations

import random

import attrs
import pytest

from turnout.core.spec import Body
from turnout.core.workflows.caution import POISON, Caution, Handed, caution, poison_failure, trying_record
from turnout.core.workflows.standing import Standing, stand
from turnout.core.workflows.task import EVENTS_MOST, SIZE_MOST, Author, Draft, Now, Starting, Turn, first_record
from turnout.core.workflows.task import stuck_record as stuck_behind
from turnout.core.workflows.values import Input, InputKind, Record, RecordKind, Start, WorkflowState
from turnout.store.chance import Chance

HANDED = Handed(node="me", build="b1", number=3, resumed=False, now=1_000.0, ack_wait_s=10.0)


def begun() -> Standing:
    start = Start(payload=Body(text="{}", size=2), at=900.0)
    return stand([(first_record(Starting(id="w", name="n", life="l", nonce="x", start=start)), 1)])


def after(standing: Standing, record: Record | None) -> Standing:
    assert record is not None
    return stand([(record, standing.seq + 1)], standing)


def tried(standing: Standing, *nodes: str, at: float = 950.0) -> Standing:
    for node in nodes:
        standing = after(standing, trying_record(standing, Author(node, "b1", node), at))
    return standing


@pytest.mark.parametrize(
    ("number", "now", "expected"),
    [(2, 1_000.0, Caution.free), (3, 1_000.0, Caution.declare), (3, 915.0, Caution.free)],
    ids=["handed-twice", "handed-often", "young-record"],
)
def test_what_comes_back_often_is_tried_with_caution(number: int, now: float, expected: Caution) -> None:
    """Hand-overs count only behind a record that is older than two ack waits."""
    assert caution(begun(), attrs.evolve(HANDED, number=number, now=now), ()) is expected


def test_three_dead_nodes_are_enough() -> None:
    """The third node that has died over a task is the last; one that lives is left alone with it, for a minute."""
    assert caution(tried(begun(), "a", "b"), HANDED, ()) is Caution.declare
    assert caution(tried(begun(), "a", "b"), HANDED, {"b"}) is Caution.elsewhere
    assert caution(tried(begun(), "a", "b", at=900.0), HANDED, {"b"}) is Caution.declare
    assert caution(tried(begun(), "a", "b", "c"), HANDED, ()) is Caution.poison
    assert caution(tried(begun(), "a", "b", "me"), HANDED, {"me"}) is Caution.free


def test_poison_waits_for_another_build_or_a_person() -> None:
    """Behind its stuck record no code is loaded but by resume() or a new build, and deaths count anew."""
    standing = tried(begun(), "a", "b", "c")
    record = stuck_behind(standing, Author("me", "b1", "n"), 960.0, poison_failure(standing))
    poisoned = after(standing, record)
    assert poisoned.newest.reason == POISON
    assert caution(poisoned, HANDED, ()) is Caution.leave
    assert caution(poisoned, attrs.evolve(HANDED, resumed=True), ()) is Caution.declare
    assert caution(poisoned, attrs.evolve(HANDED, build="b2"), ()) is Caution.declare
    again = tried(poisoned, "d")
    assert again.newest.state is WorkflowState.stuck
    assert again.tried_by == ("d",)


def test_what_is_stuck_by_its_own_mistake_is_always_tried() -> None:
    """An ordinary stuck workflow is tried without a record, however often it has come back."""
    failure = attrs.evolve(poison_failure(begun()), reason="code_raised")
    stuck = after(begun(), stuck_behind(begun(), Author("a", "b1", "n"), 960.0, failure))
    assert caution(stuck, attrs.evolve(HANDED, number=50), ()) is Caution.free


@pytest.mark.parametrize("limit", ["events", "size"])
def test_a_history_that_is_too_long_ends_its_workflow(limit: str) -> None:
    """Beyond its limits of events or bytes a run is faulted, and a retry does not begin another."""
    standing = begun()
    if limit == "events":
        standing = attrs.evolve(standing, events=EVENTS_MOST)
    else:
        summary = attrs.evolve(standing.newest.summary, size=SIZE_MOST + 1)
        standing = attrs.evolve(standing, newest=attrs.evolve(standing.newest, summary=summary))
    draft = Draft(standing)
    draft.take(Input(InputKind.signal, 1_000.0, 5, what="s", id="1"), Turn())
    record = draft.record(Author("a", "b", "n"), Now(at=1_000.0))
    assert record is not None
    assert (record.kind, record.state, record.reason) == (RecordKind.task, WorkflowState.faulted, "history_too_long")


def test_the_size_of_a_history_adds_up() -> None:
    """What a record takes of bodies is counted behind what the records before it took."""
    draft = Draft(begun())
    draft.take(Input(InputKind.signal, 1_000.0, 5, what="s", id="1", body=Body(text="x" * 500, size=500)), Turn())
    record = draft.record(Author("a", "b", "n"), Now(at=1_000.0))
    assert record is not None
    assert record.summary.size == 2 + 500


def test_a_seed_repeats_nonces() -> None:
    """Of one seed come the same nonces; the system's never."""
    first, second = (Chance(random.Random(7)) for _ in range(2))
    assert [first.nonce(), first.nonce(12)] == [second.nonce(), second.nonce(12)]
    assert len(Chance().nonce(12)) == 24
    assert Chance().nonce() != Chance().nonce()
