"""Workflows in the simulation: a crash before every effect of every step, and random histories with every fault."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from concurrent.futures import Executor
from typing import Any

import pytest

from tests.sim import flows
from tests.sim.flow_mutations import RULES, unnoticed
from tests.sim.flow_simulation import ACTS, MEND, crash_each, crash_everywhere, run, run_seed
from tests.sim.plan import Act, Plan
from tests.sim.test_crashes import ALL, pool, scale, share
from turnout.core.workflows import task
from turnout.errors import ServerUnavailable
from turnout.worker.workflows.bodies import Bodies
from turnout.worker.workflows.driver import Driver
from turnout.worker.workflows.locals import EXTEND_EVERY_S

__all__ = ["pool", "scale"]


def few(plans: list[Plan], scale: float) -> list[Plan]:
    """All plans at the scale of everything; fewer than of jobs below it, since each has more steps."""
    return share(plans, scale, ALL if scale >= ALL else 2 * ALL)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_crash_before_every_effect_of_every_script(pool: Executor, scale: float) -> None:
    """For every script of two steps and every n, a crash before the n-th effect loses nothing and heals."""
    scripts = list(map("".join, itertools.product(flows.LETTERS, repeat=2)))
    plans = few([Plan(seed=number, jobs=(("flow", script),)) for number, script in enumerate(scripts)], scale)
    crash_each(pool, plans, chunksize=4, least=10)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_crash_before_every_effect_of_what_is_over_at_once(pool: Executor, scale: float) -> None:
    """The same of runs that end, or take back what they ask for, in the very task that they begin with."""
    scripts = (*flows.QUICK, *map("".join, itertools.product(flows.QUICK, "an")))
    plans = [Plan(seed=number, jobs=(("flow", script),)) for number, script in enumerate(scripts)]
    plans = few(plans, scale) or plans[:1]
    crash_each(pool, plans)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_crash_before_every_effect_of_broken_code(pool: Executor, scale: float) -> None:
    """What has a bug gets stuck, says so once, and goes on when that is repaired; so does what kills its process."""
    scripts = ("b", "rb", "ab", "bT", "nb", "k")
    plans = [Plan(seed=n, jobs=(("flow", script),), acts=(Act(MEND, 0.0),)) for n, script in enumerate(scripts)]
    plans = few(plans, scale) or plans[:1]
    crash_each(pool, plans)


@pytest.mark.long
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
    crash_each(pool, plans, chunksize=4)


@pytest.mark.long
@pytest.mark.parametrize("script", ["La", "Ln"])
def test_nothing_is_acknowledged_before_the_effects_of_its_record(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for a local activity is looked at while the effects of its end's record are still under way."""
    commit = Driver._commit

    async def late(self: Driver, *args: Any) -> None:
        await asyncio.sleep(EXTEND_EVERY_S + 1.0)
        await commit(self, *args)

    monkeypatch.setattr(Driver, "_commit", late)
    assert crash_everywhere(Plan(seed=1, jobs=(("flow", script),))) > 8


@pytest.mark.long
def test_what_is_kept_for_a_local_activity_is_taken_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that came behind a full record is chosen as what is kept: it goes only when a record has it."""
    monkeypatch.setattr(task, "INPUTS_PER_TASK", 1)
    for seed, script in ((0, "rLr"), (4, "rLr"), (9, "rLrr")):
        crash_everywhere(Plan(seed=seed, jobs=(("flow", script),)))


def test_an_instance_whose_inputs_cannot_be_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server goes away between the replay and what an input names: nothing of the code stays behind."""
    at_hand, turns = Bodies.at_hand, itertools.count(1)

    async def now_and_then(self: Bodies, *args: Any) -> Any:
        if next(turns) % 3 == 0:
            raise ServerUnavailable("the server is away")
        return await at_hand(self, *args)

    monkeypatch.setattr(Bodies, "at_hand", now_and_then)
    run(Plan(seed=2, jobs=(("flow", "aara"),)))
    assert next(turns) > 6


def test_a_simulation_leaves_no_task_behind(caplog: pytest.LogCaptureFixture) -> None:
    """What a dead node had in memory is dropped with the simulation: asyncio has nothing to complain of."""
    logging.disable(logging.WARNING)  # of what is logged, asyncio's complaint is an error
    crash_everywhere(Plan(seed=0, jobs=(("flow", "a"),)))
    gc.collect()
    assert "was destroyed" not in caplog.text


@pytest.mark.timeout(1200)
def test_random_histories(pool: Executor, scale: float) -> None:
    """Two workers, of which one may come back from the dead, a server that goes away, messages that get lost."""
    for _ in pool.map(run_seed, range(int(100 * scale)), chunksize=10):
        pass  # a violation is raised here


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_rule_that_nobody_keeps_is_missed(pool: Executor, scale: float) -> None:
    """Histories break an invariant when a rule of docs/workflows.md is not kept, and go well when it is."""
    rules = share(list(RULES), scale, all_at=2)
    assert [text for text in pool.map(unnoticed, rules) if text] == []
