"""What the simulation of workflows must notice: each mutation takes one rule away from production code."""

from __future__ import annotations

from typing import Any

import attrs

from tests.sim.flow_simulation import plan_of_seed, run
from tests.sim.invariants import Violation
from tests.sim.mutations import Tooth
from tests.sim.plan import Act, Fault, Plan
from tests.sim.seams import Patch
from turnout.core.workflows import effects as core_effects
from turnout.core.workflows import standing, task
from turnout.core.workflows.effects import Tell, Wake
from turnout.core.workflows.standing import Verdict
from turnout.core.workflows.values import Input, InputKind
from turnout.store import commit, ends, histories, others
from turnout.store.ends import Ends
from turnout.store.histories import Histories, Overtaken
from turnout.store.others import Others
from turnout.store.starts import IdTaken, Starts
from turnout.worker.workflows import driver
from turnout.worker.workflows.driver import Driver
from turnout.worker.workflows.handover import Handover
from turnout.worker.workflows.mailbox import Mailbox
from turnout.worker.workflows.settling import Settling


def crashes(
    *scripts: str, acts: tuple[Act, ...] = (), faults: tuple[Fault, ...] = (), seeds: int = 3
) -> tuple[Plan, ...]:
    """A crash before every effect, with different numbers of instances in the cache."""
    return tuple(
        Plan(seed=seed, jobs=(("flow", script),), acts=acts, faults=faults, everywhere=True)
        for script in scripts
        for seed in range(seeds)
    )


def quiet(
    *scripts: str, acts: tuple[Act, ...] = (), faults: tuple[Fault, ...] = (), seeds: int = 10
) -> tuple[Plan, ...]:
    return tuple(
        attrs.evolve(plan, everywhere=False) for plan in crashes(*scripts, acts=acts, faults=faults, seeds=seeds)
    )


async def _nothing(*_: object, **__: object) -> None:
    pass


def nothing_made_sure_of() -> list[Patch]:
    return [(Driver, "_make_sure", _nothing), (Ends, "_make_sure", _nothing)]


def effects_not_repeated() -> list[Patch]:
    async def repeat(self: Any, newest: Any, lying: Any, wakeups: Any) -> Any:
        return wakeups

    return [(Driver, "_repeat", repeat)]


def without(kind: type) -> list[Patch]:
    def effects_of(record: Any, ended: Any = ()) -> Any:
        return tuple(each for each in core_effects.effects_of(record, ended) if not isinstance(each, kind))

    return [(commit, "effects_of", effects_of)]


def all_wakeups_acknowledged() -> list[Patch]:
    def after(self: Settling, standing_: Any, void: Any, wakeups: Any) -> list[Any]:
        for wakeup in wakeups:
            self.remove(wakeup)
        return []

    return [(Settling, "after", after)]


def void_stays() -> list[Patch]:
    before = Settling.remove

    def remove(self: Settling, wakeup: Any, *, void: bool = False) -> None:
        if void:
            self.give_back(wakeup, 5.0)
        else:
            before(self, wakeup)

    return [(Settling, "remove", remove)]


def append_anyway() -> list[Patch]:
    before = Histories.append

    async def append(self: Any, record: Any, expected: int) -> int:
        last = await self.newest(record.id)
        return await before(self, record, last.seq if last is not None else 0)

    return [(Histories, "append", append)]


def no_note() -> list[Patch]:
    async def terminate(self: Any, newest: Any, reason: str) -> None:
        given = Input(InputKind.terminate, self._connection.now(), 0, life=newest.record.life)
        await self.carry_out(newest.record, given)

    return [(Ends, "terminate", terminate)]


def ids_forgotten() -> list[Patch]:
    return [(task, "remembered", lambda seen, now: {})]


def unreceived_forgotten() -> list[Patch]:
    return [(Mailbox, "unreceived", property(lambda self: ()))]


def own_start_unknown() -> list[Patch]:
    async def append(self: Any, record: Any) -> Any:
        try:
            return histories.Stored(record, await self._histories.append(record, 0)), False
        except Overtaken:
            newest = await self._histories.newest(record.id)
            assert newest is not None
            raise IdTaken(newest) from None

    return [(Starts, "_append", append)]


def taken_untold() -> list[Patch]:
    async def signal(self: Any, command: Any, key: str, own: Any) -> None:
        await self.send(command.target, InputKind.signal, command.name, command.body, key)

    return [(Others, "signal", signal)]


def ended_is_refused() -> list[Patch]:
    async def has_taken(*_: object) -> bool:
        return False

    return [(others, "has_taken", has_taken)]


def any_end_counts() -> list[Patch]:
    def ended_in(record: Any, inputs: Any) -> set[str]:
        return {each.what for each in inputs if each.kind in (InputKind.done, InputKind.timer)}

    return [(driver, "ended_in", ended_in), (ends, "ended_in", ended_in)]


def stale_is_good() -> list[Patch]:
    """With ends of jobs in the inbox, as where they ran on another node: there a stale instance may meet them."""
    return [(driver, "is_plain_news", lambda standing_, lying, handed: True), (Handover, "offer", lambda *_: None)]


def ids_uncounted() -> list[Patch]:
    before = standing._judge_open

    def judge_open(of: Any, given: Any, progress: Any) -> Verdict:
        return before(of, attrs.evolve(given, id=""), progress)

    return [(standing, "_judge_open", judge_open)]


def every_run_is_this() -> list[Patch]:
    before = standing._judge_open

    def judge_open(of: Any, given: Any, progress: Any) -> Verdict:
        return before(of, attrs.evolve(given, run=of.run) if given.run else given, progress)

    return [(standing, "_judge_open", judge_open)]


def no_end_is_local() -> list[Patch]:
    return [(driver, "ends_locals", lambda record: False)]


def settled_before_recorded() -> list[Patch]:
    before = Handover.offer

    def offer(self: Handover, record: Any) -> Any:
        taken = before(self, record)
        if taken is not None and not taken.done():
            taken.set_result(True)
        return taken

    return [(Handover, "offer", offer)]


FROZEN = (Fault("freeze", 0.6, 6.0, 0), Fault("freeze", 0.6, 6.0, 1))
SEEDS = tuple(plan_of_seed(seed) for seed in range(60))

RULES: dict[str, Tooth] = {
    "W1 append": Tooth("two write one history", ("F1", "F2", "F3"), SEEDS, append_anyway),
    "W2 newest": Tooth("effects are lost behind the next record", ("U13",), crashes("g", "as"), nothing_made_sure_of),
    "W2 again": Tooth("effects of the last record are lost", ("U13",), crashes("a", "T"), effects_not_repeated),
    "W2 own run": Tooth("an end of the run before spares a command", ("U13",), crashes("tna"), any_end_counts),
    "W2 taken": Tooth("a signal is refused that was taken", ("F2",), crashes("o", seeds=10), ended_is_refused),
    "W2 outcomes": Tooth("who signals waits for ever", ("U13",), quiet("o"), taken_untold),
    "W3 covered": Tooth(
        "a wake-up goes without its input", ("F4", "U13"), quiet("Tnrrrrrrrrr", faults=FROZEN), all_wakeups_acknowledged
    ),
    "W3 void goes": Tooth("what is void stays", ("U13",), quiet("t", "sn"), void_stays),
    "W3 ids": Tooth("a signal counts twice", ("F3", "F2"), quiet("ss", acts=(Act("signal", 0.3),)), ids_uncounted),
    "W3 runs": Tooth("the end of another run is taken", ("F3", "F2"), quiet("tnT", seeds=20), every_run_is_this),
    "W4 tell": Tooth("a parent waits for ever", ("U13",), quiet("c"), lambda: without(Tell)),
    "W4 handed over": Tooth("an end is lost with its node", ("U13",), crashes("a"), settled_before_recorded),
    "W5 own life": Tooth("one's own start is taken for another", ("F2",), crashes("c"), own_start_unknown),
    "W8 note": Tooth(
        "nobody goes on for a dead client", ("U13",), crashes("H", acts=(Act("terminate", 0.4),)), no_note
    ),
    "W9 wake": Tooth("the next run has no actor", ("U13",), quiet("an"), lambda: without(Wake)),
    "W9 ids": Tooth(
        "a signal counts again in the next run",
        ("F3", "F2"),
        quiet("snT", "snts", acts=(Act("signal", 2.0),)),
        ids_forgotten,
    ),
    "W9 unreceived": Tooth("a signal is lost between two runs", ("U13",), quiet("nr", "Tnr"), unreceived_forgotten),
    "W15 effects": Tooth("effects behind a local activity's end are lost", ("U13",), crashes("La"), no_end_is_local),
    "stale": Tooth("a verdict of a stale instance", ("F4",), quiet("aaaaaa", "gaaa", "graa", seeds=300), stale_is_good),
}
"""The rules of docs/workflows.md, and what befalls without them."""


def unnoticed(rule: str) -> str:
    """Why the simulation does not notice that this rule is missing, "" if it does. With the rule all must go well."""
    tooth = RULES[rule]
    for plan in tooth.plans:
        try:
            run(plan, patches=tooth.take())
        except Violation as violation:
            run(plan)
            caught = violation.name.split()[0] in tooth.caught_by
            return "" if caught else f"{rule} is caught by {violation}"
    return f"{rule} survives"
