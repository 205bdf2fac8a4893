"""One simulated history: the server, the actors, the faults of a plan, and the invariants that watch.

run(Plan(seed=7, jobs=(("plain", "FKC"),), crash=(3,)))      # raises Violation, with the way to replay it
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs

from tests.sim.actors import Client, Node, Supervisor
from tests.sim.invariants import Invariants, Violation
from tests.sim.jetstream import Bucket, Stream, WorkStream
from tests.sim.perform import BARE
from tests.sim.plan import Act, Fault, Plan
from tests.sim.world import LEASE_S, Crashed, Host, Signal, Steps, World
from turnout.core import lifecycle
from turnout.core.effects import Effect
from turnout.core.events import Completed, Event, Failed, Received
from turnout.core.retry import RetryPolicy
from turnout.core.values import JobRecord, Rules, SubmitOptions, Token

HEAL_S = 300.0
"""How long after the last fault everything may take to end: virtual seconds."""

RESTART_S = 4.0
Decide = Callable[[JobRecord | None, Event], tuple[Effect, ...]]


class Simulation:
    """Everything of one history. `missing` names the rules that are taken away, `decide` may be a mutant."""

    def __init__(
        self,
        plan: Plan,
        *,
        missing: frozenset[str] = frozenset(),
        decide: Decide = lifecycle.decide,
        trace: bool = False,
    ) -> None:
        self.plan = plan
        self.missing = missing
        self.decide = decide
        self.trace: list[str] | None = [] if trace else None
        self.world = World(plan.seed)
        self.work = WorkStream(self.world, BARE, ack_wait_s=LEASE_S, max_deliver=plan.deliver)
        self.letters = Stream(self.world)
        self.registry: Bucket[JobRecord] = Bucket(self.world, marker_ttl_s=3600.0)
        self.rules = Rules(retry=RetryPolicy(max_attempts=3, delay=1.0), max_lost=plan.max_lost, lease=LEASE_S)
        self.options = SubmitOptions()
        self.slots = 1
        self.effects = 0
        self.crashes = 0
        self._nonces = 0
        self._lives = 0
        self._scripts: dict[str, list[str]] = {}
        self.begun: dict[str, list[str]] = {}
        self.invariants = Invariants(self)
        self.workers: list[Node] = []
        self.supervisors: list[Supervisor] = []
        self.client = Client(self)
        for number in range(plan.nodes):
            self._start_node(number)
        for number in range(plan.supervisors):
            self._start_supervisor(number)

    def without(self, rule: str) -> bool:
        return rule in self.missing

    def unfenced(self, event: Event) -> bool:
        """Whether a mutant writes without compare-and-set for this event."""
        return ("start CAS" in self.missing and isinstance(event, Received)) or (
            "end CAS" in self.missing and isinstance(event, Completed | Failed)
        )

    # -- what the server does for the interpreter ----------------------------------------------------------------------

    def save(self, record: JobRecord, revision: int | None, ttl_s: float | None, event: Event) -> int:
        before, _ = self.registry.get(record.id)
        written = self.registry.put(record.id, record, revision, ttl_s)
        self.note(
            f"     saved {record.id} {record.state} g{record.generation} a{record.attempt} by {type(event).__name__}"
        )
        self.invariants.saved(before, record, ttl_s is not None, event)
        self.invariants.not_early(before, record)
        return written

    def delete(self, job_id: str, revision: int) -> None:
        record, _ = self.registry.get(job_id)
        self.registry.put(job_id, None, revision, 3600.0, note=record.generation if record is not None else 0)
        self.invariants.deleted.add(job_id)
        if record is not None:
            self.invariants.discarded.add(record.payload.text or "")

    def key_left(self, name: str) -> float:
        return max((n.host.key_left_s for n in self.workers if n.host.name == name), default=0.0)

    def ask(self, token: Token, answer: Signal, asker: Host) -> None:
        self._to_node(token, "ask", answer, asker)

    def notify(self, token: Token, reason: str) -> None:
        self._to_node(token, "cancel", None, None)

    def _to_node(self, token: Token, kind: str, answer: Signal | None, asker: Host | None) -> None:
        for node in self.workers:
            if node.host.name == token.node:
                self.world.after(self.world.latency(), node.hear, kind, token, answer, asker)

    def note(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.world.now - 1_700_000_000.0:8.3f} {self.effects:3d} {text}")

    # -- chance and scripts --------------------------------------------------------------------------------------------

    def nonce(self) -> str:
        self._nonces += 1
        return f"x{self._nonces}"

    def letter(self, record: JobRecord) -> str:
        """What the attempt's code does: the next letter of the job's script, C when there is none left."""
        script = self._scripts.setdefault(record.id, list(self._bare_script if record.id[0].isdigit() else ""))
        letter = script.pop(0) if script else "C"
        self.begun.setdefault(record.id, []).append(letter)
        return letter

    @property
    def _bare_script(self) -> str:
        return next((script for kind, script in self.plan.jobs if kind == "bare"), "")

    # -- accidents -----------------------------------------------------------------------------------------------------

    def before_effect(self, host: Host, effect: Effect | None) -> None:
        self.effects += 1
        self.note(f"{host.name}: {effect}")
        if self.effects in self.plan.crash:
            self.crashes += 1
            self.world.after(RESTART_S, self._revive, host)
            raise Crashed

    def crash_node(self, node: Node) -> None:
        """Called by the code that runs on it: the node is gone at this very point."""
        self.crashes += 1
        self.world.after(RESTART_S, self._revive, node.host)
        raise Crashed

    def stopped(self, node: Node) -> None:
        node.host.alive = False
        node.host.contact_changed()
        self.world.after(RESTART_S, self._revive, node.host)

    def _revive(self, host: Host) -> None:
        for node in self.workers:
            if node.host is host:
                self._start_node(node.number)
                return
        for supervisor in self.supervisors:
            if supervisor.host is host:
                self._start_supervisor(supervisor.number)
                return
        self.client = Client(self)

    def _start_node(self, number: int) -> None:
        self._lives += 1
        self.workers.append(Node(self, number, self._lives))

    def _start_supervisor(self, number: int) -> None:
        self._lives += 1
        self.supervisors.append(Supervisor(self, number, self._lives))

    def _alive(self, number: int) -> Node | None:
        return next((n for n in reversed(self.workers) if n.number == number % self.plan.nodes and n.host.alive), None)

    def accident(self, fault: Fault) -> None:
        self.note(f"     {fault}")
        node = self._alive(fault.who)
        host = node.host if node is not None else None
        supervisor = self.supervisors[-1]
        match fault.kind:
            case "freeze" if host is not None:
                host.freeze(fault.length)
            case "cut" if host is not None:
                host.set_cut(True)
                self.world.after(fault.length, host.set_cut, False)
            case "crash" if host is not None:
                self.crashes += 1
                self.world.after(fault.length, self._revive, host)
                host.crash()
            case "stop" if node is not None:
                node.stop()
            case "server" | "kill":
                self.world.set_server(False)
                self.work.pulls.clear()
                self.world.after(fault.length, self._server_back, fault.kind == "kill")
            case "early":
                self.work.early()
            case "lossy":
                self.world.lossy_until = max(self.world.lossy_until, self.world.now + fault.length)
            case "sup" if supervisor.host.alive:
                supervisor.host.crash()
                self.world.after(fault.length, self._revive, supervisor.host)

    def _server_back(self, crashed: bool) -> None:
        self.work.forget(crashed)
        self.world.set_server(True)
        self.work.changed()

    def act(self, act: Act) -> None:
        self.note(f"     {act}")
        job_id = self.job_id(act.job)
        if job_id is None:
            return
        kind = self.plan.jobs[act.job][0]
        steps: dict[str, Callable[[str], Steps]] = {
            "cancel": self.client.cancel,
            "retry": self.client.retry,
            "delete": self.client.delete,
            "submit": partial(self.client.submit, kind=kind),
            "beside": partial(self.client.submit, kind="plain", blind=True),
        }
        if self.client.host.alive:
            self.client.host.spawn(steps[act.kind](job_id))

    def job_id(self, number: int) -> str | None:
        """The id of the plan's job; a bare one has none before it is stored."""
        if self.plan.jobs[number][0] != "bare":
            return f"job{number}"
        return next((job_id for job_id in self.invariants.accepted if job_id[0].isdigit()), None)

    # -- the history ---------------------------------------------------------------------------------------------------

    def run(self) -> Simulation:
        world, start = self.world, self.world.now
        for number, (kind, script) in enumerate(self.plan.jobs):
            if kind != "bare":
                self._scripts[f"job{number}"] = list(script)
            self.client.host.spawn(self.client.submit(f"job{number}", kind))
        last = start + 2.0
        for fault in self.plan.faults:
            world.at(start + fault.at, self.accident, fault)
            last = max(last, start + fault.at + fault.length + 1.0)
        for act in self.plan.acts:
            world.at(start + act.at, self.act, act)
            last = max(last, start + act.at + 1.0)
        world.run_until(last)
        deadline = last + HEAL_S
        while self.invariants.unfinished():
            if world.now >= deadline:
                raise Violation("U13 heals", f"after {HEAL_S:g} s without faults: {self.invariants.unfinished()}")
            world.run_until(world.now + 1.0)
        # What is still on its way arrives at a world at rest, and must leave it so.
        world.run_until(world.now + 3 * LEASE_S)
        while self.invariants.unfinished():
            if world.now >= deadline + 60.0:
                raise Violation("U13 heals", f"unrest came back: {self.invariants.unfinished()}")
            world.run_until(world.now + 1.0)
        self.invariants.at_rest()
        return self


def run(plan: Plan, *, missing: frozenset[str] = frozenset(), decide: Decide = lifecycle.decide) -> Simulation:
    """Run a plan to its end. A violation says which invariant broke and how to see it again."""
    simulation = Simulation(plan, missing=missing, decide=decide)
    try:
        return simulation.run()
    except Violation as violation:
        replay = f"{violation}\n  seed {plan.seed}; replay: pytest tests/sim/test_replay.py --sim-plan='{plan}'"
        raise Violation(violation.name, replay.partition(": ")[2]) from violation


def crash_points(plan: Plan) -> int:
    """How many effects the plan performs when nobody crashes."""
    return Simulation(attrs.evolve(plan, crash=())).run().effects


def crash_runs(plan: Plan) -> list[Plan]:
    """The plan with a crash before each of its effects in turn."""
    return [attrs.evolve(plan, crash=(n,)) for n in range(1, crash_points(plan) + 1)]


def crashes_in(plan: Plan) -> bool:
    """Run the plan; whether anything crashed."""
    return run(plan).crashes > 0


def crash_everywhere(plan: Plan) -> int:
    """Run the plan, once for each of its effects with a crash before that one. Returns how many runs crashed."""
    return sum(map(crashes_in, crash_runs(plan)))


def run_seed(seed: int) -> None:
    """Run the random history of a seed."""
    run(Plan.of_seed(seed))
