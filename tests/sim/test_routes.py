"""Routing in the simulation: nodes have different properties, and jobs require some of them; with a crash before every
effect, and in random histories with every fault.
"""

from __future__ import annotations

import itertools
from concurrent.futures import Executor

import attrs
import pytest

from tests.sim.mutations import Tooth
from tests.sim.nodes import Node
from tests.sim.plan import Act, Fault, Plan
from tests.sim.route_simulation import ACTS, KINDS, REQUIRES, Routing, crash_everywhere, run, run_seed
from tests.sim.seams import Patch
from tests.sim.test_crashes import pool, scale, share
from turnout.core import lifecycle
from turnout.core.effects import Effect
from turnout.core.parking import taken_off
from turnout.core.record import JobRecord
from turnout.nats.stream import kv_stream
from turnout.store.routes import Routes
from turnout.supervisor.routes import RouteWatch
from turnout.testing.memory import Message
from turnout.worker.executor import Executor as JobExecutor
from turnout.worker.routes import RouteFinder

__all__ = ["pool", "scale"]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect(pool: Executor, scale: float) -> None:
    """Whoever dies, wherever: a job runs where it fits, and one that nobody fits ends when its time is over."""
    kinds = [f"{kind}-{what}" for kind, what in itertools.product(KINDS, REQUIRES) if what not in ("any", "huge")]
    jobs: list[tuple[tuple[str, str], ...]] = [((kind, "FC"),) for kind in kinds]
    jobs += [
        (("plain-gpu", "W"), ("plain-east", "C"), ("bare-both", "C"), ("plain-any", "C")),
        (("expiring-huge", "C"),),
    ]
    plans = share([Plan(seed=number, jobs=each) for number, each in enumerate(jobs)], scale, all_at=2)
    assert sum(pool.map(crash_everywhere, plans)) > 5 * len(plans)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_crash_before_every_effect_while_a_client_acts(pool: Executor, scale: float) -> None:
    """The same while somebody ends, removes, retries or submits again what is on its route, or on its way to it."""
    cases = list(itertools.product(ACTS, (0.05, 0.3, 1.5), ("plain-gpu", "plain-east")))
    plans = [
        Plan(seed=number, jobs=((kind, "C"),), acts=(Act(act, at),)) for number, (act, at, kind) in enumerate(cases)
    ]
    plans = share(plans, scale, all_at=3)
    assert sum(pool.map(crash_everywhere, plans)) > 3 * len(plans)


@pytest.mark.timeout(1200)
def test_random_histories(pool: Executor, scale: float) -> None:
    """All of it at once, among accidents of every kind."""
    for _ in pool.map(run_seed, range(int(100 * scale)), chunksize=10):
        pass  # a violation is raised here


def crashes(*kinds: str, acts: tuple[Act, ...] = ()) -> tuple[Plan, ...]:
    """A job of each of these kinds, with a crash before every effect, under several seeds."""
    return tuple(
        Plan(seed=seed, jobs=((kind, "C"),), acts=acts, everywhere=True) for kind in kinds for seed in range(4)
    )


def ends_off_the_route_first() -> list[Patch]:
    def already_final(record: JobRecord, settle: Effect) -> tuple[Effect, ...]:
        return (*taken_off(record), *lifecycle._owed(record), settle)

    return [(lifecycle, "_already_final", already_final)]


async def _nothing(*_: object) -> None:
    pass


RULES: dict[str, Tooth] = {
    "fits": Tooth(
        "a node runs what it has not the means for",
        ("R1",),
        crashes("plain-east"),
        lambda: [(JobExecutor, "_fits", lambda self, requires: True)],
    ),
    "tell": Tooth("no node hears of a new route", ("U13",), crashes("plain-gpu"), lambda: [(Routes, "tell", _nothing)]),
    "tell again": Tooth(
        "what was told of a route is lost",
        ("U13",),
        tuple(
            Plan(seed=n, jobs=(("plain-east", "C"),), faults=(Fault("lossy", round(0.01 + n / 1000, 3), 1.0),))
            for n in range(100)
        ),
        lambda: [(RouteWatch, "look", _nothing)],
    ),
    "look": Tooth(
        "a node that comes back knows no route",
        ("U13",),
        crashes("plain-east"),
        lambda: [(RouteFinder, "_look", _nothing)],
    ),
    "ends": Tooth(
        "what has ended stays on its route",
        ("U13",),
        tuple(
            Plan(seed=n, jobs=(("plain-huge", "C"),), acts=(Act("cancel", 1.5),), crash=(n % 10,)) for n in range(2, 60)
        ),
        lambda: [(Routes, "take_off", _nothing)],
    ),
    "look again": Tooth(
        "what ends while it is sent on stays on its route",
        ("U13",),
        tuple(
            Plan(seed=n, jobs=(("plain-huge", "C"),), acts=(Act("cancel", round(0.01 + n / 1000, 3)),))
            for n in range(200)
        ),
        lambda: [(Routes, "_look_again", _nothing)],
    ),
    "owed": Tooth(
        "what has ended leaves its route before its letter is written",
        ("U6",),
        tuple(attrs.evolve(plan, jobs=(("plain-east", "X"),)) for plan in crashes("plain-east")),
        ends_off_the_route_first,
    ),
}
"""The rules of routing, and what befalls without them."""


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_nobody_keeps_is_missed(rule: str) -> None:
    """Histories break an invariant when it is not kept, and go well when it is."""
    assert RULES[rule].unnoticed(rule, run) == ""


class Drained(Routing):
    """A node, or whoever takes its place, is drained as soon as it says that it lives."""

    drained = 0

    def _build(self) -> None:
        super()._build()
        self.server.streams[kv_stream(self.names.nodes_bucket)].on_store = self._said

    def _said(self, message: Message) -> None:
        for node in self.nodes:
            if node.number == self.drained and message.subject.endswith(node.host.name) and not node.started:
                node.host.spawn(self._drain(node))

    async def _drain(self, node: Node) -> None:
        assert node.runner is not None
        assert not node.started
        node.runner.drain()


@pytest.mark.parametrize("number", [0, 2])
def test_a_node_that_is_drained_while_it_starts_can_be_stopped(number: int) -> None:
    """Whatever it has begun by then, it ends: with properties, and without."""
    simulation = Drained(Plan(jobs=(("plain-any", "C"),), faults=(Fault("stop", 1.0, who=number),)))
    simulation.drained = number
    simulation.run()
    assert [node.number for node in simulation.nodes].count(number) == 2, "another one takes its place"


def test_jobs_are_sent_on() -> None:
    """The histories are of what they say: most jobs come to a node first that does not fit."""
    assert sum(run(Plan(seed=seed, jobs=(("plain-east", "C"),))).sent_on for seed in range(10)) > 5
