"""The simulation of workflows: the same world, server and accidents, with workers that do workflow tasks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager

import attrs

from tests.sim import flows, seams
from tests.sim.flow_invariants import FlowInvariants
from tests.sim.flow_nodes import MADE, SEAMS, FlowCaller, FlowNode, Inline
from tests.sim.plan import Act, Fault, Plan
from tests.sim.simulation import Simulation, replayable
from turnout.core.record import JobRecord
from turnout.nats.stream import kv_stream
from turnout.worker.workflows import passing


class FlowSimulation(Simulation):
    """Each job of the plan is a workflow, whose script `tests.sim.flows` reads."""

    invariants: FlowInvariants

    def __init__(self, plan: Plan, *, patches: Iterable[seams.Patch] = (), trace: bool = False) -> None:
        own: list[seams.Patch] = [*SEAMS, (flows, "trouble", self.trouble)]
        super().__init__(attrs.evolve(plan, max_lost=flows.MAX_LOST), patches=[*own, *patches], trace=trace)
        self.invariants = FlowInvariants(self)
        if any(act.kind in WALKED for act in plan.acts):
            self.walks = {"histories_every": 3.0, "history_age": 2.0}
        self.wanted: Counter[tuple[str, str]] = Counter()
        """What the client is to do and how often, until it is done."""
        self._called: dict[str, int] = {}
        self.collects = any(act.kind == "anew" for act in plan.acts)
        """Whether the histories of the plan's workflows are collected while it is played."""
        self.pins = any(act.kind == DEPLOY for act in plan.acts)
        """Whether runs stay with the build that they have begun with."""
        self._deploys = self._forks = 0
        self.forks: dict[str, str] = {}
        """What was forked, by the ids of the forks."""
        self.repaired: set[str] = set()
        """The workflows whose broken code was repaired."""

    @contextmanager
    def _begun(self) -> Iterator[None]:
        try:
            with super()._begun():
                yield
        finally:
            for _, instance in MADE:
                instance.drop()
            MADE.clear()

    def unrest(self) -> str:
        """Nobody who lives has lost an instance: it is dropped, or in memory."""
        return super().unrest() or ("an instance is neither kept nor dropped" if self._lost_instances() else "")

    def _lost_instances(self) -> bool:
        MADE[:] = [(host, instance) for host, instance in MADE if not instance.loop.dropped]
        kept = {id(instance) for node in self.nodes if isinstance(node, FlowNode) for instance in node.kept()}
        return any(host is not None and host.alive and id(instance) not in kept for host, instance in MADE)

    def _build(self) -> None:
        super()._build()
        self.inbox = self.server.streams[self.names.inbox]
        self.history = self.server.streams[self.names.history]
        self.inbox.schedule_late_s = self.work.schedule_late_s
        self.inbox.on_store, self.inbox.on_gone = self.invariants.lies, self.invariants.removed
        self.history.on_store, self.history.on_gone = self.invariants.appended, self.invariants.forgotten

    def _make_caller(self) -> FlowCaller:
        return FlowCaller(self)

    def _start_node(self, number: int) -> None:
        self.nodes.append(FlowNode(self, number, self.next_life()))

    def act(self, act: Act) -> None:
        if act.kind not in (*WALKED, EXPIRE, DEPLOY):
            super().act(act)
            return
        self.note(f"     {act}")
        if act.kind == DEPLOY:
            self._deploy(self._name(act.job))
        elif act.kind == "lose":
            self._lose(self._name(act.job))
        elif act.kind == EXPIRE:
            self._expire()

    def _lose(self, name: str) -> None:
        for kind in LOST:
            self.inbox.purge(self.names.input("flow", name, kind))
        self.inbox.purge(self.names.workflow_timer("flow", name, "*"))

    def _deploy(self, name: str) -> None:
        """One node more comes back with the newest build; somebody sees to those whose build has no worker then."""
        node = self._alive(self._deploys)
        self._deploys += 1
        if node is not None:
            node.stop()
        self.caller.do(DEPLOY, name, "flow")

    def build_of(self, number: int) -> str:
        """The build that a node of this number begins with."""
        return f"build{(self._deploys + self.plan.nodes - 1 - number) // self.plan.nodes}"

    def builds(self) -> set[str]:
        """Those that have a worker, or will have one."""
        return {self.build_of(number) for number in range(self.plan.nodes)}

    def next_fork(self) -> str:
        """What the next fork is called."""
        self._forks += 1
        return f"fork{self._forks}"

    def source_of(self, fork_id: str, workflow_id: str) -> str:
        """What a fork is made of, the workflow, a child or a fork of it, "" when there is none yet; always the same."""
        if fork_id not in self.forks:
            lives = self.invariants.lives
            others = (f"{workflow_id}-", f"{workflow_id}fork")
            more = [name for name, life in lives.items() if name.startswith(others) and life.script]
            found = [name for name in (workflow_id, *more) if name in lives and not set(lives[name].script) & {*"hx"}]
            if not found:
                return ""
            source = self.forks[fork_id] = self.world.random.choice(found)
            self._scripts[fork_id] = list(lives[source].script)
        return self.forks[fork_id]

    def _expire(self) -> None:
        records = self.server.streams[kv_stream(self.names.jobs_bucket)]
        for job_id, record in list(self.invariants.records.items()):
            if record.state.final and not self.invariants.carried(job_id):
                del self.invariants.records[job_id]  # before: nobody has discarded it
                records.purge(self.names.record(record.spec.activity, job_id))

    def trouble(self, workflow_id: str, letter: str) -> None:
        """What the code of a workflow does at a broken step."""
        if workflow_id in self.repaired:
            return
        host = Inline.host
        if letter == "k" and host is not None and host.alive:
            self.note(f"{host.name} is killed by the code of {workflow_id}")
            self.crashed(host)
            host.alive = False
        raise RuntimeError("as the script says")

    def next_called(self, workflow_id: str) -> str:
        """What the next life of a workflow is called: a digit."""
        self._called[workflow_id] = self._called.get(workflow_id, 1) + 1
        return str(self._called[workflow_id])

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


SHORT_IS_LONG: list[seams.Patch] = [(passing, "LONG_EVENTS", 3)]

FAULTS = ("freeze", "cut", "crash", "stop", "server", "kill", "early", "lossy", "sup")
ACTS = ("cancel", "terminate", "signal")
WALKED = ("lose", "walk")
"""Likewise, storage loses what lies in an inbox and its timers; with either a supervisor walks the histories."""

UNFORK = "unfork"
"""Likewise a client: it cancels the forks that there are."""

EXPIRE = "expire"
"""Likewise: the retention of the records of all jobs that have ended is over."""

DEPLOY = "deploy"
"""Likewise: a node is stopped and comes back with another build; in such a plan runs are pinned to theirs."""

LOST = ("start", "done.>", "timer.>")
"""What a supervisor makes up for: the start, and the ends of what a workflow waits for."""

MEND = "mend"
"""Likewise a client: when this workflow is stuck, and all others have ended or are, its code is repaired."""

LIVES = ("again", "replace", "forget", *ACTS)
"""What a client does as well, but not in the plans of `plan_of_seed`: `again` begins another life of what has ended and
is forgotten, `replace` another one in its place; `forget` forgets each child as soon as that has ended. `anew`, in no
random plan, begins another life when the history of the one before was collected."""


FORKING = (*4 * ("fork",), UNFORK, "forget", *ACTS)


def plan_of_seed(seed: int) -> Plan:
    """A random plan; the same for the same seed."""
    return _random_plan(random.Random(seed), seed, flows.LETTERS + "KZ", ACTS)


def lives_of_seed(seed: int) -> Plan:
    """Likewise, with updates, queries and several lives."""
    return _random_plan(random.Random(seed), seed, flows.LETTERS + 4 * flows.ASKED, LIVES)


def forks_of_seed(seed: int) -> Plan:
    """Likewise, with forks, also of what has children: a fork joins those that are there, whatever becomes of them."""
    letters = flows.LETTERS + flows.ASKED + "Yi" + 2 * flows.SHARED
    dice = random.Random(seed)
    plan = _random_plan(dice, seed, letters, FORKING)
    acts = tuple(Act(dice.choice(FORKING), round(3 * dice.random() ** 2, 2)) for _ in range(dice.choice((0, 1, 1, 2))))
    return attrs.evolve(plan, acts=(*acts, Act("fork", round(3 * dice.random() ** 2, 2))))


def pins_of_seed(seed: int) -> Plan:
    """Likewise, while builds are deployed and runs stay with theirs."""
    return _random_plan(random.Random(seed), seed, flows.LETTERS, (DEPLOY, DEPLOY, *ACTS))


def _random_plan(dice: random.Random, seed: int, letters: str, kinds: tuple[str, ...]) -> Plan:
    script = "".join(dice.choice(letters) for _ in range(dice.randrange(1, 6)))
    faults = tuple(
        Fault(dice.choice(FAULTS), round(dice.random() * 8, 2), round(dice.random() * 12, 2), dice.randrange(2))
        for _ in range(dice.randrange(4))
    )
    acts = tuple(Act(dice.choice(kinds), round(dice.random() * 8, 2)) for _ in range(dice.choice((0, 0, 1, 2))))
    crash = tuple(sorted(dice.sample(range(1, 40), dice.randrange(3))))
    return Plan(seed, (("flow", script),), crash, faults, acts, max_lost=flows.MAX_LOST)


def crash_everywhere(plan: Plan) -> int:
    """Run the plan, once for each of its effects with a crash before that one. Returns how many runs crashed."""
    with replayable(attrs.evolve(plan, everywhere=True)):
        return FlowSimulation(plan).crash_everywhere()


def crash_everywhere_passing(plan: Plan) -> int:
    """Likewise, where a run of more than three events is long: its wake-ups are passed on to who has it in memory."""
    with replayable(attrs.evolve(plan, everywhere=True)):
        return FlowSimulation(plan, patches=SHORT_IS_LONG).crash_everywhere()


def crash_each(
    pool: Executor,
    plans: Sequence[Plan],
    play: Callable[[Plan], int] = crash_everywhere,
    *,
    least: int = 8,
    chunksize: int = 1,
) -> None:
    """Play each of these plans so; of each more than `least` runs have to crash, on average."""
    runs = sum(pool.map(play, plans, chunksize=chunksize))
    assert runs > least * len(plans), f"{runs} crash runs"


def run(plan: Plan, *, patches: Iterable[seams.Patch] = ()) -> FlowSimulation:
    """Run a plan to its end, with all its crashes if it says so."""
    simulation = FlowSimulation(plan, patches=patches)
    with replayable(plan):
        simulation.play()
    return simulation


def run_seed(seed: int) -> None:
    """Run the random history of a seed."""
    run(plan_of_seed(seed))


def run_lives(seed: int) -> None:
    """Run the random history of a seed, with updates, queries and several lives."""
    run(lives_of_seed(seed))


def run_forks(seed: int) -> None:
    """Run the random history of a seed, with forks."""
    run(forks_of_seed(seed))


def run_pins(seed: int) -> None:
    """Run the random history of a seed, while builds are deployed."""
    run(pins_of_seed(seed))
