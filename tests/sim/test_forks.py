"""Forks, and runs that stay with the build that they have begun with, in the simulation: with a crash before every
effect, and in random histories with every fault.
"""

from __future__ import annotations

import itertools
from concurrent.futures import Executor

import pytest

from tests.sim.flow_simulation import crash_each, run_forks, run_pins
from tests.sim.plan import Act, Plan
from tests.sim.test_crashes import pool, scale
from tests.sim.test_lives import some

__all__ = ["pool", "scale"]

FORKED = ("ra", "gs", "Tn", "nTa", "wr", "Lu", "cT", "jt", "FX")
PARENTS = ("mT", "ET", "eT", "O", "o", "dT", "f", "R", "Yt", "jE")
BUILT = ("aa", "gT", "nT", "sL", "cT", "o")


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect_while_a_client_forks(pool: Executor, scale: float) -> None:
    """A fork has one beginning with what it is made of, runs nothing of that again, and leaves it alone."""
    cases = list(itertools.product((0.2, 0.6, 3.0), FORKED))
    plans = [
        Plan(seed=number, jobs=(("flow", script),), acts=(Act("fork", at),))
        for number, (at, script) in enumerate(cases)
    ]
    plans = some(plans, scale)
    crash_each(pool, plans)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect_while_one_with_children_is_forked(pool: Executor, scale: float) -> None:
    """Each child has one parent, who alone ends it: a fork joins it, or has one of its own, and tells that the same."""
    cases = list(itertools.product(((0.3,), (0.9,), (0.5, 1.3)), PARENTS))
    plans = [
        Plan(seed=number, jobs=(("flow", script),), acts=tuple(Act("fork", each) for each in at))
        for number, (at, script) in enumerate(cases)
    ]
    plans += [
        Plan(seed=number, jobs=(("flow", script),), acts=(Act("fork", 0.4), Act(act, 0.8)))
        for number, (act, script) in enumerate(itertools.product(("unfork", "cancel", "forget"), ("eT", "oY", "dR")))
    ]
    # What a child is sent may be on its way while its end is shared already; these seeds meet that.
    plans += [Plan(seed=seed, jobs=(("flow", "O"),), acts=(Act("fork", 0.5), Act("fork", 1.3))) for seed in (0, 1, 4)]
    plans = some(plans, scale)
    crash_each(pool, plans)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect_while_builds_are_deployed(pool: Executor, scale: float) -> None:
    """Nobody but its own build runs the code of a pinned run; where that is gone, a person lets it go on."""
    once, twice = (Act("deploy", 0.3),), (Act("deploy", 0.2), Act("deploy", 0.6))
    plans = [
        Plan(seed=number, jobs=(("flow", script),), acts=acts)
        for number, (acts, script) in enumerate(itertools.product((once, twice), BUILT))
    ]
    plans = some(plans, scale)
    crash_each(pool, plans)


@pytest.mark.timeout(1200)
def test_random_histories_with_forks(pool: Executor, scale: float) -> None:
    """Forks of anything at any time, among accidents of every kind."""
    for _ in pool.map(run_forks, range(int(40 * scale)), chunksize=10):
        pass  # a violation is raised here


@pytest.mark.timeout(1200)
def test_random_histories_with_builds(pool: Executor, scale: float) -> None:
    """New builds at any time, among accidents of every kind."""
    for _ in pool.map(run_pins, range(int(40 * scale)), chunksize=10):
        pass  # a violation is raised here
