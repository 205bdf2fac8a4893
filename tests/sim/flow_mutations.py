"""What the simulation of workflows must notice: each mutation takes one rule away from production code."""

from __future__ import annotations

from typing import Any

import attrs

from tests.sim.flow_simulation import EXPIRE, MEND, SHORT_IS_LONG, plan_of_seed, run
from tests.sim.mutations import Tooth
from tests.sim.plan import Act, Fault, Plan
from tests.sim.seams import Patch
from turnout.client.workflows import forker
from turnout.client.workflows.sender import Sender
from turnout.client.workflows.updates import Updater
from turnout.core.workflows import effects as core_effects
from turnout.core.workflows import fork, standing, task
from turnout.core.workflows.caution import Caution
from turnout.core.workflows.effects import Tell, Wake
from turnout.core.workflows.standing import Verdict
from turnout.core.workflows.values import CommandKind, Input, InputKind, RecordKind
from turnout.store import commit, ends, histories, others, topology
from turnout.store.commit import Committer
from turnout.store.ends import Ends
from turnout.store.forks import Forks
from turnout.store.histories import Histories, Overtaken
from turnout.store.names import Names
from turnout.store.others import Others
from turnout.store.starts import IdTaken, Starts
from turnout.supervisor import histories as supervisor_histories
from turnout.supervisor.histories import HistoryWalk
from turnout.worker.workflows import aftermath, driver, looking, passing
from turnout.worker.workflows.aftermath import Aftermath
from turnout.worker.workflows.calls import Calls
from turnout.worker.workflows.driver import Driver
from turnout.worker.workflows.handover import Handover
from turnout.worker.workflows.mailbox import Mailbox
from turnout.worker.workflows.pins import Pins
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


def alone(*scripts: str, acts: tuple[Act, ...]) -> tuple[Plan, ...]:
    """A crash before every effect where there is one worker: nobody goes on until it is back."""
    return tuple(attrs.evolve(plan, nodes=1) for plan in crashes(*scripts, acts=acts))


def frozen(
    *scripts: str, at: tuple[float, float], every: float, length: float, acts: tuple[Act, ...] = ()
) -> tuple[Plan, ...]:
    """Either worker stands still from some instant on; in one of the plans that is in the midst of what matters."""
    steps = range(int((at[1] - at[0]) / every))
    return tuple(
        Plan(
            seed=step,
            jobs=(("flow", script),),
            faults=(Fault("freeze", round(at[0] + step * every, 3), length, who),),
            acts=acts,
        )
        for script in scripts
        for step in steps
        for who in (0, 1)
    )


async def _nothing_lies(*_: object, **__: object) -> list[Any]:
    """Makes sure of no effects, and has looked into an empty inbox."""
    return []


async def _nothing(*_: object, **__: object) -> None:
    pass


def nothing_made_sure_of() -> list[Patch]:
    return [(Driver, "_make_sure", _nothing), (Ends, "make_sure", _nothing_lies)]


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
    return [
        (looking, "is_plain_news", lambda standing_, lying, handed: True),
        (Handover, "offer", lambda *_, **__: None),
    ]


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

    def offer(self: Handover, record: Any, ahead: Any = None) -> Any:
        taken = before(self, record, ahead)
        if taken is not None and not taken.done():
            taken.set_result(True)
        return taken

    return [(Handover, "offer", offer)]


def any_life_is_this() -> list[Patch]:
    return [(standing, "_of_this_life", lambda of, given: True)]


def deleted_unheard() -> list[Patch]:
    return [(Ends, "make_sure", _nothing_lies)]


def no_end_is_an_answer() -> list[Patch]:
    async def heard(self: Any, asked: Any, notices: Any, newest: Any = None) -> Any:
        async for stored in self._reader.changes(asked.workflow_id, notices, newest):
            found = await self._look(asked, stored, 0)
            if found is not None:
                return found
        raise AssertionError("it has no end")

    return [(Updater, "_heard", heard)]


def asked_of_any_state() -> list[Patch]:
    return [(Sender, "sent", lambda self, workflow_id, life: 0)]


def settled_by_who_passes_it_on() -> list[Patch]:
    before = passing._pass

    async def passed(store: Any, wakeup: Any, subject: str) -> bool:
        gone = await before(store, wakeup, subject)
        if gone:
            store.connection.send(wakeup.ack, b"+ACK")
        return gone

    return [*SHORT_IS_LONG, (passing, "_pass", passed)]


def one_timer_for_all_runs() -> list[Patch]:
    named = Names.workflow_timer

    def workflow_timer(
        self: Names, workflow: str, workflow_id: str, life: str, run: Any = "", command: str = ""
    ) -> str:
        return named(self, workflow, workflow_id, life, run if run in ("", 0) else 1, command)

    return [(Names, "workflow_timer", workflow_timer)]


def what_is_not_there_is_not_ended() -> list[Patch]:
    ended = Committer._cancel_job

    async def cancel_job(self: Any, effect: Any) -> None:
        job = await self._store.registry.load(effect.activity, effect.key)
        if job.record is not None or await self._store.queue.carries(effect.activity, effect.key):
            await ended(self, effect)

    async def never_begun(*_: object) -> bool:
        return True

    return [(Committer, "_cancel_job", cancel_job), (Others, "_never_begun", never_begun)]


def nothing_kept_for_locals() -> list[Patch]:
    before = Settling.after

    def after(self: Settling, standing_: Any, *rest: Any) -> list[Any]:
        pending = {
            key: attrs.evolve(each, wake=-1) if each.kind is CommandKind.local else each
            for key, each in standing_.pending.items()
        }
        return before(self, attrs.evolve(standing_, pending=pending), *rest)

    return [(Settling, "after", after)]


def never_cautious() -> list[Patch]:
    return [(driver, "caution", lambda *_: Caution.free)]


def two_open_inputs_at_most() -> list[Patch]:
    config = topology.workflow_consumer_config

    def limited(names: Names, workflow: str) -> dict[str, Any]:
        return {**config(names, workflow), "max_ack_pending": 2}

    return [(topology, "workflow_consumer_config", limited)]


def stuck_again_and_again() -> list[Patch]:
    def stuck_record(standing_: Any, *rest: Any) -> Any:
        newest = attrs.evolve(standing_.newest, kind=RecordKind.task)
        return task.stuck_record(attrs.evolve(standing_, newest=newest), *rest)

    return [(driver, "stuck_record", stuck_record)]


def ends_unheard(*modules: Any) -> list[Patch]:
    return [(module, "ended_in", lambda record, inputs: set()) for module in modules]


def effects_of_older_records() -> list[Patch]:
    before = Driver._repeat

    async def repeat(self: Driver, newest: Any, lying: Any, wakeups: Any) -> Any:
        for each in await self._store.histories.read(newest.record.id, newest):
            if each.seq != newest.seq and any(each.record.newly_covers(wakeup.seq) for wakeup in wakeups):
                await self._commit(each)
        return await before(self, newest, lying, wakeups)

    return [(Driver, "_repeat", repeat)]


def unbounded_collection() -> list[Patch]:
    async def collect(self: Any, newest: Any, wakeup: Any) -> None:
        record = newest.record
        await self._store.inbox.purge(record.name, record.id, wakeup.seq)
        await self._store.inbox.clear_timers(record.name, record.id, record.life, "")
        await self._store.histories.purge_before(record.id, 2**62)

    return [(Aftermath, "_collect", collect)]


def collection_of_any_life() -> list[Patch]:
    def judge(standing_: Any, given: Any, *rest: Any) -> Verdict:
        return standing.judge(standing_, attrs.evolve(given, life=standing_.life), *rest)

    return [(aftermath, "judge", judge)]


def own_message_first() -> list[Patch]:
    before = Aftermath._collect

    async def collect(self: Any, newest: Any, wakeup: Any) -> None:
        await self._store.inbox.purge(newest.record.name, newest.record.id, wakeup.seq + 1)
        await before(self, newest, wakeup)

    return [(Aftermath, "_collect", collect)]


def holes_unseen() -> list[Patch]:
    """Histories are read in pieces, and whatever has come of them is one."""

    async def read(self: Any, workflow_id: str, newest: Any, *, of_run: bool = False) -> Any:
        records = [each async for each in self._scan(workflow_id, newest.seq, of_run=of_run)]
        begins = [n for n, each in enumerate(records) if each.record.begins_run]
        if newest.record.begins_run or not begins:
            return [newest]
        return [*(each for each in records[begins[-1] :] if each.seq != newest.seq), newest]

    return [(histories, "READ_TOGETHER", 2), (Histories, "read", read)]


def nothing_asked_anew() -> list[Patch]:
    return [(core_effects, "asked_again", lambda record: ())]


def all_asked_anew() -> list[Patch]:
    return [(core_effects, "asked_again", lambda record: record.commands)]


def names_of_others() -> list[Patch]:
    renamed = fork._renamed

    def not_renamed(command: Any, ids: Any, ends: Any) -> Any:
        return command if command.about == CommandKind.child else renamed(command, ids, ends)

    return [(fork, "_renamed", not_renamed)]


def ids_made_anew() -> list[Patch]:
    return [(Calls, "shared_children", property(lambda self: {}, lambda self, children: None))]


def never_joins() -> list[Patch]:
    async def joining(self: Any, command: Any, child: Any) -> Any:
        return attrs.evolve(command, child=attrs.evolve(child, if_exists="replace"))

    return [(Forks, "_joining", joining), (others, "forks", lambda record: False)]


def a_parent_of_two() -> list[Patch]:
    def forked(records: Any, *rest: Any) -> Any:
        start, past = fork.forked(records, *rest)
        return attrs.evolve(start, parent=records[0].start.parent), past

    return [(forker, "forked", forked)]


FORKED = Act("fork", 3.0)

SEEDS = tuple(plan_of_seed(seed) for seed in range(60))

RULES: dict[str, Tooth] = {
    "W1 append": Tooth("two write one history", ("F1", "F2", "F3"), SEEDS, append_anyway),
    "W2 newest": Tooth("effects are lost behind the next record", ("U13",), crashes("g", "as"), nothing_made_sure_of),
    "W2 again": Tooth("effects of the last record are lost", ("U13",), crashes("a", "T"), effects_not_repeated),
    "W2 own run": Tooth("an end of the run before spares a command", ("U13",), crashes("tna"), any_end_counts),
    "W2 taken": Tooth("a signal is refused that was taken", ("F2",), crashes("o", seeds=10), ended_is_refused),
    "W2 outcomes": Tooth("who signals waits for ever", ("U13",), quiet("o"), taken_untold),
    "W3 covered": Tooth("a wake-up goes without its input", ("F4", "U13"), quiet("La"), all_wakeups_acknowledged),
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
    "W5 lives": Tooth(
        "an end of the life before is taken", ("F7", "F2"), quiet("I", acts=(Act("replace", 0.8),)), any_life_is_this
    ),
    "W10 deleted": Tooth(
        "a parent waits for a child that was forgotten",
        ("U13",),
        crashes("c", acts=(Act("forget", 0.1),)),
        deleted_unheard,
    ),
    "W11 settled": Tooth(
        "an input goes with who has it passed on",
        ("F4",),
        quiet("rrrrrrr", "aaaaaa", "srsrsr", seeds=40),
        settled_by_who_passes_it_on,
    ),
    "W12 behind": Tooth("a query does not know what was sent", ("F9",), quiet("uqsq", seeds=40), asked_of_any_state),
    "W13 ends": Tooth(
        "who waits for an update waits for ever",
        ("U13",),
        quiet("uu", acts=(Act("terminate", 0.9),), seeds=30),
        no_end_is_an_answer,
    ),
    "W13 ids": Tooth(
        "an update is applied twice", ("F3", "F8"), quiet("uu", acts=(Act("signal", 0.6),)), ids_uncounted
    ),
    "W14 walk": Tooth(
        "a lost timer is never due",
        ("U13",),
        quiet("T", acts=(Act("lose", 1.0),)),
        lambda: [(HistoryWalk, "walk", _nothing)],
    ),
    "W14 locals": Tooth(
        "nobody runs a local activity whose input is lost",
        ("U13",),
        crashes("L", acts=(Act("lose", 0.05),)),
        lambda: [(supervisor_histories, "_is_kept", lambda *_: True)],
    ),
    "W6 runs": Tooth(
        "a timer of the run before takes the place of this one's",
        ("U13",),
        frozen("tnT", at=(0.02, 0.2), every=0.004, length=11.5),
        one_timer_for_all_runs,
    ),
    "W2 tombs": Tooth("what was taken back begins later", ("U13",), crashes("y", "Y"), what_is_not_there_is_not_ended),
    "W15 kept": Tooth("nobody runs a local activity again", ("U13",), crashes("L"), nothing_kept_for_locals),
    "W7 caution": Tooth(
        "code that ends its process ends one after the other",
        ("U13",),
        quiet("k", acts=(Act(MEND, 0.0),)),
        never_cautious,
    ),
    "W7 unlimited": Tooth(
        "those that are stuck stop all others",
        ("U13",),
        tuple(
            Plan(
                seed=seed, jobs=(("flow", "b"), ("flow", "b"), ("flow", "ra")), acts=(Act(MEND, 0.0), Act(MEND, 0.0, 1))
            )
            for seed in range(10)
        ),
        two_open_inputs_at_most,
    ),
    "W7 once": Tooth(
        "being stuck is said again and again", ("F5",), quiet("b", acts=(Act(MEND, 6.0),)), stuck_again_and_again
    ),
    "W2 ended": Tooth(
        "what has ended is asked for again",
        ("U2", "U10"),
        alone("a", acts=(Act(EXPIRE, 1.5),)),
        lambda: ends_unheard(driver, ends),
    ),
    "W14 ended": Tooth(
        "the walk asks again for what has ended",
        ("U2", "U10"),
        alone("a", acts=(Act("walk", 0.0), Act(EXPIRE, 1.5))),
        lambda: ends_unheard(supervisor_histories),
    ),
    "W2 older": Tooth(
        "an input that comes back has its record's effects again",
        ("U2", "U10"),
        tuple(
            attrs.evolve(plan, crash=(6,))
            for plan in quiet("aTTTT", acts=(Act(EXPIRE, 5.0),), seeds=60)
            if plan.seed > 20
        ),
        effects_of_older_records,
    ),
    "W10 bounds": Tooth(
        "a collection that was held up takes the next life along",
        ("F11",),
        frozen("a", at=(0.9, 2.1), every=0.02, length=12.0, acts=(Act("anew", 0.0),)),
        unbounded_collection,
    ),
    "W10 lives": Tooth(
        "the collection of a life that was deleted takes the next one",
        ("F11",),
        quiet("a", acts=(Act("again", 0.0), Act("anew", 0.0))),
        collection_of_any_life,
    ),
    "W10 last": Tooth("a history stays for ever", ("U13",), crashes("t", acts=(Act("anew", 0.0),)), own_message_first),
    "W9 holes": Tooth(
        "a fork shares a history with a hole",
        ("F12",),
        tuple(
            Plan(seed=seed, jobs=(("flow", "aaaanT"),), acts=(Act("fork", round(1.95 + step / 100, 2)),))
            for seed in (20, 35)
            for step in range(30)
        ),
        holes_unseen,
    ),
    "W16 anew": Tooth(
        "a fork waits for what nobody does", ("U13",), quiet("aT", acts=(Act("fork", 0.3),)), nothing_asked_anew
    ),
    "W16 once": Tooth("a fork does it all again", ("F13",), quiet("aaT", acts=(Act("fork", 1.2),)), all_asked_anew),
    "W16 names": Tooth(
        "a fork's code takes back another child than it has", ("F5",), quiet("ET", acts=(FORKED,)), names_of_others
    ),
    "W16 ids": Tooth(
        "a fork calls the child that it joins otherwise",
        ("F1", "F5", "F16"),
        quiet("eT", acts=(FORKED,)),
        ids_made_anew,
    ),
    "W16 unheard": Tooth(
        "a fork's child waits for what the one before was sent",
        ("U13",),
        quiet("OT", acts=(Act("fork", 0.8),)),
        lambda: [(standing, "_SENT", ())],
    ),
    "W16 in order": Tooth(
        "a fork sends a child something that is not there yet",
        ("F2", "U13"),
        quiet("OT", acts=(Act("fork", 0.9),)),
        lambda: [(commit, "_TOGETHER_IN_FORKS", commit._TOGETHER)],
    ),
    "W16 joins": Tooth(
        "a fork replaces a child that another one waits for",
        ("F17",),
        quiet("R", acts=(Act("fork", 1.2),)),
        never_joins,
    ),
    "W16 alone": Tooth(
        "a parent is told of a fork of its child",
        ("F14", "F16"),
        quiet("cTT", acts=(Act("fork", 0.6),), seeds=20),
        a_parent_of_two,
    ),
    "W11 pins": Tooth(
        "another build runs what is pinned",
        ("F15",),
        quiet("TaT", acts=(Act("deploy", 0.3),)),
        lambda: [(Pins, "are_anothers", lambda self, pin: False)],
    ),
    "W11 unpins": Tooth(
        "it waits for a build that is gone",
        ("U13",),
        quiet("aT", acts=(Act("deploy", 0.3), Act("deploy", 0.5))),
        lambda: [(Ends, "unpin", _nothing)],
    ),
    "stale": Tooth("a verdict of a stale instance", ("F4",), quiet("aaaaaa", "gaaa", "graa", seeds=300), stale_is_good),
}
"""The rules of docs/workflows.md, and what befalls without them."""


def unnoticed(rule: str) -> str:
    """Why the simulation does not notice that this rule is missing, "" if it does."""
    return RULES[rule].unnoticed(rule, run)
