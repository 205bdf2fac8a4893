"""The simulation of routing: the same world and accidents; nodes have different properties, and jobs require some of
them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import attrs

from tests.sim.invariants import Violation, life_of
from tests.sim.plan import Act, Fault, Plan
from tests.sim.seams import Patch
from tests.sim.simulation import Simulation, replayable
from turnout.core.record import JobState
from turnout.core.routing import fits
from turnout.testing.memory import Message

HAS: tuple[dict[str, str], ...] = ({}, {"gpu": "small"}, {"gpu": "small", "region": "east"})
"""What the nodes have, by their numbers."""

REQUIRES: dict[str, dict[str, str]] = {
    "any": {},
    "gpu": {"gpu": "small"},
    "east": {"region": "east"},
    "both": {"gpu": "small", "region": "east"},
    "huge": {"gpu": "huge"},
}
"""What jobs require, by the second half of their kind: `bare-gpu`. No node has what the last ones do."""

KINDS = ("plain", "bare", "delayed", "expiring")
FAULTS = ("freeze", "cut", "crash", "stop", "server", "kill", "early", "lossy", "sup")
ACTS = ("cancel", "retry", "delete", "submit", "replace")


class Routing(Simulation):
    """Three nodes, of which few fit each job."""

    def __init__(self, plan: Plan, patches: Iterable[Patch] = (), *, trace: bool = False) -> None:
        super().__init__(attrs.evolve(plan, nodes=len(HAS)), patches=patches, trace=trace)
        self.sent_on = 0
        """How many jobs were put onto a route."""

    def properties(self, number: int) -> dict[str, str]:
        return HAS[number]

    def requires(self, job_id: str) -> dict[str, str]:
        return REQUIRES[self.plan.jobs[self.planned(job_id)][0].partition("-")[2]]

    def _build(self) -> None:
        super()._build()
        stored = self.work.on_store

        def sent(message: Message) -> None:
            stored(message)
            self.sent_on += self.names.is_routed(message.subject)

        self.work.on_store = sent

    def _written(self, job_id: str) -> None:
        """R1: no node begins an attempt that has not what the job requires."""
        record = self.invariants.records.get(job_id)
        if record is None or record.state is not JobState.running or record.token is None:
            return
        has = HAS[int(record.token.node.partition("-")[0].removeprefix("n"))]
        if not fits(has, self.requires(life_of(record.spec.payload.text or "").partition("#")[0])):
            raise Violation("R1 on a node that fits", f"{job_id} runs on {record.token.node}, which has {has}")


def run(plan: Plan, *, patches: Iterable[Patch] = ()) -> Routing:
    """Run a plan to its end, with all its crashes if it says so."""
    simulation = Routing(plan, patches)
    with replayable(plan):
        simulation.play()
    return simulation


def crash_everywhere(plan: Plan) -> int:
    """Run the plan, once for each of its effects with a crash before that one. Returns how many runs crashed."""
    with replayable(attrs.evolve(plan, everywhere=True)):
        return Routing(plan).crash_everywhere()


def plan_of_seed(seed: int) -> Plan:
    """A random plan; the same for the same seed. What nobody can run expires, and nobody wakes it again."""
    dice = random.Random(seed)
    jobs = tuple(
        (
            f"{'expiring' if what == 'huge' else dice.choice(KINDS)}-{what}",
            "".join(dice.choice("CCWFLTKZDS") for _ in "123"),
        )
        for what in dice.choices(list(REQUIRES), k=dice.choice((1, 2, 3)))
    )
    able = [number for number, (kind, _) in enumerate(jobs) if not kind.endswith("huge")]
    faults = tuple(
        Fault(dice.choice(FAULTS), round(dice.random() * 15, 2), round(dice.random() * 12, 2), dice.randrange(len(HAS)))
        for _ in range(dice.randrange(4))
    )
    acts = tuple(
        Act(dice.choice(ACTS), round(dice.random() * 20, 2), dice.choice(able))
        for _ in range(dice.randrange(3))
        if able
    )
    crash = tuple(sorted(dice.sample(range(1, 40), dice.randrange(3))))
    return Plan(seed, jobs, crash, faults, acts, dice.choice((3, 5, 25)), supervisors=dice.choice((1, 2)))


def run_seed(seed: int) -> None:
    """Run the random history of a seed."""
    run(plan_of_seed(seed))
