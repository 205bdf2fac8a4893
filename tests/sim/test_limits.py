"""Limits in the simulation: processes die before every single thing that they do, and no more hold a place or start."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Coroutine, Iterable
from typing import Any

import attrs
import pytest

from tests.sim.invariants import LEASE_S, Violation
from tests.sim.nodes import ACTIVITY
from tests.sim.plan import PAUSED_S, UNBEGUN, Act, Fault, Plan
from tests.sim.seams import Patch
from tests.sim.simulation import Simulation, replayable
from tests.sim.test_crashes import long_after
from tests.sim.world import HOST, Host
from turnout import Limit
from turnout.core import lifecycle
from turnout.core.limits import Holder, LimitKey, Places, Rule
from turnout.core.record import JobRecord, JobState
from turnout.nats.stream import kv_stream
from turnout.store import lines
from turnout.store.lines import Lines, Parked
from turnout.store.places import PlaceDesks
from turnout.store.records import Registry
from turnout.supervisor.places import PlaceSweep
from turnout.testing.memory import Message
from turnout.wire.limits import load_places

RATE, BURST = 0.5, 2
BEGINNING_S = 1.5
"""So long it may take from a token to the record of the start, where nothing stands still."""

MOVING_S = 1.5
"""So long it may take from the record of another priority until the job waits among those, where nobody dies."""

JOBS = tuple(("plain", script) for script in ("C", "FC", "C", "LC", "C"))
STEP = 20
"""One in so many of the effects is tried. That many histories have no effect in common."""
OFFSETS = [pytest.param(first, marks=[pytest.mark.breadth] * (first % 4 != 1)) for first in range(1, STEP + 1)]
"""`make test` tries a quarter of the effects, CI all of them."""


class Limiting(Simulation):
    """Nodes whose activity has a limit of each kind."""

    limits: tuple[Limit, ...] = (Limit("alone", concurrency=1), Limit("slow", rate=RATE, burst=BURST))

    def __init__(self, plan: Plan, patches: Iterable[Patch] = ()) -> None:
        super().__init__(plan, patches=patches)
        self.starts: list[float] = []
        self._held: dict[str, int] = {}
        self._begun_turns: set[tuple[str, int]] = set()

    def _build(self) -> None:
        super()._build()
        self.server.streams[self.names.limits].on_store = self._places

    def _written(self, job_id: str) -> None:
        super()._written(job_id)
        record = self.invariants.records.get(job_id)
        if record is not None and record.state is JobState.running:
            if (turn := (job_id, record.begun)) not in self._begun_turns:
                self._begun_turns.add(turn)
                self.starts.append(self.world.now)

    def _places(self, message: Message) -> None:
        """L1: never more holders on record than the limit has; of a rate alone never more promises than its burst."""
        if message.subject.startswith(self.names.places("")) and message.data:
            places = load_places(message.data)
            self._held[places.key] = len(places.holders)
            if len(places.holders) > self.most(places.key):
                raise Violation("L1 never more holders", repr(places))

    def most(self, key: str) -> int:
        """How many may hold a place of this key at once."""
        return 1 if key == "alone" else BURST

    def unrest(self) -> str:
        """L3: no place is lost, so none is held in the end."""
        return super().unrest() or ("places are held" if any(self._held.values()) else "")

    def check(self, slack_s: float = BEGINNING_S) -> None:
        """L2: in no time do more attempts start than the rate gives in it, and a burst."""
        for first, begun in enumerate(self.starts):
            for last in range(first, len(self.starts)):
                if last - first + 1 > BURST + RATE * (self.starts[last] - begun + slack_s):
                    raise Violation("L2 never more starts", repr(self.starts[first : last + 1]))


def play(plan: Plan, patches: Iterable[Patch] = (), slack_s: float = BEGINNING_S) -> Limiting:
    simulation = Limiting(plan, patches)
    with replayable(plan):
        simulation.run()
        simulation.check(slack_s)
    return simulation


@pytest.mark.long
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_crash_before_every_effect(offset: int) -> None:
    """Whoever dies, wherever: the jobs end, no place is held by more than it has, or for ever, and the rate holds."""
    whole = play(Plan(seed=1, jobs=JOBS))
    assert len(whole.starts) == 7
    assert whole.effects > 100
    for effect in range(offset, whole.effects + 1, STEP):
        play(Plan(seed=effect, jobs=JOBS, crash=(effect,)))


@pytest.mark.parametrize("kind", long_after(["freeze", "cut", "stop", "kill", "lossy", "sup"], 1))
def test_an_accident_while_jobs_wait(kind: str) -> None:
    """What stands still meanwhile may start late what has its token already; nothing else is different."""
    for seed in range(3):
        fault = Fault(kind, at=2.0 + seed, length=5.0, who=seed % 2)
        play(Plan(seed=seed, jobs=JOBS, faults=(fault,), supervisors=2), slack_s=7.0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("patch", "caught_by"),
    [
        ((Places, "due", lambda places, rule: 0.0), "L2"),
        ((Places, "vacant", lambda places, rule, more=0: True), "L1"),
        ((PlaceSweep, "_free", lambda *_: _nothing()), "U13"),
    ],
    ids=["no tokens", "no places", "no sweep"],
)
def test_a_missing_rule_is_noticed(patch: Patch, caught_by: str) -> None:
    """The invariants have teeth."""
    plans = (Plan(seed=effect, jobs=JOBS, crash=(effect,)) for effect in (12, 24, 32, 36, 37, 38))
    with pytest.raises(Violation) as caught:
        any(play(plan, [patch]) is None for plan in plans)
    assert caught.value.name.split()[0] == caught_by


class Ranked(Limiting):
    """Jobs of different priorities, some of which clients change, wait for one place."""

    limits = (Limit("alone", concurrency=1),)
    turns = 0
    _holders: frozenset[tuple[str, int]] = frozenset()

    def __init__(self, plan: Plan, patches: Iterable[Patch] = ()) -> None:
        super().__init__(plan, patches)
        self._ranked: dict[str, tuple[int, float]] = {}
        """Of which priority each job is, and since when."""

    def _written(self, job_id: str) -> None:
        super()._written(job_id)
        rank = self._rank(job_id)
        if rank and self._ranked.get(job_id, (0, 0.0))[0] != rank:
            self._ranked[job_id] = rank, self.world.now

    def _places(self, message: Message) -> None:
        super()._places(message)
        if message.subject.startswith(self.names.places("")):
            holders = load_places(message.data).holders if message.data else ()
            for holder in holders:
                if not holder.node and (holder.id, holder.turn) not in self._holders:
                    self._turn(holder, message)
            self._holders = frozenset((holder.id, holder.turn) for holder in holders)

    def _turn(self, holder: Holder, message: Message) -> None:
        """L4: where nobody dies, no job has its turn while one of a higher priority has waited for a second, where
        neither priority was changed just now. (There are too few for one that goes to who has waited longest.)"""
        self.turns += 1
        for entry in self.work.messages.values() if not self.plan.crash else ():
            named = self.names.parked_of(entry.subject)
            if named is not None and named.id != holder.id and message.time_ns - entry.time_ns > 1e9:
                long = min(self._ranked_for(named.id), self._ranked_for(holder.id)) > MOVING_S
                if long and 0 < self._rank(named.id) < self._rank(holder.id):
                    raise Violation("L4 by priority", f"{holder.id} before {named.id}")

    def _ranked_for(self, job_id: str) -> float:
        """For how long a job has been of its priority."""
        return self.world.now - self._ranked.get(job_id, (0, 0.0))[1]

    def _rank(self, job_id: str) -> int:
        """Of which priority a job is; 0 while it has no record."""
        record = self.invariants.records.get(job_id)
        return 0 if record is None else record.spec.priority


RANKED = Plan(
    jobs=(("plain", "W"), ("last", "C"), ("plain", "C"), ("first", "FC"), ("plain", "C"), ("plain", "C")),
    acts=(Act("first", 5.5, 4), Act("first", 6.0, 5), Act("last", 7.0, 5)),
)


def play_ranked(plan: Plan, patches: Iterable[Patch] = ()) -> Ranked:
    simulation = Ranked(plan, patches)
    with replayable(plan):
        simulation.run()
    return simulation


@pytest.mark.long
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_crash_while_jobs_of_all_priorities_wait(offset: int) -> None:
    """Whoever dies, wherever, also he who changes a priority: each job has its turn, and leaves nothing behind."""
    whole = play_ranked(attrs.evolve(RANKED, seed=offset))
    assert whole.turns >= 4
    for effect in range(offset, whole.effects + 1, STEP):
        play_ranked(attrs.evolve(RANKED, seed=offset, crash=(effect,)))


PAUSED = attrs.evolve(RANKED, acts=(Act("pause", 4.5), *RANKED.acts))


class Paused(Ranked):
    """Meanwhile the activity is paused, so its jobs that wait are passed over."""

    paused_at = math.inf
    idle = False

    def _build(self) -> None:
        super()._build()
        self.server.streams[kv_stream(self.names.activities_bucket)].on_store = self._pausing

    def _pausing(self, message: Message) -> None:
        if message.subject == self.names.pause(ACTIVITY):
            self.paused_at = self.world.now

    def _places(self, message: Message) -> None:
        super()._places(message)
        if message.subject.startswith(self.names.places("")):
            self.idle = bool(message.data and load_places(message.data).idle)

    def _turn(self, holder: Holder, message: Message) -> None:
        """L5: where nobody dies, nobody has a turn from a second after the pause has begun until it ends."""
        super()._turn(holder, message)
        if not self.plan.crash and self.paused_at + 1.0 < self.world.now < self.paused_at + PAUSED_S:
            raise Violation("L5 not while paused", holder.id)

    def unrest(self) -> str:
        return super().unrest() or ("somebody is passed over" if self.idle else "")


def play_paused(plan: Plan, patches: Iterable[Patch] = ()) -> Paused:
    simulation = Paused(plan, patches)
    with replayable(plan):
        simulation.run()
    return simulation


@pytest.mark.long
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_crash_while_jobs_are_passed_over(offset: int) -> None:
    """Whoever dies, wherever: when the pause has ended all that were passed over have their turn."""
    whole = play_paused(attrs.evolve(PAUSED, seed=offset))
    assert whole.turns >= 4
    for effect in range(offset, whole.effects + 1, STEP):
        play_paused(attrs.evolve(PAUSED, seed=offset, crash=(effect,)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("patch", "caught_by"),
    [
        ((Places, "noting", lambda places, idle, busy: places), "L5"),
        ((Places, "noting", lambda places, idle, busy: attrs.evolve(places, idle=(*places.idle, *idle))), "U13"),
    ],
    ids=["nobody is passed over", "for ever"],
)
def test_a_wrong_note_of_who_is_passed_over_is_noticed(patch: Patch, caught_by: str) -> None:
    """L5 has teeth."""
    with pytest.raises(Violation) as caught:
        play_paused(PAUSED, [patch])
    assert caught.value.name.split()[0] == caught_by


@pytest.mark.long
@pytest.mark.parametrize(
    "patch",
    [
        (lines, "next_turn", lambda firsts, passed: (min(firsts, key=firsts.__getitem__), 0)),
        (PlaceDesks, "rank", lambda desks, record: _nothing()),
        (Lines, "move", lambda *_: _nothing()),
    ],
    ids=["first come, first served", "a change moves nobody", "nobody is moved at all"],
)
def test_a_turn_out_of_order_is_noticed(patch: Patch) -> None:
    """L4 has teeth."""
    with pytest.raises(Violation, match="L4"):
        any(play_ranked(attrs.evolve(RANKED, seed=seed), [patch]) is None for seed in range(5, 12))


class SlowToPark(Limiting):
    """The first that parks a job stands still for longer than its lease once the job is in the line."""

    limits = (Limit("slow", rate=RATE, burst=1),)
    stood = False

    def before_effect(self, host: Host, subject: str, data: bytes) -> None:
        super().before_effect(host, subject, data)
        if subject.startswith("sim.parked.") and not self.stood:
            self.stood = True
            self.freeze(host, 2 * LEASE_S)


@pytest.mark.parametrize("kept", [True, False])
def test_nothing_begins_with_the_message_of_a_job_that_is_being_parked(kept: bool) -> None:
    """Whoever parks it acknowledges that message when he comes to himself, and the attempt would go on without one."""
    patches = [] if kept else [(lifecycle, "is_being_parked", lambda *_: False)]
    simulation = SlowToPark(Plan(jobs=(("plain", "W"),) * 2, nodes=3, supervisors=0), patches)
    with contextlib.nullcontext() if kept else pytest.raises(Violation, match="U5"):
        simulation.run()
    assert simulation.stood


DELETED = Plan(
    jobs=(("plain", "W"), *(("plain", script) for script in ("C", "FC", "C", "C"))),
    acts=tuple(Act(UNBEGUN, at, job) for job, at in ((1, 2.0), (2, 7.0), (3, 7.6), (4, 0.4), (0, 1.0))),
)


class Deleting(Limiting):
    """Jobs that nobody has begun are deleted while they wait for one place; one of them just as it is given to it."""

    limits = (Limit("alone", concurrency=1),)
    let_in: str | None = None

    def __init__(self, plan: Plan, patches: Iterable[Patch] = ()) -> None:
        store, sim = PlaceDesks.store, self

        async def slowly(desks: PlaceDesks, places: Places, revision: int, rule: Rule) -> int:
            promised = [holder.id for holder in places.holders if not holder.node]
            if promised and sim.let_in is None:
                [sim.let_in] = promised
                sim.caller.do(UNBEGUN, sim.let_in, "plain")
                await asyncio.sleep(1.0)
            return await store(desks, places, revision, rule)

        super().__init__(plan, (*patches, (PlaceDesks, "store", slowly)))


def play_deleting(plan: Plan, patches: Iterable[Patch] = ()) -> Deleting:
    simulation = Deleting(plan, patches)
    with replayable(plan):
        simulation.run()
    return simulation


@pytest.mark.parametrize("kept", [True, False])
def test_a_job_that_is_deleted_as_it_is_let_in_does_not_begin(kept: bool) -> None:
    """Whoever lets it in has read its record, and writes that when it is gone: it is refused."""

    def only_asks(desks: PlaceDesks, activity: str, job_id: str, key: LimitKey) -> Coroutine[Any, Any, bool]:
        return desks.holds(activity, job_id, key.key)

    patches = [] if kept else [(PlaceDesks, "was_given", only_asks)]
    for seed in range(3):
        with contextlib.nullcontext() if kept else pytest.raises(Violation, match="U18"):
            simulation = play_deleting(attrs.evolve(DELETED, seed=seed, acts=()), patches)
            assert simulation.let_in in simulation.invariants.undone


class LetIn(Limiting):
    """A job is deleted as it is given its place, and its record goes right after that; whoever has given it is slow to
    put its message back, or dies."""

    limits = (Limit("alone", concurrency=1),)
    let_in: str | None = None

    def __init__(self, plan: Plan, *, dies: bool) -> None:
        store, release, drop = PlaceDesks.store, PlaceDesks.release, Registry.drop
        asked, given, sim = asyncio.Event(), asyncio.Event(), self

        async def later(desks: PlaceDesks, places: Places, revision: int, rule: Rule) -> int:
            promised = [holder.id for holder in places.holders if not holder.node]
            if promised and sim.let_in is None:
                [sim.let_in] = promised
                sim.caller.do(UNBEGUN, sim.let_in, "plain")
                await asked.wait()
            return await store(desks, places, revision, rule)

        async def slowly(desks: PlaceDesks, parked: Parked) -> None:
            given.set()
            if dies and (host := HOST.get()) is not None and not sim.crashes:
                sim.crashed(host)
                host.kill()
            await asyncio.sleep(1.0)
            await release(desks, parked)

        async def between(registry: Registry, record: JobRecord, revision: int) -> None:
            asked.set()
            await given.wait()
            await drop(registry, record, revision)

        patches = ((PlaceDesks, "store", later), (PlaceDesks, "release", slowly), (Registry, "drop", between))
        super().__init__(plan, patches)


@pytest.mark.parametrize("dies", [False, True])
def test_a_job_that_was_let_in_while_it_is_deleted_goes_on(dies: bool) -> None:
    """The deletion says so and puts its record back, from which a supervisor goes on if nobody else does."""
    plan = Plan(jobs=(("plain", "W"), ("plain", "C")))
    simulation = LetIn(plan, dies=dies)
    with replayable(plan):
        simulation.run()
    assert simulation.caller.refused == [simulation.let_in]
    assert simulation.let_in in simulation.invariants.final


@pytest.mark.long
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_crash_while_jobs_that_wait_are_deleted(offset: int) -> None:
    """Whoever dies, wherever: what was deleted does not begin, what was refused goes on, and no place is lost."""
    whole = play_deleting(attrs.evolve(DELETED, seed=offset))
    assert whole.invariants.undone
    for effect in range(offset, whole.effects + 1, STEP):
        play_deleting(attrs.evolve(DELETED, seed=offset, crash=(effect,)))


async def _nothing() -> None:
    pass
