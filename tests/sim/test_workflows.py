"""Workflows in the simulation: a crash before every effect of every step, and random histories with every fault."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import Executor
from typing import Any

import pytest

from tests.sim import flows
from tests.sim.flow_mutations import RULES, unnoticed
from tests.sim.flow_simulation import ACTS, crash_everywhere, run_seed
from tests.sim.plan import Act, Plan
from tests.sim.test_crashes import ALL, pool, scale, share
from turnout.core.workflows import task
from turnout.worker.workflows.driver import Driver
from turnout.worker.workflows.locals import EXTEND_EVERY_S

__all__ = ["pool", "scale"]


def few(plans: list[Plan], scale: float) -> list[Plan]:
    """All plans at the scale of everything; fewer than of jobs below it, since each has more steps."""
    return share(plans, scale, ALL if scale >= ALL else 2 * ALL)


@pytest.mark.timeout(1200)
def test_crash_before_every_effect_of_every_script(pool: Executor, scale: float) -> None:
    """For every script of two steps and every n, a crash before the n-th effect loses nothing and heals."""
    scripts = list(map("".join, itertools.product(flows.LETTERS, repeat=2)))
    plans = few([Plan(seed=number, jobs=(("flow", script),)) for number, script in enumerate(scripts)], scale)
    runs = sum(pool.map(crash_everywhere, plans, chunksize=4))
    assert runs > 20 * len(plans), f"{runs} crash runs"


@pytest.mark.timeout(1200)
def test_crash_before_every_effect_while_a_client_acts(pool: Executor, scale: float) -> None:
    """The same while a client cancels, terminates or sends its signals again, early or late."""
    cases = list(itertools.product(ACTS, (0.02, 0.1, 0.4, 1.1), ("ar", "gs", "Tn", "wr", "ca", "eo", "js", "nr", "h")))
    plans = [
        Plan(seed=number, jobs=(("flow", script),), acts=(Act(act, at),))
        for number, (act, at, script) in enumerate(cases)
        if (act, script) != ("signal", "h")
    ]
    plans = few(plans, scale)
    runs = sum(pool.map(crash_everywhere, plans, chunksize=4))
    assert runs > 8 * len(plans), f"{runs} crash runs"


@pytest.mark.parametrize("script", ["La", "Ln"])
def test_nothing_is_acknowledged_before_the_effects_of_its_record(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for a local activity is looked at while the effects of its end's record are still under way."""
    commit = Driver._commit

    async def late(self: Driver, *args: Any) -> None:
        await asyncio.sleep(EXTEND_EVERY_S + 1.0)
        await commit(self, *args)

    monkeypatch.setattr(Driver, "_commit", late)
    assert crash_everywhere(Plan(seed=1, jobs=(("flow", script),))) > 8


def test_what_is_kept_for_a_local_activity_is_taken_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that came behind a full record is chosen as what is kept: it goes only when a record has it."""
    monkeypatch.setattr(task, "INPUTS_PER_TASK", 1)
    for seed, script in ((0, "rLr"), (4, "rLr"), (9, "rLrr")):
        crash_everywhere(Plan(seed=seed, jobs=(("flow", script),)))


@pytest.mark.timeout(1200)
def test_random_histories(pool: Executor, scale: float) -> None:
    """Two workers, of which one may come back from the dead, a server that goes away, messages that get lost."""
    for _ in pool.map(run_seed, range(int(100 * scale)), chunksize=10):
        pass  # a violation is raised here


@pytest.mark.timeout(1200)
def test_a_rule_that_nobody_keeps_is_missed(pool: Executor, scale: float) -> None:
    """Histories break an invariant when a rule of docs/workflows.md is not kept, and go well when it is."""
    rules = share(list(RULES), scale, all_at=2)
    assert [text for text in pool.map(unnoticed, rules) if text] == []
