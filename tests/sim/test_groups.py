"""Groups and debounced submissions in the simulation: whoever dies, wherever, and what is noticed without a rule."""

from __future__ import annotations

import itertools
from concurrent.futures import Executor
from typing import Any

import pytest

from tests.sim.group_mutations import RULES, unnoticed
from tests.sim.group_simulation import ACTS, crash_everywhere, run_seed
from tests.sim.plan import Act, Plan
from tests.sim.test_crashes import pool, scale, share

__all__ = ["pool", "scale"]

GROUPS = ("C", "C.FC!C", "X.C!KC", "K.C!X", "L.C.C!F", "ZC.C!C", "C.S!S")
BURSTS = ("C", "CC", "CCC", "CWC", "FCX", "CCCCCC")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["group", "whole"])
def test_a_crash_before_every_effect_of_a_group(pool: Executor, scale: float, kind: str) -> None:
    """Also of its submitter: the group is there whole or not at all, ends, and is followed once, if at all."""
    plans = [Plan(seed=number, jobs=((kind, script),)) for number, script in enumerate(GROUPS)]
    plans = share(plans, scale, all_at=1)
    runs = sum(pool.map(crash_everywhere, plans))
    assert runs > 8 * len(plans), f"{runs} crash runs"


@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect_of_a_burst(pool: Executor, scale: float) -> None:
    """Also of its submitter: what a client was told is stored runs, or what came after it does, and once."""
    plans = [Plan(seed=number, jobs=(("burst", letters),)) for number, letters in enumerate(BURSTS)]
    runs = sum(pool.map(crash_everywhere, share(plans, scale, all_at=1)))
    assert runs > 8, f"{runs} crash runs"


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect_while_a_client_acts(pool: Executor, scale: float) -> None:
    """The same while a client cancels, removes, retries or hurries the jobs, or submits the same again."""
    cases: list[Any] = list(itertools.product(ACTS, (0.1, 0.6, 1.3), (("group", "X.FC!C"), ("burst", "CWC"))))
    plans = [Plan(seed=number, jobs=(job,), acts=(Act(act, at),)) for number, (act, at, job) in enumerate(cases)]
    plans = share(plans, scale, all_at=3)
    runs = sum(pool.map(crash_everywhere, plans))
    assert runs > 8 * len(plans), f"{runs} crash runs"


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_random_histories(pool: Executor, scale: float) -> None:
    """Groups and bursts among accidents of every kind, and two supervisors that take turns."""
    for _ in pool.map(run_seed, range(int(150 * scale)), chunksize=10):
        pass  # a violation is raised here


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_rule_that_nobody_keeps_is_missed(pool: Executor, scale: float) -> None:
    """Histories break an invariant when a rule is not kept, and go well when it is."""
    rules = share(list(RULES), scale, all_at=2)
    assert [text for text in pool.map(unnoticed, rules) if text] == []
