"""The simulation has teeth: with any one rule taken away, it fails, by the invariant that the rule is there for."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.sim.invariants import Violation
from tests.sim.mutations import MISSING, MUTANTS, Decide, Effects
from tests.sim.plan import Plan
from tests.sim.simulation import run
from turnout.core import lifecycle
from turnout.core.events import Event
from turnout.core.values import JobRecord

RANDOM_PLANS = 2500


def first_violation(plans: Iterable[Plan], decide: Decide, missing: frozenset[str]) -> Violation | None:
    for plan in plans:
        try:
            run(plan, decide=decide, missing=missing)
        except Violation as violation:
            return violation
    return None


def random_plans() -> Iterable[Plan]:
    return map(Plan.of_seed, range(RANDOM_PLANS))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_of_decide_is_noticed(mutant: Decide) -> None:
    """Random histories break an invariant when decide() lacks this rule."""
    violation = first_violation(random_plans(), mutant, frozenset())
    assert violation is not None, f"survives: {mutant.__doc__}"
    assert violation.name.split()[0] in MUTANTS[mutant], str(violation)


@pytest.mark.parametrize("rule", MISSING)
def test_a_rule_that_nobody_keeps_is_missed(rule: str) -> None:
    """Histories break an invariant when whoever performs and asks does not keep this rule."""
    tooth = MISSING[rule]
    violation = first_violation(tooth.plans or random_plans(), tooth.decide, frozenset({rule}))
    assert violation is not None, f"survives: {tooth.costs}"
    assert violation.name.split()[0] in tooth.caught_by, str(violation)


@pytest.mark.parametrize("rule", MISSING)
def test_the_same_histories_go_well_with_the_rule(rule: str) -> None:
    """It is the missing rule that breaks them, not the plans."""
    assert first_violation(MISSING[rule].plans, lifecycle.decide, frozenset()) is None


def test_a_failure_says_how_to_see_it_again() -> None:
    """The message of a violation names the invariant, the seed and the command that replays it."""

    def loses_everything(record: JobRecord | None, event: Event) -> Effects:
        return ()

    violation = first_violation([Plan(seed=5, acts=())], loses_everything, frozenset())
    if violation is None:  # nothing was ever accepted then, and nothing is lost
        violation = first_violation([Plan(seed=5, jobs=(("bare", "C"),))], loses_everything, frozenset())
    assert violation is not None
    assert "seed 5" in str(violation)
    assert "--sim-plan='seed=5;" in str(violation)
