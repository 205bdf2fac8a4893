"""What the simulation of groups and bursts must notice: each mutation takes one rule away from production code."""

from __future__ import annotations

import contextlib
from typing import Any

import attrs

from tests.sim.group_simulation import run
from tests.sim.mutations import Tooth
from tests.sim.plan import Act, Fault, Plan
from tests.sim.seams import Patch
from turnout.core import submissions
from turnout.core.group import then_id
from turnout.keyed_locks import KeyedLocks
from turnout.store.debounces import Debounces
from turnout.store.groups import KeptGroup
from turnout.store.members import Members
from turnout.supervisor.groups import GroupWatch


def crashes(kind: str, script: str, *acts: Act, seeds: int = 3) -> tuple[Plan, ...]:
    """A crash before every effect."""
    return tuple(Plan(seed=seed, jobs=((kind, script),), acts=acts, everywhere=True) for seed in range(seeds))


def quiet(kind: str, script: str, *extra: Fault | Act, seeds: int = 20) -> tuple[Plan, ...]:
    acts = tuple(each for each in extra if isinstance(each, Act))
    faults = tuple(each for each in extra if isinstance(each, Fault))
    return tuple(
        attrs.evolve(plan, everywhere=False, faults=faults) for plan in crashes(kind, script, *acts, seeds=seeds)
    )


async def _nothing(*_: object, **__: object) -> None:
    pass


def nobody_goes_on() -> list[Patch]:
    return [(GroupWatch, "_go_on_for_others", _nothing)]


def finished_first() -> list[Patch]:
    before, follow = GroupWatch._finish, Members.follow

    async def finish(self: Any, group: Any, activity_of: Any) -> None:
        record = group.record
        Members.follow = _then_id  # type: ignore[method-assign]
        try:
            await before(self, group, activity_of)
        finally:
            Members.follow = follow  # type: ignore[method-assign]
        if record.follows:
            await follow(self._members, record, activity_of)

    return [(GroupWatch, "_finish", finish)]


async def _then_id(self: Any, record: Any, activity_of: Any) -> str:
    return then_id(record.id)


def gone_unlooked_for() -> list[Patch]:
    return [(GroupWatch, "_look_for_gone", _nothing)]


def silent_is_gone() -> list[Patch]:
    """A member that has no record yet is taken for removed."""

    async def is_gone(*_: object) -> bool:
        return True

    async def without_message(self: Any, group: str, activity_of: Any, numbers: Any) -> list[int]:
        return list(numbers)

    return [(Members, "is_gone", is_gone), (Members, "without_message", without_message)]


def name_unfenced() -> list[Patch]:
    """The submissions of a process come as those of several do, which have no turns."""
    put = Debounces.put

    async def anyway(self: Any, activity: str, key: str, job_id: str, wait_s: float, revision: int) -> None:
        known = await self.load(activity, key)
        await put(self, activity, key, job_id, wait_s, known.revision)

    return [(Debounces, "put", anyway), (KeyedLocks, "of", lambda self, key: contextlib.nullcontext())]


def last_instant_counts() -> list[Patch]:
    before = submissions._debounced

    def debounced(record: Any, event: Any) -> Any:
        return before(record if record is None else attrs.evolve(record, due_at=0.0), event)

    return [(submissions, "_debounced", debounced)]


def written_after_the_last() -> list[Patch]:
    """Who has submitted the members writes so, whatever has become of the group."""

    async def change(self: Any, group_id: str, change: Any) -> KeptGroup:
        kept: KeptGroup = await self._store.groups.load(group_id)
        if (changed := change(kept.record)) != kept.record:
            kept = await self._store.groups.save(changed, kept.revision)
        return kept

    return [(Members, "change", change)]


TWELVE = ".".join("W" * 12)
"""Two nodes are not done with them in the time after which a member that is not heard of is asked for."""

HALF_CANCELLED = Plan(jobs=(("group", "H.H"),), acts=(Act("cancel", 0.8),), crash=(8,))
"""Who cancels dies behind the group's record, and before the first member's."""

SLOW_SUBMITTER = Plan.parse("seed=93;jobs=group:XK,whole:C!F;faults=lossy@0.24:4.24:0")
"""All has ended and is followed before he comes to write that he has submitted it."""

RULES: dict[str, Tooth] = {
    "left half submitted": Tooth("members are missing for ever", ("U13",), crashes("group", "C.C.C"), nobody_goes_on),
    "left half cancelled": Tooth("some go on for ever", ("U13",), (HALF_CANCELLED,), nobody_goes_on),
    "followed first": Tooth("nothing follows", ("G5",), crashes("group", "C!C"), finished_first),
    "the last record": Tooth("a group is kept for ever", ("G4",), (SLOW_SUBMITTER,), written_after_the_last),
    "removed": Tooth(
        "a removed member hangs the group", ("U13",), quiet("group", "C.W!C", Act("remove", 0.4)), gone_unlooked_for
    ),
    "silent": Tooth("who waits counts as removed", ("G2",), quiet("group", TWELVE, seeds=3), silent_is_gone),
    "named once": Tooth("two jobs of one key wait", ("D1",), quiet("burst", "CCCC", seeds=60), name_unfenced),
    "the latest instant": Tooth("it runs too early", ("D3",), quiet("burst", "WCC"), last_instant_counts),
}
"""The rules of groups (docs/architecture.md) and of P11, and what befalls without them."""


def unnoticed(rule: str) -> str:
    """Why the simulation does not notice that this rule is missing, "" if it does."""
    return RULES[rule].unnoticed(rule, run)
