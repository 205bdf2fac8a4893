"""Who may have a place, and when it is free again; and how limits are declared."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from turnout import DefinitionError, InvalidValue, Limit, activity
from turnout.core.limits import (
    Effective,
    Holder,
    LimitKey,
    LimitRecord,
    Places,
    Rule,
    effective,
    hashed,
    is_abandoned,
    is_over,
    next_turn,
)
from turnout.core.record import JobState
from turnout.wire.limits import dump_places, load_places


def holder(job: str = "a", turn: int = 1, generation: int = 1, node: str = "") -> Holder:
    return Holder("act", job, generation, turn, 0.0, node)


STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from("abcd"), st.integers(1, 3)), max_size=40)
RATED = st.lists(
    st.tuples(st.sampled_from("pbrgl"), st.sampled_from("abcd"), st.sampled_from([0, 0.01, 0.3, 2])), max_size=60
)


@given(STEPS, st.integers(0, 3))
def test_there_are_never_more_holders_than_places(steps: list[tuple[bool, str, int]], most: int) -> None:
    """Whoever takes and leaves in whatever order: no more holders than the limit has, and one place a job at most."""
    places = Places("k", "k")
    for takes, job, turn in steps:
        each = holder(job, turn)
        places = (places.taken_by(each, Rule(most), 0.0) or places) if takes else places.without(each)
        assert len(places.holders) <= most
        assert len({held.id for held in places.holders}) == len(places.holders)


MANY = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3), st.sampled_from(["", "n"])), max_size=12)
RULES = [Rule(2), Rule(1, 1.0, 1.0, 2), Rule(rate=1.0, burst=3), Rule(3, 0.0), Rule()]


@given(MANY, MANY, st.sampled_from(RULES))
def test_those_who_are_seated_together_have_what_they_would_have_one_after_the_other(
    before: list[tuple[str, int, str]], wanting: list[tuple[str, int, str]], rule: Rule
) -> None:
    """However many want places at once, and of whichever limit: each has what it would have had alone in its turn."""
    held, _ = Places("k", "k").seating([holder(job, turn, node=node) for job, turn, node in before], rule, 1.0)
    together = [holder(job, turn, node=node) for job, turn, node in wanting]
    places, seated = held, []
    for each in together:
        taken = places.taken_by(each, rule, 2.0)
        seated.append(taken is not None)
        places = taken or places
    assert held.seating(together, rule, 2.0) == (places, seated)


@given(MANY)
def test_who_holds_places_is_read_as_it_was_written(holding: list[tuple[str, int, str]]) -> None:
    """With all of them, those that nobody has received yet among them."""
    held, _ = Places("k", "n").seating([holder(job, turn, node=node) for job, turn, node in holding], Rule(), 1.0)
    assert load_places(dump_places(held)) == held


@given(RATED, st.integers(1, 3), st.sampled_from([None, 2]), st.sampled_from([0.5, 3.0]))
def test_no_window_has_more_starts_than_the_rate_allows(
    steps: list[tuple[str, str, float]], burst: int, concurrency: int | None, rate: float
) -> None:
    """Whatever is promised, begun, received, given back and left, and when: in no time do more attempts start than come
    back of the tokens in it, and a burst."""
    rule = Rule(concurrency, rate, 1.0, burst)
    places, now, turn, starts = Places("k", "k"), 1.7e9, 0, []
    for kind, job, wait in steps:
        now += wait
        promised = next((each for each in places.holders if each.id == job and not each.node), None)
        turn += 1
        each = Holder("act", job, 1, turn, now, "" if kind == "p" else "n")
        if kind == "r" and promised is not None:
            each = attrs.evolve(promised, node="n")
        if kind == "l":
            places = attrs.evolve(places, holders=tuple(held for held in places.holders if held.id != job))
            continue
        taken = places.taken_by(each, rule, now)
        assert taken is not None or kind != "r" or promised is None, "a promise is kept"
        if taken is None:
            assert not places.room(rule, now) or promised is not None
            continue
        places = taken.never_begun(each, rule, now) if kind == "g" else taken
        if rule.counts and kind == "g":
            assert places.never_begun(each, rule, now) is places, "asked twice, for want of the first answer"
        if kind in "br":
            starts.append(now)
    for first, begun in enumerate(starts):
        for last in range(first, len(starts)):
            assert last - first + 1 <= burst + rate * (starts[last] - begun) + 1e-3


def test_a_token_is_there_when_it_is_due() -> None:
    """Not before; one that is promised and not received yet is due by no time; nothing is due of a rate of 0."""
    rule, places = Rule(rate=2.0, per=10.0, burst=2), Places("k", "k")
    for job in "ab":
        taken = places.taken_by(holder(job, node="n"), rule, 100.0)
        assert taken is not None
        places = taken
    assert places.holders == ()
    assert places.due(rule) == 105.0
    assert places.taken_by(holder("c", node="n"), rule, 104.9) is None
    assert places.taken_by(holder("c", node="n"), rule, 105.0) is not None
    assert places.refilled(rule) == 110.0
    for job in "cd":
        places = places.taken_by(holder(job), rule, 110.0) or places
    assert [each.id for each in places.holders] == ["c", "d"]
    assert places.due(rule) == math.inf
    assert places.due(Rule(rate=0.0)) == math.inf


def test_a_lower_rate_does_not_wait_for_what_the_higher_one_spent() -> None:
    """Of what was spent counts as much as the rate that holds now knows of tokens."""
    spent = attrs.evolve(Places("k", "k"), used=1000.0, used_at=50.0)
    assert spent.due(Rule(rate=1.0, per=10.0, burst=1)) == 60.0


@given(st.lists(st.lists(st.integers(1, 5), max_size=4), min_size=1, max_size=80))
def test_turns_go_by_priority_and_one_in_twenty_to_who_has_waited_longest(arrivals: list[list[int]]) -> None:
    """Whoever arrives meanwhile: the first of the highest priority has his turn, but for that of the eldest; and the
    eldest has it after nineteen others at most, be there whatever crowd."""
    waiting: dict[int, list[int]] = {}
    arrived = passed = since = 0
    for priorities in arrivals:
        for priority in priorities:
            arrived += 1
            waiting.setdefault(priority, []).append(arrived)
        if not any(waiting.values()):
            continue
        firsts = {priority: lane[0] for priority, lane in waiting.items() if lane}
        turn, passed = next_turn(firsts, passed)
        eldest = waiting[turn].pop(0) == min(firsts.values())
        assert turn == min(firsts) or (eldest and since == 19)
        since = 0 if eldest else since + 1
        assert since == passed
        assert since < 20


def test_a_later_attempt_has_the_place_of_the_earlier_one() -> None:
    """Its job's place becomes its own, also where all are taken; an earlier one changes nothing."""
    places = Places("k", "k").taken_by(holder(turn=1), Rule(1), 0.0)
    assert places is not None
    later = places.taken_by(holder(turn=2), Rule(1), 0.0)
    assert later is not None
    assert later.holders == (holder(turn=2),)
    assert later.taken_by(holder(turn=1), Rule(1), 0.0) is later
    assert later.without(holder(turn=1)) is later
    assert later.taken_by(holder("b"), Rule(1), 0.0) is None


@pytest.mark.parametrize("rule", [Rule(0), Rule(1)])
def test_a_later_attempt_does_not_begin_where_there_are_too_many(rule: Rule) -> None:
    """Of a limit that was lowered, or holds everything up: the place of the earlier one is free, and one too many."""
    two, _ = Places("k", "k").seating([holder("a", node="n"), holder("b", node="n")], Rule(2), 0.0)
    assert two.taken_by(holder("a", turn=2, node="m"), rule, 0.0) is None
    assert two.without_earlier(holder("a", turn=2)).holders == (holder("b", node="n"),)
    assert two.without_earlier(holder("a", turn=1), holder("c")) is two


def test_a_worker_puts_its_name_to_a_place_that_was_handed_on() -> None:
    """So whoever frees what nobody has begun sees that somebody is about to."""
    places = Places("k", "k").taken_by(holder(), Rule(1), 0.0)
    assert places is not None
    taken = places.taken_by(holder(node="n"), Rule(1), 0.0)
    assert taken is not None
    assert [each.node for each in taken.holders] == ["n"]
    assert taken.taken_by(holder(node="n"), Rule(1), 0.0) is taken


def test_a_place_that_was_received_meanwhile_is_not_freed() -> None:
    """By whoever has seen that nobody had received it; whoever has the place frees it."""
    places = Places("k", "k").taken_by(holder(node="n"), Rule(1), 0.0)
    assert places is not None
    assert places.without(holder()) is places
    assert places.without(holder(node="n")).holders == ()
    promised = Places("k", "k").taken_by(holder(), Rule(1), 0.0)
    assert promised is not None
    assert promised.without(holder()).holders == promised.without(holder(node="n")).holders == ()


def test_only_what_is_over_for_ever_is_over() -> None:
    """An attempt that has not begun, or runs, is not; one that has ended, was overtaken, or can't begin any more is."""
    second = holder(turn=2, generation=3)
    assert not is_over(second, JobState.queued, 3, 1)
    assert not is_over(second, JobState.retrying, 3, 1)
    assert not is_over(second, JobState.running, 3, 2)
    assert not is_over(second, JobState.faulted, 2, 1)
    assert is_over(second, JobState.retrying, 3, 2)
    assert is_over(second, JobState.queued, 3, 2)
    assert is_over(second, JobState.completed, 3, 2)
    assert is_over(second, JobState.cancelled, 3, 1)
    assert is_over(second, JobState.running, 3, 3)
    assert is_over(second, JobState.queued, 4, 2)


def test_what_nobody_begins_is_not_waited_for_long() -> None:
    """A place that was handed on waits for a worker; one of a node that has gone hardly at all."""
    assert not is_abandoned(holder(), 14.0, lives=False)
    assert is_abandoned(holder(), 16.0, lives=False)
    assert is_abandoned(holder(node="n"), 3.0, lives=False)
    assert not is_abandoned(holder(node="n"), 3.0, lives=True)
    assert is_abandoned(holder(node="n"), 61.0, lives=True)


def test_what_is_set_for_a_key_counts_most() -> None:
    """Then what is set for the limit, then what is declared, then what the code says; what was set ends in time."""
    declared, said = LimitRecord("t", declared=Rule(2)), Rule(1)
    given_, of_key = attrs.evolve(declared, given=Rule(3)), LimitRecord("k", given=Rule(4), until=10.0)

    def most(
        of_limit: LimitRecord | None, of_key: LimitRecord | None, said: Rule | None, now: float = 0.0
    ) -> int | None:
        found = effective(of_limit, of_key, said, now)
        return None if found is None or found.rule is None else found.rule.concurrency

    assert most(given_, of_key, said) == 4
    assert most(given_, of_key, said, now=10.0) == 3
    assert most(given_, None, said) == 3
    assert most(declared, None, said) == 2
    assert most(None, None, said) == 1
    assert most(None, None, None) is None


def test_concurrency_and_rate_are_set_each_by_itself() -> None:
    """Who sets the one leaves the other as it is declared; where all is held up nobody starts, whatever is set."""
    declared = LimitRecord("t", declared=Rule(2, 10.0, 1.0, 20))
    of_key = LimitRecord("k", given=Rule(rate=5.0, per=60.0, burst=5), until=90.0)
    assert effective(declared, of_key, None, 0.0) == Effective(Rule(2, 5.0, 60.0, 5), given=True, until=90.0)
    lower = attrs.evolve(declared, given=Rule(1), until=50.0)
    assert effective(lower, of_key, None, 0.0) == Effective(Rule(1, 5.0, 60.0, 5), given=True, until=50.0)
    held_up = attrs.evolve(lower, held_up=30.0)
    assert effective(held_up, of_key, None, 0.0) == Effective(Rule(0, 5.0, 60.0, 5), given=True, until=30.0)
    assert effective(held_up, None, None, 30.0) == Effective(Rule(1, 10.0, 1.0, 20), given=True, until=50.0)


class Tier(enum.Enum):
    gold = "gold"


class Customer(BaseModel):
    id: int
    tier: Tier = Tier.gold


class Order(BaseModel):
    customer: Customer
    tenant: str = "nobody"


def keys(limited: Any, payload: str) -> list[str]:
    return [key.key for key in limited.limit_keys(payload)]


def test_a_key_has_the_values_of_the_payload() -> None:
    """As they are validated: defaults too, fields of fields, enums by their value, and null where there is none."""

    @activity(limits=[Limit("t:{tenant}", concurrency=1), Limit("n:{n}/{deep.x}", concurrency=1)])
    async def plain(n: int, tenant: str = "nobody", deep: dict[str, int] | None = None) -> None: ...

    @activity(limits=[Limit("{customer.id}-{customer.tier}-{tenant}", concurrency=1)])
    async def model(order: Order) -> None: ...

    assert keys(plain, '{"n": 1}') == ["n:1/null", "t:nobody"]
    assert keys(plain, '{"n": 1, "tenant": "ä.*> b", "deep": {"x": 7}}') == ["n:1/7", "t:ä.*> b"]
    assert keys(model, '{"customer": {"id": 5}}') == ["5-gold-nobody"]
    assert keys(plain, '{"wrong": 1}') == []


def test_bad_limits_are_errors_at_their_definition() -> None:
    """Each says what would be right."""
    with pytest.raises(InvalidValue, match="between 1 and"):
        Limit("a", concurrency=0)
    with pytest.raises(InvalidValue, match="needs a concurrency of at least 1, or a rate"):
        Limit("a")
    for rate in (0, -1, float("nan"), float("inf"), True, "10"):
        with pytest.raises(InvalidValue, match="rate must be a number above 0"):
            Limit("a", rate=rate)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="per must be at least"):
        Limit("a", rate=1, per=0)
    with pytest.raises(InvalidValue, match="burst must be an integer between 1 and"):
        Limit("a", rate=1, burst=0)
    with pytest.raises(InvalidValue, match="burst and per need a rate"):
        Limit("a", concurrency=1, per=2.0)
    with pytest.raises(InvalidValue, match="burst and per need a rate"):
        Limit("a", concurrency=1, burst=3)
    with pytest.raises(InvalidValue, match="name must be 1 to 200"):
        Limit("", concurrency=1)
    with pytest.raises(InvalidValue, match="braces in a limit's name hold the name of a field"):
        Limit("tenant:{0}", concurrency=1)
    with pytest.raises(InvalidValue, match=r"list of Limit\(\.\.\.\)"):
        activity(limits=["api"])  # type: ignore[list-item]
    with pytest.raises(InvalidValue, match="each name once"):
        activity(limits=[Limit("a", concurrency=1), Limit("a", concurrency=2)])
    with pytest.raises(DefinitionError, match="names 'tenant'; the payload has n"):

        @activity(limits=[Limit("t:{tenant}", concurrency=1)])
        async def without(n: int) -> None: ...


def test_places_are_counted_where_there_is_a_number_of_them() -> None:
    """Of a rate there are tokens for one at a time; who has asked may always try."""
    places = Places("k", "k", holders=(holder("a"),))
    assert [places.free(Rule(3)), places.free(Rule(1)), places.free(Rule(3, 5.0)), places.free(Rule(None, 5.0))] == [
        2,
        1,
        1,
        1,
    ]


def test_places_change_hands_quickly_if_nobody_has_one_for_long() -> None:
    """A limit that nobody holds a place of tells nothing."""
    young, old = (Holder("a", str(at), 1, 1, at, "n") for at in (9.8, 9.7))
    assert Places("k", "k", (young,)).brisk(10.0)
    assert not Places("k", "k", (young, old)).brisk(10.0)
    assert not Places("k", "k").brisk(10.0)


def test_activities_without_a_job_that_waits_are_noted() -> None:
    """Until one of their jobs waits again."""
    places = Places("k", "k").noting({"b", "a"}, ())
    assert places.idle == ("a", "b")
    assert places.noting({"c"}, {"a"}).idle == ("b", "c")


def test_a_key_of_any_characters_stands_in_a_subject() -> None:
    """By its hash, which is another one for another key."""
    key = LimitKey("calls of ann*>. \n", "calls of {user}")
    assert key.hash == hashed(key.key) != hashed("calls of bob")
    assert key.hash.isalnum()


class Owner(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: str


@attrs.define
class Place:
    street: str
    notes: dict[str, Any]


@dataclass
class Parcel:
    to: Place
    customer: Customer | None
    owner: Owner
    weight: int = 0

    @property
    def zone(self) -> str:
        return self.to.street[0]


def limited(path: str) -> None:
    @activity(limits=[Limit(f"a:{{{path}}}", concurrency=1)])
    async def send(parcel: Parcel, n: int = 0) -> None: ...


def limited_by_model(path: str) -> None:
    @activity(limits=[Limit(f"a:{{{path}}}", concurrency=1)])
    async def send(parcel: Parcel) -> None: ...


def fair(path: str) -> None:
    @activity(fairness=f"{{{path}}}")
    async def send(parcel: Parcel, n: int = 0) -> None: ...


def fair_by_model(path: str) -> None:
    @activity(fairness=f"{{{path}}}")
    async def send(parcel: Parcel) -> None: ...


@pytest.mark.parametrize("define", [limited, limited_by_model, fair, fair_by_model])
def test_a_template_is_checked_to_its_last_name(define: Callable[[str], None]) -> None:
    """A field of a field that no payload has would be one key for all; what the types do not tell is let pass."""
    within = "" if define in (limited_by_model, fair_by_model) else "parcel."
    for path in ("to.street", "to.notes.any.thing", "customer.id", "owner.id", "owner.since"):
        define(within + path)
    for wrong, has in (
        ("to.stret", r"to has street, notes"),
        ("to.street.upper", r"to\.street has no fields"),
        ("customer.name", r"customer has id, tier"),
        ("weight.real", r"weight has no fields"),
    ):
        with pytest.raises(DefinitionError, match=has):
            define(within + wrong)


def test_a_limit_may_name_what_a_model_computes() -> None:
    """Its key is read off the validated object."""
    limited("parcel.zone")
    with pytest.raises(DefinitionError, match="zone"):
        fair("parcel.zone")  # which is read in the payload as it was sent


def test_global_concurrency_is_a_limit_of_the_activity_s_own() -> None:
    """Its name is what `turnout limit ls` shows."""

    @activity(name="narrow", global_concurrency=2, limits=[Limit("wide", concurrency=9)])
    async def narrow() -> None: ...

    assert [(limit.name, limit.concurrency) for limit in narrow.limits] == [("wide", 9), ("activity:narrow", 2)]


def test_global_concurrency_and_its_long_form_are_one_limit() -> None:
    """Both at once would be two numbers for one limit: an error at the line of the decorator."""
    with pytest.raises(InvalidValue, match="give one of the two"):

        @activity(name="narrow", global_concurrency=2, limits=[Limit("activity:narrow", concurrency=9)])
        async def narrow() -> None: ...
