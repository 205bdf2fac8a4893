"""The local activities of a node: which of them run, and which wake-ups are kept for them (W15).

A record names with each local activity the input that stays in the inbox until it has ended. Whoever has that input in
hand runs the activity, and keeps it by extending it; a node that dies loses it to another one, which runs it again. The
end reaches the next task in memory. While a task goes on it may take ends that come quickly.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs

from turnout import bounded
from turnout.core.failure import NODE_STOPPING, Stop, StopReason
from turnout.core.record import JobRecord
from turnout.core.workflows.jobs import ending_of_try
from turnout.core.workflows.standing import BrokenHistory, Standing, Verdict, judge, kept_anew, stand
from turnout.core.workflows.task import Turn
from turnout.core.workflows.values import Command, CommandKind, Ending, EndKind, Input, InputKind, Record
from turnout.definition.activity import Activity, refuse_as_local
from turnout.errors import InvalidValue, TurnoutError
from turnout.keyed_locks import KeyedLocks
from turnout.store.histories import Stored, is_deleted
from turnout.store.inbox import Wakeup
from turnout.store.perform import Store
from turnout.telemetry import workflow_metrics
from turnout.worker.attempt import CLEANUP_S
from turnout.worker.failure import error_info
from turnout.worker.workflows.ends import CodeBroke, LocalActivityMissing
from turnout.worker.workflows.local_activity import LocalActivity, RunFacts, Surroundings
from turnout.worker.workflows.settling import Settling
from turnout.worker.workflows.task import Done, apply_more

logger = logging.getLogger("turnout.workflow")

EXTEND_EVERY_S = 3.0
LOOKS = 16
"""How many workflows are looked at at once."""

TOGETHER_S = 0.01
"""For how long a task waits for the next end of the local activities that it asks for, to take it along."""

LONGEST_S = 0.05
"""For how long it takes such ends where it asks for nothing else, which would have to wait for its record."""

Apply = Callable[[Input], Turn]
RunOnThread = Callable[[Callable[[], None]], Awaitable[None]]


@attrs.define(eq=False)
class _Work:
    """A local activity that runs. `asked`: its code was asked to end, as a record says."""

    activity: LocalActivity
    task: asyncio.Task[None] | None = None
    asked: bool = False


@attrs.define(eq=False)
class _Result:
    """What a task is to take of a local activity. `seen`: the task that goes on has it, `given`: the next one will."""

    input: Input
    seen: bool = False
    given: bool = False


@attrs.define(eq=False)
class _Line:
    """The local activities of one run. `seq`: where the newest record lies that was looked at for it."""

    facts: RunFacts
    seq: int = 0
    works: dict[str, _Work] = attrs.field(factory=dict)
    kept: dict[int, Wakeup] = attrs.field(factory=dict)
    results: list[_Result] = attrs.field(factory=list)
    """What has come and no record has taken."""
    in_task: bool = False
    waiter: asyncio.Future[None] | None = None
    """The task that goes on, while it waits for what comes."""

    @property
    def asleep(self) -> bool:
        """Whether all that is left to happen is that some time goes by."""
        return bool(self.works) and not self.results and all(work.activity.asleep for work in self.works.values())

    @property
    def awake(self) -> bool:
        """Whether code of any runs."""
        return any(not work.activity.asleep for work in self.works.values())

    def wake(self) -> None:
        """Have the task that waits look again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def found(self) -> list[Input]:
        """What has come since the last time."""
        new = [result for result in self.results if not result.given and not result.seen]
        for result in new:
            result.seen = True
        return [result.input for result in new]


class Locals:
    """Runs local activities, and keeps wake-ups for them. `give` puts a result into the line of its workflow."""

    def __init__(
        self,
        store: Store,
        activities: Mapping[str, Activity[..., Any]],
        settling: Settling,
        around: Surroundings,
        turns: KeyedLocks,
    ) -> None:
        self._store = store
        self._activities = activities
        self._settling = settling
        self._around = around
        self._turns = turns
        self._lines: dict[str, _Line] = {}
        self._left: set[asyncio.Task[None]] = set()
        self._draining = False
        self.give: Callable[[Wakeup], None] = lambda _: None

    # --- what a task asks ---------------------------------------------------------------------------------------------

    def check(self, commands: Iterable[Command]) -> None:
        """LocalActivityMissing when this worker can't run one of these."""
        for command in commands:
            if command.kind is CommandKind.local and command.name not in self._activities:
                raise LocalActivityMissing(
                    f"local activity {command.name}, called at {command.code}, is not among the activities of this "
                    f"worker: give it to the worker beside the workflow, or call it without local=True"
                )

    def checking(self, apply: Apply) -> Apply:
        """`apply`, but CodeBroke where the code calls what this worker does not have, or what can't be a local one."""

        def checked(given: Input) -> Turn:
            turn = apply(given)
            try:
                self.check(turn.commands)
                for command in turn.commands:
                    if command.kind is CommandKind.local:  # one that is called by name is known here alone
                        refuse_as_local(self._activities[command.name])
            except (LocalActivityMissing, InvalidValue) as error:
                raise CodeBroke(str(error)) from error
            return turn

        return checked

    def kept_anew(self, standing: Standing, wakeups: Iterable[Wakeup]) -> Standing:
        """The standing, as what is kept here or at hand changes it: a supervisor puts back what was lost (W14)."""
        if not standing.locals:
            return standing
        line = self._line(standing)
        kept = () if line is None else line.kept.values()
        return kept_anew(standing, (each.given for each in (*kept, *wakeups) if each.given is not None))

    def to_run(self, standing: Standing, wakeups: Iterable[Wakeup]) -> list[Command]:
        """The local activities that whoever is handed these wake-ups is to run."""
        pending = standing.locals
        if not pending:
            return []
        handed = {wakeup.seq for wakeup in wakeups if wakeup.seq}
        line = self._line(standing)
        kept: Collection[int] = () if line is None else line.kept
        works: Collection[str] = () if line is None else self._in_hand(line)
        return [each for each in pending if (each.wake in handed or each.wake in kept) and each.id not in works]

    def wake(self, standing: Standing, wakeups: Iterable[Wakeup]) -> int:
        """The input that is kept for what this task asks for: one that is kept already, or is in its hand."""
        line = self._line(standing)
        kept: Collection[int] = () if line is None else line.kept
        return min((*kept, *(wakeup.seq for wakeup in wakeups if wakeup.seq)), default=0)

    async def together(self, done: Done, run: RunOnThread, apply: Apply) -> None:
        """Run the local activities that this task asks for, and take their ends as long as they come quickly.

        `run` has the thread of the workflows' code do something, `apply` gives the code an input.
        """
        draft, now = done.draft, asyncio.get_running_loop().time
        line = self._line(draft.standing) or self._new_line(draft.standing)
        apply, began, looked = self.checking(apply), now(), 0
        line.in_task = True  # until its record is there (`follow`): what comes now is given behind what came before
        while done.broken is None and not draft.full:
            longest = LONGEST_S if draft.asks_for_locals_alone else TOGETHER_S
            until = min(now() + TOGETHER_S, began + longest)
            if now() >= until:
                return
            self._begin_new(line, draft.commands[looked:], draft.pending)
            looked = len(draft.commands)
            given = await self._news(line, until)
            if not given:
                return
            await run(functools.partial(apply_more, done, given, apply))

    def _begin_new(self, line: _Line, commands: Iterable[Command], pending: Collection[str]) -> None:
        for command in commands:
            wanted = command.kind is CommandKind.local and command.id in pending
            if wanted and command.id not in line.works and not self._draining:
                self._begin(line, command, None)

    async def _news(self, line: _Line, until: float) -> list[Input]:
        """What has come of any by then (the loop's time); nothing when all of them only wait for some time to go by."""
        loop = asyncio.get_running_loop()
        while not (found := line.found()) and line.awake and loop.time() < until:
            line.waiter = loop.create_future()
            late = loop.call_at(until, line.wake)
            try:
                await line.waiter
            finally:
                late.cancel()
        return found

    def heard(self, record: Record) -> None:
        """A record was appended: what it says to local activities that run. It may be heard again."""
        line = self._lines.get(record.id)
        if line is None or (line.facts.life, line.facts.run) != (record.life, record.done_run):
            return
        for command in record.commands:
            if command.about != CommandKind.local:
                continue
            work = line.works.get(command.target)
            if work is None:
                continue
            if command.kind is CommandKind.request and not work.asked:
                work.asked = True
                work.activity.stop(_unwanted(record.id))
            elif command.kind is CommandKind.abandon:
                del line.works[command.target]
                work.activity.leave()
                self._remember(work)

    def follow(self, standing: Standing, wakeups: Sequence[Wakeup], taken: Sequence[Input] = ()) -> list[Wakeup]:
        """Do as the newest record wants: run, stop, keep and release; the wake-ups that are left for the next task.

        `taken` are the inputs that it has.
        """
        line = self._line(standing)
        wanted = {command.id: command for command in standing.locals}
        if line is None:
            if not wanted:
                return list(wakeups)
            line = self._new_line(standing)
        line.seq, line.in_task = standing.seq, False
        self._stop_others(line, wanted)
        line.results = [each for each in line.results if each.input.what in wanted and each.input not in taken]
        left = self._keep(line, standing, wakeups)
        for command in self.to_run(standing, ()):
            if not self._draining and command.name in self._activities:
                self._begin(line, command, standing)
        for result in line.results:
            if not result.given:
                result.given = True
                self._give(line, result.input)
        if not line.works and not line.results and not line.kept:
            self._lines.pop(standing.newest.id, None)
        return left

    def ended(self, workflow_id: str) -> None:
        """The workflow has ended: nothing of it is wanted any more."""
        line = self._lines.pop(workflow_id, None)
        if line is not None:
            self._stop_others(line, ())
            for wakeup in line.kept.values():
                self._settling.remove(wakeup)

    def leave(self, workflow_id: str) -> None:
        """The workflow is not for this node any more: others run what runs here (W11)."""
        line = self._lines.pop(workflow_id, None)
        if line is not None:
            for work in line.works.values():
                work.activity.stop(NODE_STOPPING)
                self._remember(work)
            line.works.clear()
            self._release(line)

    def renewed(self, wakeup: Wakeup) -> bool:
        """Whether this one is kept here already, and was handed over once more; it is kept on then."""
        line = self._lines.get(wakeup.id)
        if line is None or wakeup.seq not in line.kept:
            return False
        line.kept[wakeup.seq] = wakeup
        return True

    # --- inside -------------------------------------------------------------------------------------------------------

    def _line(self, standing: Standing) -> _Line | None:
        """The line of this run; that of an earlier one is ended."""
        newest = standing.newest
        line = self._lines.get(newest.id)
        if line is not None and (line.facts.life, line.facts.run) != (newest.life, newest.run):
            self.ended(newest.id)
            return None
        return line

    def _new_line(self, standing: Standing) -> _Line:
        newest = standing.newest
        facts = RunFacts(
            id=newest.id,
            name=newest.name,
            life=newest.life,
            run=newest.run,
            trace_id=newest.summary.trace_id,
            flags=newest.summary.traceparent[53:55] or "01",
        )
        line = self._lines[newest.id] = _Line(facts, standing.seq)
        return line

    def _in_hand(self, line: _Line) -> set[str]:
        """The commands that run, or have ended and are in no record yet."""
        return {*line.works, *(each.input.what for each in line.results if each.input.kind is InputKind.done)}

    def _stop_others(self, line: _Line, wanted: Collection[str]) -> None:
        for command in [each for each in line.works if each not in wanted]:
            work = line.works.pop(command)
            work.activity.stop(_unwanted(line.facts.id))
            self._remember(work)

    def _remember(self, work: _Work) -> None:
        """Code that goes on though nobody waits for it: while it does, its task is held."""
        if work.task is not None and not work.task.done():
            self._left.add(work.task)
            work.task.add_done_callback(self._left.discard)

    def _keep(self, line: _Line, standing: Standing, wakeups: Sequence[Wakeup]) -> list[Wakeup]:
        """Keep what local activities want if this node has all of them; what none wants is removed from the inbox.

        What no record has taken yet is left: it is kept once the next task has taken it.
        """
        named = {command.wake for command in standing.locals}
        foreign = {command.wake for command in standing.locals if command.name not in self._activities}
        left = []
        for wakeup in wakeups:
            if wakeup.seq and wakeup.seq in named - foreign and _is_dealt_with(standing, wakeup):
                line.kept[wakeup.seq] = wakeup
            else:
                left.append(wakeup)
        for seq in [each for each in line.kept if each not in named]:
            self._settling.remove(line.kept.pop(seq))
        if self._draining and not line.works and not line.results:
            self._release(line)
        return left

    def _release(self, line: _Line) -> None:
        """Others go on with it."""
        for wakeup in line.kept.values():
            self._settling.give_back(wakeup, 0.0)
        line.kept.clear()

    def _begin(self, line: _Line, command: Command, standing: Standing | None) -> None:
        tried = None if standing is None else standing.tried.get(command.id)
        activity = LocalActivity(self._activities[command.name], command, line.facts, self._around, tried)
        if standing is not None and command.id in standing.requested:
            activity.stop(_unwanted(line.facts.id))  # whoever ran it has died; it is not begun again
        work = line.works[command.id] = _Work(activity)
        work.task = asyncio.get_running_loop().create_task(self._run(line, command, work))

    async def _run(self, line: _Line, command: Command, work: _Work) -> None:
        def tell(record: JobRecord) -> None:
            if line.works.get(command.id) is work:
                self._came(line, InputKind.tried, command, ending_of_try(record))

        try:
            ending = await work.activity.run(tell)
        except Exception as error:  # whatever it is, the workflow must not wait for ever
            logger.exception("local activity %s of workflow %s could not be run", command.name, line.facts.id)
            ending = Ending(EndKind.faulted, error=error_info(error), reason="failed")
        if line.works.get(command.id) is not work:
            return
        del line.works[command.id]
        if ending is not None:
            workflow_metrics.local_ended(line.facts.name, ending.kind)
            self._came(line, InputKind.done, command, ending)
        line.wake()

    def _came(self, line: _Line, kind: InputKind, command: Command, ending: Ending) -> None:
        """Something for a task to take: the one that goes on, or the next one."""
        facts, now = line.facts, self._around.now()
        result = _Result(Input(kind, now, what=command.id, life=facts.life, run=facts.run, ending=ending))
        line.results.append(result)
        if line.in_task:
            line.wake()
        else:
            result.given = True
            self._give(line, result.input)

    def _give(self, line: _Line, given: Input) -> None:
        facts = line.facts
        self.give(Wakeup(facts.name, facts.id, 0, int(given.at * 1e9), 1, "", given))

    # --- while they run -----------------------------------------------------------------------------------------------

    @property
    def asleep(self) -> int:
        """How many wake-ups are kept only until some time has gone by."""
        return sum(len(line.kept) for line in self._lines.values() if line.asleep)

    async def keep(self) -> None:
        """Extend what is kept, and look whether it is still wanted, until cancelled. Neither waits for the other."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._keep_extended())
            both.create_task(self._keep_looking())

    async def _keep_extended(self) -> None:
        while True:
            await asyncio.sleep(EXTEND_EVERY_S)
            for line in self._lines.values():
                for wakeup in line.kept.values():
                    self._settling.extend(wakeup)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(EXTEND_EVERY_S)
            await bounded.each(self._look_once, list(self._lines), LOOKS)

    async def _look_once(self, workflow_id: str) -> None:
        try:
            await self._look(workflow_id)
        except TurnoutError as error:
            logger.debug("workflow %s is looked at again: %s", workflow_id, error)
        except Exception:  # whatever it is, the others are looked at, and all are extended
            logger.exception("workflow %s could not be looked at", workflow_id)

    async def _look(self, workflow_id: str) -> None:
        """Another node may have gone on with the workflow, or somebody may have ended it."""
        line = self._lines.get(workflow_id)
        if line is None or await self._store.histories.is_newest(workflow_id, line.seq):
            return
        async with self._turns.of(workflow_id):
            newest = await self._store.histories.newest(workflow_id)
            line = self._lines.get(workflow_id)
            if line is None:
                return
            if newest is None or is_deleted(newest) or newest.record.state.final:
                self._hand_on(line, ())
                self.ended(workflow_id)
            elif newest.seq > line.seq:
                with contextlib.suppress(BrokenHistory):  # it has changed once more
                    await self._catch_up(line, newest)

    async def _catch_up(self, line: _Line, newest: Stored) -> None:
        records = await self._store.histories.read(newest.record.id, newest)
        standing = self.kept_anew(stand([(each.record, each.seq) for each in records]), ())
        for each in records:
            if each.seq > line.seq:
                self.heard(each.record)
        self._hand_on(line, {command.wake for command in standing.locals})
        self.follow(standing, ())

    def _hand_on(self, line: _Line, wanted: Collection[int]) -> None:
        """What is kept and not among these is for a task: it knows whether the newest record's effects are there."""
        for seq in [each for each in line.kept if each not in wanted]:
            self.give(line.kept.pop(seq))

    def drain(self) -> None:
        """Begin no more; those that run go on."""
        self._draining = True

    async def end_within(self, seconds: float) -> None:
        """Let those that run end for so long."""
        running = [work.task for line in self._lines.values() for work in line.works.values() if work.task is not None]
        if running and seconds > 0:
            await asyncio.wait(running, timeout=seconds)

    async def stop(self) -> None:
        """Stop those that run; what comes of them even so begins tasks."""
        self.drain()
        for line in self._lines.values():
            for work in line.works.values():
                work.activity.stop(NODE_STOPPING)
        await self.end_within(CLEANUP_S + 1.0)

    def close(self) -> None:
        """Give back what is kept for those that have not ended, once no task runs any more."""
        for line in self._lines.values():
            self._release(line)
        self._lines.clear()
        for task in self._left:
            task.cancel()
        self._around.code.close()


def _unwanted(workflow_id: str) -> StopReason:
    return StopReason(Stop.cancelled, f"workflow {workflow_id} does not wait for it any more")


def _is_dealt_with(standing: Standing, wakeup: Wakeup) -> bool:
    """Whether a record has it, or it is void: nothing is lost when it goes with what it is kept for."""
    verdict = Verdict.void if wakeup.given is None else judge(standing, wakeup.given, wakeup.name)
    return verdict in (Verdict.covered, Verdict.void)
