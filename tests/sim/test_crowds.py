"""Fairness, limits and changes of priority at once in the simulation: none of them loses what another one has moved."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor

import pytest

from tests.sim.crowd_simulation import run, run_seed
from tests.sim.mutations import Tooth
from tests.sim.plan import Act, Plan
from tests.sim.test_crashes import pool, scale
from tests.sim.turn_simulation import many
from turnout.core.limits import Places
from turnout.store import lines
from turnout.store.lines import Lines
from turnout.store.places import PlaceDesks
from turnout.supervisor.places import PlaceSweep
from turnout.supervisor.turns import Turns

__all__ = ["pool", "scale"]

CROWD = (
    ("plain-big", "W"),
    ("last-few", "C"),
    *[("plain-big", "C")] * 4,
    ("first-one", "FC"),
    ("plain-few", "C"),
)


def calm(seeds: Iterable[int]) -> tuple[Plan, ...]:
    """Two priorities are changed while all wait for the one place that a job holds for long; nobody dies."""
    acts = (Act("first", 4.0, 4), Act("first", 4.5, 5), Act("last", 5.0, 5))
    return tuple(Plan(seed=seed, jobs=CROWD, acts=acts) for seed in seeds if seed % 2)


def roomy(seeds: Iterable[int]) -> tuple[Plan, ...]:
    """Nobody waits for a place, and the tenants have their turns."""
    return tuple(Plan(seed=seed, jobs=many(big=30 + seed, few=8, one=4), nodes=1) for seed in seeds if not seed % 2)


def turns_had(plan: Plan) -> int:
    """Play it; how many turns were had in the line of the limit."""
    return run(plan).turns


def times_counted(plan: Plan) -> int:
    """Play it; how often a tenant was seen to wait while a job of another one began."""
    return run(plan).counted


@pytest.mark.timeout(1200)
def test_random_histories(pool: Executor, scale: float) -> None:
    """Among accidents of every kind, and clients that change, end and submit again what waits: all jobs end, never more
    hold places than there are, none is lost, and nothing is left behind."""
    count = int(60 * scale)
    assert sum(pool.map(run_seed, range(count), chunksize=5)) > 3 * count


@pytest.mark.timeout(1200)
def test_turns_go_by_priority_in_the_line_whatever_the_tenants(pool: Executor, scale: float) -> None:
    """Also for those that were let past others of their priority before they had to wait for a place."""
    plans = calm(range(round(24 * scale) or 2))
    assert min(pool.map(turns_had, plans)) >= 5


@pytest.mark.timeout(1200)
def test_each_has_its_turn_under_a_limit_that_is_not_reached(pool: Executor, scale: float) -> None:
    """As without a limit."""
    plans = roomy(range(round(12 * scale) or 2))
    assert sum(pool.map(times_counted, plans)) > 3 * len(plans)


async def _nothing(*_: object) -> None:
    pass


def _first_come(firsts: dict[int, int], passed: int) -> tuple[int, int]:
    return min(firsts, key=firsts.__getitem__), 0


RULES = {
    "places": Tooth(
        "more run than there are places", ("L1",), calm(range(8)), lambda: [(Places, "vacant", lambda *_: True)]
    ),
    "sweep": Tooth(
        "a place is lost with its node",
        ("U13",),
        tuple(Plan(seed=2, jobs=CROWD, crash=(effect,)) for effect in range(28, 60)),
        lambda: [(PlaceSweep, "_free", _nothing)],
    ),
    "priority": Tooth(
        "who comes first is first", ("L4",), calm(range(16)), lambda: [(lines, "next_turn", _first_come)]
    ),
    "rank": Tooth("a change moves nobody", ("L4",), calm(range(24)), lambda: [(PlaceDesks, "rank", _nothing)]),
    "move": Tooth("nobody is moved at all", ("L4",), calm(range(24)), lambda: [(Lines, "move", _nothing)]),
    "deal": Tooth("nobody deals the turns", ("T1",), roomy(range(12)), lambda: [(Turns, "look", _nothing)]),
}
"""The rules of whose turn it is, and what befalls without them."""


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_nobody_keeps_is_missed(rule: str) -> None:
    """Histories break an invariant when it is not kept, and go well when it is."""
    assert RULES[rule].unnoticed(rule, run) == ""
