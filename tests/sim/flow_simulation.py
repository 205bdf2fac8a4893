"""The simulation of workflows: the same world, server and accidents, with workers that do workflow tasks."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import attrs

from tests.sim import flows, seams
from tests.sim.flow_invariants import FlowInvariants
from tests.sim.flow_nodes import MADE, SEAMS, FlowCaller, FlowNode
from tests.sim.plan import Act, Fault, Plan
from tests.sim.simulation import Simulation, replayable
from turnout.core.record import JobRecord


class FlowSimulation(Simulation):
    """Each job of the plan is a workflow, whose script `tests.sim.flows` reads."""

    invariants: FlowInvariants

    def __init__(self, plan: Plan, *, patches: Iterable[seams.Patch] = (), trace: bool = False) -> None:
        super().__init__(attrs.evolve(plan, max_lost=flows.MAX_LOST), patches=[*SEAMS, *patches], trace=trace)
        self.invariants = FlowInvariants(self)
        self.wanted: dict[tuple[str, str], None] = {}
        """What the client is to do, until it is done."""

    @contextmanager
    def _begun(self) -> Iterator[None]:
        try:
            with super()._begun():
                yield
        finally:
            for instance in MADE:
                instance.drop()
            MADE.clear()

    def _build(self) -> None:
        super()._build()
        self.inbox = self.server.streams[self.names.inbox]
        self.history = self.server.streams[self.names.history]
        self.inbox.schedule_late_s = self.work.schedule_late_s
        self.inbox.on_store, self.inbox.on_gone = self.invariants.lies, self.invariants.removed
        self.history.on_store = self.invariants.appended

    def _make_caller(self) -> FlowCaller:
        return FlowCaller(self)

    def _start_node(self, number: int) -> None:
        self.nodes.append(FlowNode(self, number, self.next_life()))

    def script(self, workflow_id: str) -> str:
        return "".join(self._scripts[workflow_id])

    def letter(self, record: JobRecord) -> str:
        """What the attempt's code does: the activity's payload has a letter for each attempt, C when none is left."""
        script = (record.spec.payload.text or "").rpartition("!")[2].rstrip('"}')
        tried = record.attempt - 1
        return script[tried] if tried < len(script) else "C"

    def _play_history(self, plan: Plan) -> None:
        self.invariants.clear()
        super()._play_history(plan)


FAULTS = ("freeze", "cut", "crash", "stop", "server", "kill", "early", "lossy", "sup")
ACTS = ("cancel", "terminate", "signal")


def plan_of_seed(seed: int) -> Plan:
    """A random plan; the same for the same seed."""
    dice = random.Random(seed)
    script = "".join(dice.choice(flows.LETTERS + "KZ") for _ in range(dice.randrange(1, 6)))
    faults = tuple(
        Fault(dice.choice(FAULTS), round(dice.random() * 8, 2), round(dice.random() * 12, 2), dice.randrange(2))
        for _ in range(dice.randrange(4))
    )
    acts = tuple(Act(dice.choice(ACTS), round(dice.random() * 8, 2)) for _ in range(dice.choice((0, 0, 1, 2))))
    crash = tuple(sorted(dice.sample(range(1, 40), dice.randrange(3))))
    return Plan(seed, (("flow", script),), crash, faults, acts, max_lost=flows.MAX_LOST)


def crash_everywhere(plan: Plan) -> int:
    """Run the plan, once for each of its effects with a crash before that one. Returns how many runs crashed."""
    with replayable(attrs.evolve(plan, everywhere=True)):
        return FlowSimulation(plan).crash_everywhere()


def run(plan: Plan, *, patches: Iterable[seams.Patch] = ()) -> FlowSimulation:
    """Run a plan to its end, with all its crashes if it says so."""
    simulation = FlowSimulation(plan, patches=patches)
    with replayable(plan):
        simulation.play()
    return simulation


def run_seed(seed: int) -> None:
    """Run the random history of a seed."""
    run(plan_of_seed(seed))
