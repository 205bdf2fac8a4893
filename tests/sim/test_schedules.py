"""Schedules in the simulation: supervisors die before every single thing that they do about a tick.

The activity has no worker: its jobs stay in the stream, where each can be counted.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.plan import Fault, Plan
from tests.sim.simulation import Simulation
from tests.sim.world import BEGAN_AT, Host
from turnout import Schedule, activity
from turnout.core.schedule import LATE_S, run_id
from turnout.flow.errors import Killed

EVERY_S = 2
LASTS_S = 24.0
LATEST_S = 0.5
"""How late a tick is where nothing happens to those who fire it: schedules fire up to a quarter of a second late."""


@activity
async def count() -> None: ...


class Ticking(Simulation):
    """Two supervisors and a schedule. `dies`: before which thing that a supervisor does about it one dies; `away`: what
    happens to one of them for a while; `calm`: whether no message takes long."""

    def __init__(self, plan: Plan, dies: int = 0, away: str = "", calm: bool = False) -> None:
        super().__init__(plan)
        self._calm = calm
        self._dies = dies
        self._away = away
        self.done_about_ticks = 0
        self.begun_at: dict[str, list[float]] = {}
        self.schedule = Schedule(every=EVERY_S, overlap="allow", catch_up="all")

    def before_effect(self, host: Host, subject: str, data: bytes) -> None:
        """A supervisor is about to do something. It may die here."""
        if not host.alive:
            raise Killed(f"{host.name} is dead")
        about = any(part in subject for part in ("._schedules.", ".jobs.count.", "~ticks"))
        if host.name.startswith("sup") and about and "MSG.NEXT" not in subject and "CONSUMER." not in subject:
            self.done_about_ticks += 1
            if self.done_about_ticks == self._dies:
                self.crashed(host)
                host.kill()

    def tick(self) -> dict[int, list[float]]:
        """How late the runs of each tick were begun, each time that one was, by the number of the tick."""
        with self._begun():
            if self._calm:
                self.network.latency = lambda: 0.005  # type: ignore[method-assign]
            self.work.on_store = self._stored
            self.caller.host.spawn(self._add())
            for fault in self.plan.faults:
                self.world.after(fault.at, self.accident, fault)
            if self._away:
                happens = self.cut if self._away == "cut" else self.freeze
                self.world.after(6.0 + self.world.random.random(), happens, self.overseers[0].host, 7.0)
            self._pass(LASTS_S)
            assert not self.world.stumbled, self.world.stumbled
        ids = {run_id("s", BEGAN_AT + n): n for n in range(int(self.world.now))}
        return {ids[name]: [at - ids[name] for at in begun] for name, begun in self.begun_at.items()}

    async def _add(self) -> None:
        await (await self.caller.client()).add_schedule("s", self.schedule, count)

    def _stored(self, message: Any) -> None:
        parts = message.subject.split(".")
        if parts[1:3] == ["jobs", "count"]:
            self.begun_at.setdefault(parts[3], []).append(self.world.now)


def check(lates: dict[int, list[float]], latest_s: float) -> None:
    """Every tick has begun one run, and none later than that."""
    ticks = sorted(lates)
    assert len(ticks) >= LASTS_S / EVERY_S - 3, ticks
    assert ticks == list(range(ticks[0], ticks[-1] + 1, EVERY_S))
    assert {tick: begun for tick, begun in lates.items() if len(begun) != 1} == {}
    assert max(begun[0] for begun in lates.values()) <= latest_s


def test_each_tick_has_a_run_in_time() -> None:
    """Two supervisors, and nothing happens to them or to what they send."""
    for seed in range(6):
        check(Ticking(Plan(seed=seed, nodes=0, supervisors=2), calm=True).tick(), LATEST_S)


@pytest.mark.long
def test_a_crash_before_every_step() -> None:
    """Whatever a supervisor was about to do when it died: the other one does it in time, and nobody does it twice."""
    whole = Ticking(Plan(nodes=0, supervisors=2))
    whole.tick()
    assert whole.done_about_ticks > 30
    for dies in range(1, 25):
        simulated = Ticking(Plan(seed=dies, nodes=0, supervisors=2), dies, calm=True)
        check(simulated.tick(), LATE_S)
        assert simulated.crashes == 1, dies


@pytest.mark.long
@pytest.mark.parametrize("away", ["cut", "freeze"])
def test_a_supervisor_that_is_away(away: str) -> None:
    """One that is cut off, or stands still, and comes back: the other one fires in time, and nothing is done twice."""
    for seed in range(12):
        check(Ticking(Plan(seed=seed, nodes=0, supervisors=2), away=away, calm=True).tick(), LATE_S)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["server", "kill"])
def test_a_server_that_is_away(kind: str) -> None:
    """What it could not bring is caught up, once."""
    faults = (Fault(kind, at=5.0, length=6.0),)
    for seed in range(4):
        check(Ticking(Plan(seed=seed, nodes=0, supervisors=2, faults=faults)).tick(), 6.0 + LATE_S)


def test_answers_that_get_lost() -> None:
    """A tick whose steps are not confirmed is dealt with again, and has one run."""
    faults = (Fault("lossy", at=4.0, length=6.0),)
    for seed in range(4):
        check(Ticking(Plan(seed=seed, nodes=0, supervisors=2, faults=faults)).tick(), 12.0)
