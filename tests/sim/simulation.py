"""One simulated history: the server, the processes, the faults of a plan, and the invariants that watch.

run(Plan(seed=7, jobs=(("plain", "FKC"),), crash=(3,)))      # raises Violation, with the way to replay it
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from tests.sim import code, seams
from tests.sim.invariants import LEASE_S, Invariants, Violation, life_of
from tests.sim.network import WATCH_S, SimConnection, SimNetwork, WorldClock, connect
from tests.sim.nodes import ACTIVITY, Caller, Node, Overseer
from tests.sim.plan import Act, Fault, Plan
from tests.sim.world import HOST, Host, World
from turnout import Limit
from turnout.core.record import JobRecord
from turnout.definition.activity import Activity
from turnout.flow.errors import Killed
from turnout.nats.connection import ConnectOptions
from turnout.nats.link import WATCH_MISSES
from turnout.nats.stream import kv_stream
from turnout.store.names import Names
from turnout.store.topology import TopologyOptions, stream_configs
from turnout.testing.memory import MemoryServer, Message, Network

HEAL_S = 200.0
"""How long after the last fault everything may take to end: virtual seconds."""

OPTIONS = ConnectOptions(watch_interval_s=WATCH_S / WATCH_MISSES)
RESTART_S = 2.0
WARM_UP_S = 2.0
"""After that all processes are at work."""

LEAST_S = 0.5
"""How long a history lasts at least: what is sent first is on its way meanwhile."""

GLANCE_S = 0.4
"""How often it is looked whether all has ended."""

REST_S = 5.0


class Simulation:
    """A world, and the histories that are played in it one after the other. `patches` take rules away.

    A world that is at rest is as good as a new one for the next history, and much quicker.
    """

    limits: tuple[Limit, ...] = ()
    """Those of the activity."""

    fairness: str | None = None
    """By what its jobs have their turns."""

    walks: Mapping[str, float] = {}
    """How often supervisors walk the histories of workflows, where they are to come to that."""

    def __init__(self, plan: Plan, *, patches: Iterable[seams.Patch] = (), trace: bool = False) -> None:
        self.plan = plan
        self.patches = patches
        self.trace: list[str] | None = [] if trace else None
        self.names = Names("sim")
        self.world = World(plan.seed)  # type: ignore[abstract]
        self.effects = 0
        """How many effects there were in this history."""
        self.crashes = 0
        self.calls = 0
        """How many calls of the client are under way."""
        self._lives = 0
        self._play = 0
        self._downtimes = 0
        self.hosts: list[Host] = []
        self.connections: list[SimConnection] = []
        self.nodes: list[Node] = []
        self.overseers: list[Overseer] = []
        self._scripts: dict[str, list[str]] = {}
        self.begun: dict[str, list[str]] = {}
        self.invariants = Invariants(self)
        self.network: SimNetwork

    @contextmanager
    def _begun(self) -> Iterator[None]:
        world, plan = self.world, self.plan
        besides = plan.deliver - 3 - plan.max_lost
        with (
            seams.taken(lambda: world.now, world.random, besides, self.open),
            seams.patched(self.patches),
            world.running(),
        ):
            self._build()
            try:
                self._pass(WARM_UP_S)
                yield
            finally:
                for host in self.hosts:
                    host.alive = False
                world.close()

    def _build(self) -> None:
        plan = self.plan
        self.server = MemoryServer(clock=WorldClock(self.world), network=self._make_network)
        self.server.loses_advisory = lambda: self.world.random.random() < 0.5
        self.server.on_consumer = self._watch_consumer
        for config in _configs():
            self.server.make_stream(config)
        self.work = self.server.streams[self.names.work]
        self.work.schedule_late_s = lambda: self.world.random.random() * 0.25
        self.work.on_store, self.work.on_gone = self.invariants.stored, self.invariants.gone
        records = self.server.streams[kv_stream(self.names.jobs_bucket)]
        records.on_store = self._recorded
        records.on_gone = self._record_gone
        self.server.streams[self.names.faults].on_store = self.invariants.letter
        for number in range(plan.nodes):
            self._start_node(number)
        for number in range(plan.supervisors):
            self._start_overseer(number)
        self.caller = self._make_caller()

    def _recorded(self, message: Message) -> None:
        self.invariants.written(message)
        self._written(message.subject.rpartition(".")[2])

    def _record_gone(self, message: Message, why: str) -> None:
        if why == "expired":
            self.invariants.expired(message)
        elif why == "purge":
            self.invariants.left_nothing(message)

    def _written(self, job_id: str) -> None:
        """The job's record was stored, and the invariants know it."""

    def _make_caller(self) -> Caller:
        return Caller(self)

    def _make_network(self, server: MemoryServer) -> Network:
        self.network = SimNetwork(self.world, server)
        return self.network

    def _watch_consumer(self, consumer: Any) -> None:
        consumer.on_second_voice = self.invariants.second_voice

    def properties(self, number: int) -> dict[str, str]:
        """What the node of this number has."""
        return {}

    def requires(self, job_id: str) -> dict[str, str]:
        """What a job of the plan requires of its node."""
        return {}

    def arguments(self, job_id: str) -> dict[str, str]:
        """What a job of the plan is submitted with, besides the name of its life."""
        return {}

    def planned(self, job_id: str) -> int:
        """Which job of the plan it is: a bare one has an id of its own, and so has one that is sent once more."""
        names = {bare: name for name, bare in self.invariants.bare.items()}
        while job_id in names:
            job_id = names[job_id]
        return int(job_id.rpartition("x")[2])

    @property
    def activity(self) -> Activity[..., Any]:
        return code.activity_of(LEASE_S, self.plan.max_lost, self.limits, self.fairness)

    def activities(self) -> dict[str, Activity[..., Any]]:
        """What the nodes work on, by name."""
        return {ACTIVITY: self.activity}

    # -- what processes ask for ----------------------------------------------------------------------------------------

    async def connect(self, host: Host, name: str) -> SimConnection:
        return await connect(host, self.server, self.connections, self.before_effect, OPTIONS, name=name)

    async def open(self, options: ConnectOptions, *, name: str) -> SimConnection:
        """What `Connection.open` is, for whoever runs now."""
        host = HOST.get()
        assert host is not None
        return await self.connect(host, name)

    def writer(self) -> str:
        """The process whose message the server is dealing with."""
        speaker = self.server.speaker
        return speaker.host.name if isinstance(speaker, SimConnection) else "the server"

    def next_life(self) -> int:
        self._lives += 1
        return self._lives

    def note(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.world.now:8.3f} {self.effects:3d} {text}")

    def letter(self, record: JobRecord) -> str:
        """What the attempt's code does: the next letter of the job's script, C when there is none left."""
        life = life_of(record.spec.payload.text or "")
        name = life.partition("#")[0]
        script = self._scripts.get(name)
        letter = script.pop(0) if script else "C"
        self.begun.setdefault(name, []).append(letter)
        return letter

    def is_well(self, host: Host) -> bool:
        """Whether a process lives, and is neither cut off nor just coming back from that."""
        return host.alive and not host.cut and not any(c.cut_off for c in self.connections if c.host is host)

    def contact_since(self, node: Node) -> float | None:
        """Since when the node has been in contact with the server; None while it is not, or answers get lost."""
        host = node.host
        lines = [each for each in self.connections if each.host is host and not each.closed]
        if host.frozen or host.cut or not self.server.up or not all(each.up for each in lines):
            return None
        return max([host.well_since, self.network.lossy_until, *(each.up_since for each in lines)])

    # -- accidents -----------------------------------------------------------------------------------------------------

    def before_effect(self, host: Host, subject: str, data: bytes) -> None:
        """A process is about to change something, or to ask another one. It may die here."""
        if not host.alive:
            raise Killed(f"{host.name} is dead")
        self.effects += 1
        self.note(f"{host.name}: {subject} {data[:60]!r}")
        if self.effects in self.plan.crash:
            self.crashed(host)
            host.kill()

    def crashed(self, host: Host, *, after_s: float = RESTART_S, counted: bool = True) -> None:
        """A process is gone; another one takes its place after a while."""
        self.crashes += counted
        self._down()
        self.world.after(after_s, self._revive, host)

    def _down(self) -> None:
        self._downtimes += 1

    def _well_again(self) -> None:
        self._downtimes -= 1

    def _revive(self, host: Host) -> None:
        self._well_again()
        for node in self.nodes:
            if node.host is host:
                self._start_node(node.number)
                return
        for overseer in self.overseers:
            if overseer.host is host:
                self._start_overseer(overseer.number)
                return
        if self.caller.host is host:
            self.calls = 0
            self.caller = self._make_caller()

    def _start_node(self, number: int) -> None:
        self.nodes.append(Node(self, number, self.next_life()))

    def _start_overseer(self, number: int) -> None:
        self.overseers.append(Overseer(self, number, self.next_life()))

    def _alive(self, number: int) -> Node | None:
        return next((n for n in reversed(self.nodes) if n.number == number % self.plan.nodes and n.host.alive), None)

    def cut(self, host: Host, seconds: float) -> None:
        """A process can't reach the server for a while."""
        host.set_cut(True)
        self.network.cut_off(host, [each for each in self.connections if each.host is host])
        self._for(seconds, host.set_cut, False)

    def freeze(self, host: Host, seconds: float) -> None:
        """A process stands still for a while."""
        host.freeze(seconds)
        self._for(seconds, int)

    def _for(self, seconds: float, end: Callable[..., object], *args: object) -> None:
        """Something is not well for a while."""
        self._down()
        self.world.after(seconds, end, *args)
        self.world.after(seconds, self._well_again)

    def accident(self, fault: Fault) -> None:
        self.note(f"     {fault}")
        node = self._alive(fault.who)
        overseer = self.overseers[-1]
        match fault.kind:
            case "freeze" if node is not None:
                self.freeze(node.host, fault.length)
            case "cut" if node is not None:
                self.cut(node.host, fault.length)
            case "crash" if node is not None:
                self.crashed(node.host, after_s=fault.length)
                node.host.kill()
            case "stop" if node is not None:
                node.stop()
            case "server" | "kill" if self.server.up:
                self.server.stop()
                self._for(fault.length, self._server_back, fault.kind == "kill")
            case "early":
                for consumer in self.work.consumers.values():
                    consumer.early()
            case "lossy":
                self.network.lossy_until = max(self.network.lossy_until, self.world.now + fault.length)
                self._for(fault.length, int)
            case "pass":
                self._for(fault.length, int)
            case "sup" if overseer.host.alive:
                self.crashed(overseer.host, after_s=fault.length, counted=False)
                overseer.host.kill()

    def _server_back(self, crashed: bool) -> None:
        self.server.start(self.world.random, crashed=crashed)

    def act(self, act: Act) -> None:
        self.note(f"     {act}")
        job_id = self.job_id(act.job)
        if job_id is not None:
            self.caller.do(act.kind, job_id, self._kind(act.job))

    def job_id(self, number: int) -> str | None:
        """The id of the plan's job; a bare one has none before it is stored."""
        name = self._name(number)
        return name if self._kind(number) != "bare" else self.invariants.bare.get(name)

    def _kind(self, number: int) -> str:
        return self.plan.jobs[number][0].partition("-")[0]

    def _name(self, number: int) -> str:
        return f"job{self._play}x{number}"

    # -- the histories -------------------------------------------------------------------------------------------------

    def play(self) -> Simulation:
        """Play the plan's history, with all its crashes if it says so."""
        if self.plan.everywhere:
            self.crash_everywhere()
            return self
        return self.run()

    def run(self) -> Simulation:
        """Play the plan's history in a world of its own, and watch the world at rest for a while."""
        with self._begun():
            self._play_history(self.plan)
            self._rest()
        return self

    def crash_everywhere(self) -> int:
        """Play the history without a crash, then once for each of its effects with a crash before that one.

        How many of them crashed.
        """
        crashed = 0
        with self._begun():
            plan = attrs.evolve(self.plan, crash=())
            self._play_history(plan)
            for effect in range(1, self.effects + 1):
                self._play_history(attrs.evolve(plan, crash=(effect,)))
                crashed += self.crashes > 0
            self._rest()
        return crashed

    def _play_history(self, plan: Plan) -> None:
        """From the submits until all has ended and been cleared away.

        What the plan has for later, when the world is at rest already, comes at once: it would meet nothing else.
        """
        world = self.world
        self.plan = plan
        self._play += 1
        self.effects = self.crashes = 0
        self.note(f"---- {plan}")
        # One that is dead is kept until another one takes its place.
        self.nodes = list({node.number: node for node in self.nodes}.values())
        self.connections = [connection for connection in self.connections if connection.host.alive]
        for number, (_, script) in enumerate(plan.jobs):
            self._scripts[self._name(number)] = list(script)
            self.caller.do("submit", self._name(number), self._kind(number))
        begun, brought_forward = world.now, 0.0
        happens: list[tuple[float, Callable[[Any], None], Any]] = [
            (each.at, self.accident, each) for each in plan.faults
        ]
        happens += [(each.at, self.act, each) for each in plan.acts]
        for at, happen, what in sorted(happens, key=lambda each: each[0]):
            while (left := begun + at - brought_forward - world.now) > 0:
                if world.now - begun > LEAST_S and not self.unrest():
                    brought_forward += left
                    break
                self._pass(min(left, GLANCE_S))
            happen(what)
        self._pass(GLANCE_S)
        deadline = world.now + max((each.length for each in plan.faults), default=0.0) + HEAL_S
        while world.now - begun < LEAST_S or (unrest := self.unrest()):
            if world.now >= deadline:
                raise Violation("U13 heals", f"after {HEAL_S:g} s without faults: {unrest}")
            self._pass(GLANCE_S)

    def _pass(self, seconds: float) -> None:
        self.world.run_until(self.world.now + seconds)
        for error in self.world.stumbled:
            if isinstance(error, Violation):
                raise error
        if self.world.stumbled:
            raise Violation("U16 nothing stumbles", repr(self.world.stumbled))

    def unrest(self) -> str:
        """What keeps the world from rest, "" when everything has ended and everybody is well."""
        if self.calls:
            return "the client waits"
        return "not all are well" if self._downtimes else self.invariants.unfinished()

    def _rest(self) -> None:
        """What is still on its way arrives at a world at rest, and must leave it so."""
        self._pass(REST_S)
        deadline = self.world.now + HEAL_S
        while unrest := self.unrest():
            if self.world.now >= deadline:
                raise Violation("U13 heals", f"unrest came back: {unrest}")
            self._pass(1.0)
        self.invariants.at_rest()


@functools.cache
def _configs() -> list[dict[str, Any]]:
    return stream_configs(Names("sim"), TopologyOptions())


@contextmanager
def replayable(plan: Plan) -> Iterator[None]:
    """A violation says which invariant broke and how to see it again."""
    try:
        yield
    except Violation as violation:
        replay = f"{violation}\n  seed {plan.seed}; replay: pytest tests/sim/test_replay.py --sim-plan='{plan}'"
        raise Violation(violation.name, replay.partition(": ")[2]) from violation


def run(plan: Plan, *, patches: Iterable[seams.Patch] = ()) -> Simulation:
    """Run a plan to its end, with all its crashes if it says so."""
    simulation = Simulation(plan, patches=patches)
    with replayable(plan):
        return simulation.play()


def crash_everywhere(plan: Plan) -> int:
    """Run the plan, once for each of its effects with a crash before that one. Returns how many runs crashed."""
    with replayable(attrs.evolve(plan, everywhere=True)):
        return Simulation(plan).crash_everywhere()


def run_seed(seed: int) -> None:
    """Run the random history of a seed."""
    run(Plan.of_seed(seed))
