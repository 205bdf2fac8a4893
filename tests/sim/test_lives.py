"""Updates, queries, several lives of one id, wake-ups that are passed on, and what storage has lost, in the simulation:
with a crash before every effect, and in random histories with every fault.
"""

from __future__ import annotations

import itertools
from concurrent.futures import Executor

import pytest

from tests.sim.flow_simulation import crash_each, crash_everywhere, crash_everywhere_passing, run_lives
from tests.sim.plan import Act, Fault, Plan
from tests.sim.test_crashes import pool, scale, share

__all__ = ["pool", "scale"]


def some(plans: list[Plan], scale: float) -> list[Plan]:
    """Every plan at the scale of everything, evenly fewer below it, and one at least."""
    return share(plans, scale) or plans[:1]


ASKING = ("u", "uu", "uqsq", "unu", "uuTn", "auc", "Luq", "wu", "ruq", "nuuq")
LIVING = (
    ("again", "ua"),
    ("again", "cr"),
    ("replace", "Tu"),
    ("replace", "ac"),
    ("forget", "ca"),
    ("forget", "ec"),
    ("forget", "cj"),
)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect_while_a_client_asks(pool: Executor, scale: float) -> None:
    """An update is applied once and answered as it is on record; a query sees what was sent before it."""
    plans = [Plan(seed=number, jobs=(("flow", script),)) for number, script in enumerate(ASKING)]
    plans = share(plans, scale, all_at=2)
    crash_each(pool, plans)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect_in_several_lives(pool: Executor, scale: float) -> None:
    """Nothing of an old life reaches the new one, and nobody waits for what somebody has deleted."""
    cases = list(itertools.product((0.05, 0.5, 1.2), LIVING))
    plans = [
        Plan(seed=number, jobs=(("flow", script),), acts=(Act(act, at),))
        for number, (at, (act, script)) in enumerate(cases)
    ]
    plans = some(plans, scale)
    crash_each(pool, plans)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect_while_histories_are_collected(pool: Executor, scale: float) -> None:
    """A history goes as a whole and when its time has come, and takes nothing of the next life along."""
    once, behind_another = (Act("anew", 0.0),), (Act("again", 0.0), Act("anew", 0.0))
    cases = [*itertools.product((once,), ("a", "T", "nT", "cL")), (behind_another, "a")]
    plans = [Plan(seed=number, jobs=(("flow", script),), acts=acts) for number, (acts, script) in enumerate(cases)]
    plans = some(plans, scale)
    assert sum(pool.map(crash_everywhere, plans)) > 8 * len(plans)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_while_two_replace_one(pool: Executor, scale: float) -> None:
    """Each of them has its way, one after the other."""
    acts = [(Act("replace", 0.7), Act("replace", later)) for later in (0.75, 0.86, 0.9, 1.0)]
    plans = [Plan(seed=4, jobs=(("flow", "Tas"),), acts=act) for act in acts]
    plans = some(plans, scale)
    assert sum(pool.map(crash_everywhere, plans)) > 8 * len(plans)


@pytest.mark.timeout(1200)
def test_random_histories(pool: Executor, scale: float) -> None:
    """All of it at once, among accidents of every kind."""
    for _ in pool.map(run_lives, range(int(60 * scale)), chunksize=10):
        pass  # a violation is raised here


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_while_storage_loses_what_a_workflow_waits_for(pool: Executor, scale: float) -> None:
    """A supervisor puts it back, whoever dies; and does nothing twice where nothing was lost."""
    scripts = ("T", "aT", "gT", "cT", "eT", "oT", "jT", "rT", "nT", "wn", "L", "TLT", "nL")
    cases = [*itertools.product(("lose",), (0.05, 0.4, 1.5), scripts), *itertools.product(("walk",), (0.0,), scripts)]
    plans = [
        Plan(seed=number, jobs=(("flow", script),), acts=(Act(act, at),))
        for number, (act, at, script) in enumerate(cases)
    ]
    plans = some(plans, scale)
    crash_each(pool, plans)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_while_wakeups_are_passed_on(pool: Executor, scale: float) -> None:
    """From a node that would have to replay a long run to the one that wrote its newest record, which may be gone."""
    scripts = ("aaaaa", "gga", "srsra", "Tnaaaa", "uuuu", "ggL")
    frozen = (Fault("freeze", 0.8, 6.0, 0),)
    cases = list(itertools.product(scripts, ((), frozen)))
    plans = [
        Plan(seed=number, jobs=(("flow", script),), faults=faults) for number, (script, faults) in enumerate(cases)
    ]
    plans = some(plans, scale)
    crash_each(pool, plans, crash_everywhere_passing)
