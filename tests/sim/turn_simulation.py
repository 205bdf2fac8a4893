"""The simulation of fairness: the same world and accidents; the jobs are of several tenants, who have their turns."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import attrs

from tests.sim.invariants import Violation
from tests.sim.plan import Act, Fault, Plan
from tests.sim.seams import Patch
from tests.sim.simulation import Simulation, replayable
from turnout.core.record import JobState
from turnout.supervisor import turns
from turnout.testing.memory import Message

TENANTS = ("big", "few", "one")
"""Whose the jobs are, as the second half of their kind says: `bare-few`."""

DEALT = 2
"""So many turns are dealt in advance here: the real number is more than there are jobs."""

MOST = 6
"""So many jobs of one tenant begin at most while another one waits for its turn: those that were dealt when it came, as
many again where those had all been taken, and what nodes had asked for."""

LOOKED_S = 4.0
"""After so long whoever deals the turns knows of a job, and of what has gone."""

TARGET = "Nats-Schedule-Target"

HEALED_S = 12.0
"""So long after an accident somebody deals the turns again."""

FAULTS = ("freeze", "cut", "crash", "stop", "server", "kill", "early", "lossy", "sup")
ACTS = ("cancel", "delete", "retry", "submit", "replace")


class Dealing(Simulation):
    """Nodes whose activity has a fairness."""

    fairness = "{tenant}"

    def __init__(self, plan: Plan, patches: Iterable[Patch] = (), *, trace: bool = False) -> None:
        super().__init__(plan, patches=[(turns, "FEWEST", DEALT), *patches], trace=trace)
        self.begun_by: list[str] = []
        """Whose jobs were begun, in order."""
        self.counted = 0
        """How often a tenant was seen to wait while one of another began."""
        self._waiting: dict[str, tuple[str, float]] = {}
        """Whose the jobs are that nobody has begun, and since when they wait."""
        self._behind: dict[str, Counter[str]] = {}
        """How many of each other tenant have begun since a tenant had its last turn."""
        self._disturbed_at = -HEALED_S

    def arguments(self, job_id: str) -> dict[str, str]:
        return {"tenant": self.plan.jobs[self.planned(job_id)][0].partition("-")[2]}

    def _build(self) -> None:
        super()._build()
        latency = self.network.latency
        self.network.latency = lambda: latency() / 10  # type: ignore[method-assign]
        stored = self.work.on_store

        def lies(message: Message) -> None:
            stored(message)
            found = None if TARGET in message.headers else self.invariants.delivery_of(message)
            record = None if found is None else self.invariants.records.get(found.id)
            if found is not None and (record is None or not (record.attempts or record.state.final)):
                self._waiting.setdefault(found.id, (_tenant(message.data), self.world.now))

        self.work.on_store = lies

    def _written(self, job_id: str) -> None:
        record = self.invariants.records.get(job_id)
        if record is None or record.state is JobState.running or record.state.final:
            waited = self._waiting.pop(job_id, None)
            if record is not None and waited is not None and record.attempts:
                self._has_begun(waited[0])

    def _has_begun(self, tenant: str) -> None:
        """T1: nobody waits for more than a few of another tenant's, unless whoever deals the turns can't."""
        self.begun_by.append(tenant)
        self._behind.pop(tenant, None)
        now = self.world.now
        if self._downtimes or now - self._disturbed_at < HEALED_S:
            self._behind.clear()
            return
        for other in {whose for whose, since in self._waiting.values() if now - since > LOOKED_S} - {tenant}:
            self.counted += 1
            behind = self._behind.setdefault(other, Counter())
            behind[tenant] += 1
            if behind[tenant] > MOST:
                raise Violation("T1 in turn", f"{other} waits behind {behind} in {self.begun_by}")

    def _down(self) -> None:
        super()._down()
        self._disturbed_at = self.world.now

    def _well_again(self) -> None:
        super()._well_again()
        self._disturbed_at = self.world.now

    def _play_history(self, plan: Plan) -> None:
        self.begun_by.clear()
        self._waiting.clear()
        self._behind.clear()
        super()._play_history(plan)


def run(plan: Plan, *, patches: Iterable[Patch] = ()) -> Dealing:
    """Run a plan to its end, with all its crashes if it says so."""
    simulation = Dealing(plan, patches)
    with replayable(plan):
        simulation.play()
    return simulation


def crash_everywhere(plan: Plan) -> int:
    """Run the plan, once for each of its effects with a crash before that one. Returns how many runs crashed."""
    with replayable(attrs.evolve(plan, everywhere=True)):
        return Dealing(plan).crash_everywhere()


def many(**tenants: int) -> tuple[tuple[str, str], ...]:
    """So many jobs of each tenant, all of one submitted before those of the next."""
    return tuple((f"plain-{tenant}", "C") for tenant, count in tenants.items() for _ in range(count))


def plan_of_seed(seed: int) -> Plan:
    """A random plan; the same for the same seed."""
    dice = random.Random(seed)
    jobs = many(big=dice.randrange(8, 30))
    for tenant in TENANTS[1:]:
        kinds = dice.choices(("plain", "bare", "delayed", "expiring"), k=dice.randrange(4))
        jobs += tuple((f"{kind}-{tenant}", dice.choice(("C", "FC", "KC", "W", "SC"))) for kind in kinds)
    faults = tuple(
        Fault(dice.choice(FAULTS), round(dice.random() * 8, 2), round(dice.random() * 12, 2), dice.randrange(2))
        for _ in range(dice.choice((0, 0, 1, 2, 3)))
    )
    acts = tuple(
        Act(dice.choice(ACTS), round(dice.random() * 8, 2), dice.randrange(len(jobs))) for _ in range(dice.randrange(3))
    )
    crash = tuple(sorted(dice.sample(range(1, 150), dice.choice((0, 0, 1, 2)))))
    return Plan(seed, jobs, crash, faults, acts, supervisors=dice.choice((1, 2)))


def run_seed(seed: int) -> None:
    """Run the random history of a seed."""
    run(plan_of_seed(seed))


def _tenant(payload: bytes) -> str:
    return payload.decode().partition('"tenant":"')[2].partition('"')[0]
