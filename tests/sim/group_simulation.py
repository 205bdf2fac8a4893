"""The simulation of groups and of debounced submissions: the same world, and a client that submits many jobs as one.

A job of the plan is a group or a burst: `group:C.FC!K` are two members and what follows them, each with a script of its
own; it follows a `whole` one only if all have completed. `burst:CF` are two debounced submissions of one key, each with
what its code does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import attrs

from tests.sim import code, seams
from tests.sim.group_invariants import GroupInvariants
from tests.sim.invariants import LEASE_S, life_of
from tests.sim.nodes import Caller
from tests.sim.plan import Act, Fault, Plan
from tests.sim.simulation import Simulation, replayable
from turnout import activity, current_job
from turnout.client import submitter
from turnout.client.client import Client
from turnout.core.group import member_id
from turnout.core.record import JobRecord
from turnout.core.retry import RetryPolicy
from turnout.definition.activity import Activity
from turnout.errors import InvalidState, OutcomeUnknown, TurnoutError
from turnout.nats.stream import kv_stream

KINDS = ("group", "whole", "burst")
FAULTS = ("freeze", "cut", "crash", "stop", "server", "kill", "lossy", "sup")
ACTS = ("cancel", "remove", "retry", "submit", "now")
WAIT_S = 1.0
"""How long a burst waits for the next submission."""

RETRY = RetryPolicy(max_attempts=3, delay=1.0, jitter=0.1)


@activity(name="sum", lease=LEASE_S, max_lost=10, retry=RETRY)
async def summarize(ended: list[dict[str, Any]]) -> str:
    """What follows a group."""
    return str(await code.PLAY.get()(current_job()))


class Bundler(Caller):
    """A client that submits groups and bursts, and does things to them."""

    sim: GroupSimulation

    async def _do(self, kind: str, job_id: str, of: str) -> None:
        client = await self.client()
        try:
            if of == "burst":
                await self._to_burst(client, kind, job_id)
            else:
                await self._to_group(client, kind, job_id, of)
        except TurnoutError as error:
            self.sim.note(f"{self.host.name}: {kind} {job_id} fails: {error!r}")
        if self.host.alive:
            self.sim.calls -= 1

    # -- groups --------------------------------------------------------------------------------------------------------

    async def _to_group(self, client: Client, kind: str, group: str, of: str) -> None:
        scripts, _, follower = "".join(self.sim._scripts[group]).partition("!")
        total = scripts.count(".") + 1
        if kind == "submit":
            lives = [f"{group}-{number}#{script}" for number, script in enumerate(scripts.split("."))]
            await client.submit_group(
                self.sim.activity,
                [{"life": life} for life in lives],
                id=group,
                then=summarize if follower else None,
                then_on="completed" if of == "whole" else "ended",
            )
            self.sim.invariants.promised_group(group)
        elif kind == "cancel":
            await client.group(group).cancel("as the plan says")
        for number in range(total):
            if kind in ("remove", "retry", "now"):
                await self._to_job(client, kind, member_id(group, number))

    async def _to_job(self, client: Client, kind: str, job_id: str) -> None:
        job = client.job(job_id, self.sim.activity)
        try:
            if kind == "now":
                await job.run_now()
            elif kind == "retry":
                await job.retry()
            elif kind == "cancel":
                await job.cancel("as the plan says")
            elif kind == "remove":
                await self._remove(job)
        except TurnoutError as error:
            self.sim.note(f"{self.host.name}: {kind} {job_id} is refused: {error}")

    async def _remove(self, job: Any) -> None:
        """Have it end, and forget it as soon as it has."""
        await job.cancel("as the plan says")
        for _ in range(20):
            try:
                await job.delete()
            except InvalidState:
                await asyncio.sleep(0.2)
            else:
                return

    # -- bursts --------------------------------------------------------------------------------------------------------

    async def _to_burst(self, client: Client, kind: str, key: str) -> None:
        if kind == "submit":
            letters = self.sim._scripts[key]
            calls = []
            for letter in letters:
                calls.append(asyncio.ensure_future(self._submit_one(client, key, letter)))
                await asyncio.sleep(random.random() ** 2 * 2 * WAIT_S)  # one or the other comes too late for the job
            await asyncio.gather(*calls)
            return
        if kind in ("cancel", "remove"):
            self.sim.ended_by_clients.add(key)
        for job_id in self.sim.invariants.jobs_of(key):
            await self._to_job(client, kind, job_id)

    async def _submit_one(self, client: Client, key: str, letter: str) -> None:
        life = f"{key}~{self.sim.next_life()}#{letter}"
        ref = self.sim.activity.options(debounce=WAIT_S * (1 + (letter == "W")), debounce_key=key)
        known = self.sim.invariants
        try:
            await client.submit(ref, life=life)
        except OutcomeUnknown as error:
            self.sim.note(f"{self.host.name}: {life}: {error!r}")
        except TurnoutError as error:
            self.sim.note(f"{self.host.name}: {life} is refused: {error!r}")
            known.refused.add(life)
        else:
            known.told.add(life)


class GroupSimulation(Simulation):
    """Each job of the plan is a group or a burst."""

    invariants: GroupInvariants

    def __init__(self, plan: Plan, *, patches: Iterable[seams.Patch] = (), trace: bool = False) -> None:
        own: seams.Patch = (submitter, "new_id", lambda: f"burst{self.next_life()}")
        super().__init__(plan, patches=[own, *patches], trace=trace)
        self.invariants = GroupInvariants(self)
        self.bundles: set[str] = set()
        """What the groups of the plan are called."""
        self.ended_by_clients: set[str] = set()
        """The bursts of which a client has cancelled or removed a job."""

    def _build(self) -> None:
        super()._build()
        groups = self.names.group("")
        self.server.streams[kv_stream(self.names.activities_bucket)].on_store = lambda message: (
            self.invariants.grouped(message) if message.subject.startswith(groups) and message.data else None
        )

    def _make_caller(self) -> Bundler:
        return Bundler(self)

    def activities(self) -> dict[str, Activity[..., Any]]:
        return {**super().activities(), summarize.name: summarize}

    def letter(self, record: JobRecord) -> str:
        """What the attempt's code does: the job's script has a letter for each attempt, C when none is left."""
        if record.spec.activity == summarize.name:
            script = "".join(self._scripts[record.id.removesuffix("-then")]).partition("!")[2]
        else:
            script = life_of(record.spec.payload.text or "").partition("#")[2]
        return script[record.attempt - 1] if record.attempt <= len(script) else "C"

    def _play_history(self, plan: Plan) -> None:
        names = (f"job{self._play + 1}x{number}" for number, (kind, _) in enumerate(plan.jobs) if kind != "burst")
        self.bundles.update(names)
        super()._play_history(plan)


def plan_of_seed(seed: int) -> Plan:
    """A random plan; the same for the same seed."""
    dice = random.Random(seed)
    jobs = tuple(_job(dice, dice.choice(KINDS)) for _ in range(dice.choice((1, 1, 2))))
    faults = tuple(
        Fault(dice.choice(FAULTS), round(dice.random() * 8, 2), round(dice.random() * 12, 2), dice.randrange(2))
        for _ in range(dice.randrange(4))
    )
    acts = tuple(
        Act(dice.choice(ACTS), round(dice.random() * 8, 2), dice.randrange(len(jobs)))
        for _ in range(dice.choice((0, 0, 1, 2)))
    )
    crash = tuple(sorted(dice.sample(range(1, 40), dice.randrange(3))))
    return Plan(seed, jobs, crash, faults, acts, supervisors=dice.choice((1, 2)))


def _job(dice: random.Random, kind: str) -> tuple[str, str]:
    if kind == "burst":
        return kind, "".join(dice.choice("CCCFW") for _ in range(dice.randrange(1, 5)))
    scripts = [
        "".join(dice.choice("CFXLNKZS") for _ in range(dice.randrange(1, 3))) for _ in range(dice.randrange(1, 4))
    ]
    return kind, ".".join(scripts) + dice.choice(("", "!C", "!F", "!K", "!X"))


def crash_everywhere(plan: Plan) -> int:
    """Run the plan, once for each of its effects with a crash before that one. Returns how many runs crashed."""
    with replayable(attrs.evolve(plan, everywhere=True)):
        return GroupSimulation(plan).crash_everywhere()


def run(plan: Plan, *, patches: Iterable[seams.Patch] = ()) -> GroupSimulation:
    """Run a plan to its end, with all its crashes if it says so."""
    simulation = GroupSimulation(plan, patches=patches)
    with replayable(plan):
        simulation.play()
    return simulation


def run_seed(seed: int) -> None:
    """Run the random history of a seed."""
    run(plan_of_seed(seed))
