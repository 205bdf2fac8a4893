"""Fairness in the simulation: tenants have their turns, with a crash before every effect and in random histories."""

from __future__ import annotations

import itertools
from concurrent.futures import Executor

import pytest

from tests.sim.mutations import Tooth
from tests.sim.plan import Act, Plan
from tests.sim.test_crashes import pool, scale, share
from tests.sim.turn_simulation import ACTS, crash_everywhere, many, run, run_seed
from turnout.supervisor.backlog import Backlog
from turnout.supervisor.turns import Turns

__all__ = ["pool", "scale"]


def calm(seeds: int) -> tuple[Plan, ...]:
    """Histories without an accident, of one to three nodes, in which there is time to deal the turns."""
    return tuple(
        Plan(seed=seed, jobs=many(big=30 + seed % 20, few=8 + seed % 12, one=4 + seed % 5), nodes=1 + seed % 3)
        for seed in range(seeds)
    )


def times_counted(plan: Plan) -> int:
    """Play it; how often a tenant was seen to wait while a job of another one began."""
    return run(plan).counted


@pytest.mark.timeout(1200)
def test_each_has_its_turn(pool: Executor, scale: float) -> None:
    """However many jobs of another tenant wait before it: they are counted, and there are enough to tell."""
    plans = calm(round(20 * scale) or 1)
    assert sum(pool.map(times_counted, plans)) > 8 * len(plans)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect(pool: Executor, scale: float) -> None:
    """Whoever dies, wherever, also he who deals the turns in the midst of it: each job runs, and the turns go on."""
    cases = [
        many(big=14, few=2, one=1),
        (*many(big=12), ("bare-few", "FC"), ("delayed-one", "C"), ("expiring-few", "C")),
    ]
    plans = [Plan(seed=number, jobs=jobs) for number, jobs in enumerate(cases * 3)]
    plans = share(plans, scale, all_at=4)
    assert sum(pool.map(crash_everywhere, plans)) >= 30 * len(plans)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect_while_a_client_acts(pool: Executor, scale: float) -> None:
    """The same while somebody ends, removes, retries or submits again what was let past others, or is about to be."""
    cases = list(itertools.product(ACTS, (0.3, 1.2), (8, 12)))
    plans = [
        Plan(seed=number, jobs=many(big=12, few=2), acts=(Act(act, at, job),))
        for number, (act, at, job) in enumerate(cases)
    ]
    plans = share(plans, scale)
    assert sum(pool.map(crash_everywhere, plans)) >= 30 * len(plans)


@pytest.mark.timeout(1200)
def test_random_histories(pool: Executor, scale: float) -> None:
    """All of it at once, among accidents of every kind."""
    for _ in pool.map(run_seed, range(int(60 * scale)), chunksize=10):
        pass  # a violation is raised here


async def _nothing(*_: object) -> None:
    pass


RULES = {
    "deal": Tooth("nobody deals the turns", ("T1",), calm(6), lambda: [(Turns, "look", _nothing)]),
    "fair": Tooth(
        "what waits is held to be in turn", ("T1",), calm(6), lambda: [(Backlog, "fair", lambda self, most: True)]
    ),
    "read": Tooth("nobody knows what waits", ("T1",), calm(6), lambda: [(Turns, "_read", _nothing)]),
    "taken": Tooth(
        "those that were dealt are never seen to be taken", ("T1",), calm(6), lambda: [(Turns, "_left", _all_left)]
    ),
}
"""The rules of the turns, and what befalls without them."""


async def _all_left(*_: object) -> int:
    return 1000


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_nobody_keeps_is_missed(rule: str) -> None:
    """Histories break an invariant when it is not kept, and go well when it is."""
    assert RULES[rule].unnoticed(rule, run) == ""
