"""The simulation of all that decides whose turn it is, at once: jobs of several tenants and priorities wait for places
of one limit, and clients change their priorities meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tests.sim.plan import RANKS, Act, Fault, Plan
from tests.sim.seams import Patch
from tests.sim.simulation import replayable
from tests.sim.test_limits import Ranked
from tests.sim.turn_simulation import FAULTS, TENANTS, Dealing
from turnout import Limit
from turnout.core.limits import Holder
from turnout.testing.memory import Message

ACTS = ("cancel", "delete", "retry", "submit", "replace")

PLACES = 1
"""So many places the limit has in every other plan; in the others more than there are nodes, of one slot each."""


class Crowd(Ranked, Dealing):
    """Nodes whose activity has a fairness and a limit."""

    def __init__(self, plan: Plan, patches: Iterable[Patch] = ()) -> None:
        self.places = PLACES if plan.seed % 2 else plan.nodes + 1
        self.limits = (Limit("alone", concurrency=self.places),)
        super().__init__(plan, patches)

    @property
    def calm(self) -> bool:
        """Whether nothing happens in the plan but that jobs are submitted and their priorities changed."""
        plan = self.plan
        return not plan.crash and not plan.faults and all(act.kind in RANKS for act in plan.acts)

    def most(self, key: str) -> int:
        return self.places

    def _turn(self, holder: Holder, message: Message) -> None:
        """L4 holds as where there is no fairness: in a line the tenants have no turns."""
        if self.calm:
            super()._turn(holder, message)
        else:
            self.turns += 1

    def _has_begun(self, tenant: str) -> None:
        """T1 holds within one priority, and where nobody waits for a place."""
        plan = self.plan
        ranked = any(kind.partition("-")[0] in RANKS for kind, _ in plan.jobs) or any(
            act.kind in RANKS for act in plan.acts
        )
        if self.places > plan.nodes and not ranked:
            super()._has_begun(tenant)
        else:
            self.begun_by.append(tenant)


def run(plan: Plan, *, patches: Iterable[Patch] = ()) -> Crowd:
    """Run a plan to its end."""
    simulation = Crowd(plan, patches)
    with replayable(plan):
        simulation.play()
    return simulation


def plan_of_seed(seed: int) -> Plan:
    """A random plan; the same for the same seed."""
    dice = random.Random(seed)
    jobs = tuple(("plain-big", dice.choice("CCW")) for _ in range(dice.randrange(5, 14)))
    for tenant in TENANTS:
        kinds = dice.choices(("plain", "first", "last", "bare", "delayed", "expiring"), k=dice.randrange(4))
        jobs += tuple((f"{kind}-{tenant}", dice.choice(("C", "FC", "KC", "W", "SC"))) for kind in kinds)
    faults = tuple(
        Fault(dice.choice(FAULTS), round(dice.random() * 8, 2), round(dice.random() * 12, 2), dice.randrange(2))
        for _ in range(dice.choice((0, 0, 1, 2)))
    )
    acts = tuple(
        Act(dice.choice((*RANKS, *RANKS, *ACTS)), round(dice.random() * 8, 2), dice.randrange(len(jobs)))
        for _ in range(dice.randrange(5))
    )
    crash = tuple(sorted(dice.sample(range(1, 200), dice.choice((0, 0, 1, 2)))))
    nodes, supervisors = dice.choice((2, 2, 3)), dice.choice((1, 2))
    return Plan(seed, jobs, crash, faults, acts, nodes=nodes, supervisors=supervisors)


def run_seed(seed: int) -> int:
    """Run the random history of a seed; how many turns were had in the line of the limit."""
    return run(plan_of_seed(seed)).turns
