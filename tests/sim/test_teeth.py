"""The simulation has teeth: with any one rule taken away, it fails, by the invariant that the rule is there for."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.sim.invariants import Violation
from tests.sim.mutations import MISSING, MUTANTS, Decide, Effects, Tooth
from tests.sim.plan import Plan
from tests.sim.seams import Patch
from tests.sim.simulation import run
from turnout.core.events import Event
from turnout.core.record import JobRecord
from turnout.store import perform


def first_violation(plans: Iterable[Plan], patches: list[Patch]) -> tuple[Plan, Violation] | None:
    for plan in plans:
        try:
            run(plan, patches=patches)
        except Violation as violation:
            return plan, violation
    return None


def assert_noticed(tooth: Tooth, patches: list[Patch]) -> None:
    """The missing rule breaks one of the histories, and the same history goes well with the rule."""
    found = first_violation(tooth.plans, patches)
    assert found is not None, "survives"
    plan, violation = found
    assert violation.name.split()[0] in tooth.caught_by, str(violation)
    run(plan)


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_of_decide_is_noticed(mutant: Decide) -> None:
    """Histories break an invariant when decide() lacks this rule."""
    assert_noticed(MUTANTS[mutant], [(perform, "decide", mutant)])


@pytest.mark.long
@pytest.mark.parametrize("rule", MISSING)
def test_a_rule_that_nobody_keeps_is_missed(rule: str) -> None:
    """Histories break an invariant when whoever performs, asks and stores does not keep this rule."""
    assert_noticed(MISSING[rule], MISSING[rule].take())


def test_a_failure_says_how_to_see_it_again() -> None:
    """The message of a violation names the invariant, the seed and the command that replays it."""

    def loses_everything(record: JobRecord | None, event: Event) -> Effects:
        return ()

    found = first_violation([Plan(seed=5, jobs=(("bare", "C"),))], [(perform, "decide", loses_everything)])
    assert found is not None
    violation = found[1]
    assert "U13" in violation.name
    assert "seed 5" in str(violation)
    assert "--sim-plan='seed=5;" in str(violation)
