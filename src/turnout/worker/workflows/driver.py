"""Doing workflow tasks: read the inbox, then the newest record, run the code, append, see to the effects, settle.

The order is the protocol (W1 to W3): every prefix of it, followed by a crash, is safe. What is decided on the way is
decided in turnout.core.workflows; what runs the user's code is an `Instance` on the thread of the workflows' code.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs

from turnout.core.workflows.caution import RESUME, Caution, Handed, caution, poison_failure, trying_record
from turnout.core.workflows.effects import ended_in
from turnout.core.workflows.standing import BrokenHistory, Standing, Verdict, forks, judge, stand
from turnout.core.workflows.task import Author, Draft, Now, stuck_record, terminated_record
from turnout.core.workflows.values import CommandKind, Input, Record
from turnout.definition.activity import Activity
from turnout.definition.workflow import Workflow
from turnout.errors import UnreadableRecord
from turnout.flow.thread import HeldTooLong, LeftByExit
from turnout.store.commit import Committer
from turnout.store.histories import Overtaken, Stored, is_deleted
from turnout.store.inbox import Lying, Wakeup
from turnout.store.payloads import ObjectGone
from turnout.store.perform import Store
from turnout.telemetry import log_lines, questions, workflow_metrics
from turnout.telemetry import workflows as telemetry
from turnout.worker.failure import Redact
from turnout.worker.workflows.aftermath import Aftermath, newest_alone
from turnout.worker.workflows.bodies import Bodies
from turnout.worker.workflows.cache import Cache, Cached
from turnout.worker.workflows.calls import Views
from turnout.worker.workflows.ends import NOT_LOADED, LocalActivityMissing, cause_of, redacted_record, trouble_of
from turnout.worker.workflows.handover import Handover, WantsInput
from turnout.worker.workflows.local_activity import surroundings
from turnout.worker.workflows.locals import Locals
from turnout.worker.workflows.looking import Looking, Situation
from turnout.worker.workflows.passing import pass_home
from turnout.worker.workflows.pins import Pins
from turnout.worker.workflows.queries import Answering, RunsCode
from turnout.worker.workflows.replay import replayed
from turnout.worker.workflows.settling import Settling
from turnout.worker.workflows.task import Done, apply_inputs
from turnout.worker.workflows.verdicts import ends_at_once, ends_locals, ends_uncovered, void_among
from turnout.worker.workflows.verification import Verification

logger = logging.getLogger("turnout.workflow")

ARMED_S = 1.0
"""Timers that are due sooner than this are armed at the owner as well: the server's are up to 0.25 s late (W6)."""


ACK_WAIT_S = 10.0

YOUNG_S = 2.0
"""A record younger than this is likely to be still in its writer's hand."""


@attrs.frozen(kw_only=True)
class DriverOptions:
    """Who does the tasks: `node`, `build`; `max_cached` instances are kept; `replicas` of the streams (W3).

    `pins`: the runs stay with workers of this build (W11).

    `arms_timers`: whether short timers are armed here as well (W6); not where the time is not that of the loop.
    `on_stuck` is told the id and the error of each workflow that can't go on. `redact` edits what is kept of errors.
    `activities` are those that can run locally, with this `client`; `sleep` waits between their attempts. `verify` is
    the share of the tasks whose runs are replayed.
    """

    node: str
    build: str = ""
    pins: bool = False
    max_cached: int = 1000
    replicas: int = 1
    arms_timers: bool = True
    on_stuck: Callable[[str, BaseException], None] = lambda _id, _error: None
    redact: Redact | None = None
    verify: float = 0.0
    activities: Mapping[str, Activity[..., Any]] = attrs.field(factory=dict)
    client: Any = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Driver:
    """Does the tasks of workflows for one node, one at a time for each workflow."""

    def __init__(
        self,
        store: Store,
        workflows: Mapping[str, Workflow[..., Any]],
        code: RunsCode,
        views: Views,
        options: DriverOptions,
    ) -> None:
        self._store = store
        self._workflows = workflows
        self._code = code
        self._views = views
        self._options = options
        self._cache = Cache(options.max_cached)
        self._looking = Looking(store, self._cache, code)
        self._pins = Pins(store, options.build, pins=options.pins)
        self._committer = Committer(store)
        self._bodies = Bodies(store.payloads)
        self.answering = Answering(store, workflows, code, views, self._cache)
        """Answers queries from the instances that the tasks leave in the cache."""
        self.settling = Settling(store, options.replicas)
        self._aftermath = Aftermath(store, self.settling)
        self._verification = Verification(store, workflows, code, views, options.verify)
        self._verification.redact = options.redact
        around = surroundings(store, options.node, options.redact, options.sleep, options.client)
        self.locals = Locals(store, options.activities, self.settling, around, self.answering.turns)
        self.handover = Handover(store.connection.now, self._looking.ahead)
        self.settling.on_left = lambda wakeup: self.handover.left([wakeup])
        self.ack_wait_s = ACK_WAIT_S
        """How long the server waits until it hands an input over again."""
        self._one_try = asyncio.Lock()

    async def task(self, name: str, workflow_id: str, wakeups: list[Wakeup]) -> list[Wakeup]:
        """Do one task; the wake-ups that it leaves begin the next one, at once. Errors are those of the connection."""
        while True:
            try:
                async with self.answering.turns.of(workflow_id):
                    left = await self._task(name, workflow_id, wakeups)
            except WantsInput:
                self.handover.not_for(name)
                left = [each for each in wakeups if not each.handed_over]
            except Overtaken as error:
                logger.debug("workflow %s: begins again: %s", workflow_id, error)
                await asyncio.sleep(0.01)
                continue
            self.handover.left(each for each in wakeups if each.handed_over and each not in left)
            return left

    def has(self, workflow_id: str) -> bool:
        """Whether the workflow is in memory."""
        return workflow_id in self._cache

    async def close(self) -> None:
        """Drop every instance."""
        await self._verification.close()
        for instance in self._cache.clear():
            await self._code.run(instance.drop)

    # --- one task -----------------------------------------------------------------------------------------------------

    async def _task(self, name: str, workflow_id: str, wakeups: list[Wakeup]) -> list[Wakeup]:
        cached = self._cache.take(workflow_id)
        try:
            situation = await self._looking.look(name, workflow_id, wakeups, cached)
            return await self._task_of(situation, name, workflow_id, wakeups)
        except BaseException:
            await self._drop(workflow_id)
            if cached is not None:
                await self._code.run(cached.instance.drop)  # it was in our hand: nobody else does
            raise

    async def _task_of(self, situation: Situation, name: str, workflow_id: str, wakeups: list[Wakeup]) -> list[Wakeup]:
        lying, newest, cached = situation.lying, situation.newest, situation.cached
        if newest is None or is_deleted(newest):
            self.locals.ended(workflow_id)
            left = wakeups if newest is None else await self._aftermath.of_a_deleted(newest, wakeups)
            await self._aftermath.of_none(left)
            return []
        wakeups = await self._repeat(newest, lying, wakeups)
        if cached is None:
            wakeups = await pass_home(self._store, wakeups, newest.record, self._options.node)
        if not wakeups:
            await self._put_back(cached)
            return []
        if newest.record.state.final:
            self.locals.ended(workflow_id)
            await self._aftermath.of_an_ended(newest, wakeups)
            return []
        lying = [*lying, *(Lying(each.given, name) for each in wakeups if not each.seq and each.given is not None)]
        records: list[Stored] = []
        if cached is not None:
            standing = cached.standing = self.locals.kept_anew(cached.standing, wakeups)
        else:
            try:
                records = await self._store.histories.read(workflow_id, newest, of_run=True)
                standing = self.locals.kept_anew(stand([(each.record, each.seq) for each in records]), wakeups)
            except (BrokenHistory, UnreadableRecord, ObjectGone) as error:
                if not await self._still_newest(newest):
                    raise Overtaken(f"the history of workflow {workflow_id} has changed while it was read") from error
                return await self._stuck(newest_alone(newest), error, lying, wakeups)
        lying = [*(Lying(given, newest.record.name) for given in standing.ahead), *lying]
        ending = ends_at_once(standing, lying)
        if ending is not None:
            await self._terminate(standing, ending, cached, lying)
            return wakeups
        news = any(judge(standing, each.given, each.name) in (Verdict.take, Verdict.wake) for each in lying)
        if not news and not self.locals.to_run(standing, wakeups):
            await self._put_back(cached)
            return self.settling.put_off(self._after(standing, void_among(standing, wakeups), wakeups))
        wakeups = await self._of_this_build(standing, wakeups)
        cautious = await self._caution(standing, wakeups) if wakeups else Caution.not_here
        if cautious is Caution.free:
            return await self._run(standing, records, cached, lying, wakeups)
        await self._put_back(cached)
        return await self._carefully(cautious, standing, records, lying, wakeups)

    async def _of_this_build(self, standing: Standing, wakeups: list[Wakeup]) -> list[Wakeup]:
        """The wake-ups that are dealt with here: not those of another build's run, or of one that a newer begins."""
        pin = standing.newest.summary.pin
        if self._pins.are_anothers(pin):
            self.locals.leave(standing.newest.id)
            wakeups = [wakeup for wakeup in wakeups if wakeup.seq]
            self._pins.give_back(self.settling, await self._pins.hand_on(wakeups, pin), pin)
            return []
        if pin or (standing.begun and not forks(standing.newest)) or not self._pins.pins:
            return wakeups
        newer = await self._pins.newer(standing.newest.name)
        return await self._pins.hand_on(wakeups, newer) if newer else wakeups

    async def _still_newest(self, newest: Stored) -> bool:
        again = await self._store.histories.newest(newest.record.id)
        return again is not None and again.seq == newest.seq

    async def _caution(self, standing: Standing, wakeups: Sequence[Wakeup]) -> Caution:
        """Whether the code may be loaded (W7)."""
        resumes = (each for each in wakeups if each.given is not None and each.given.what == RESUME)
        handed = Handed(
            node=self._options.node,
            build=self._options.build,
            number=max((wakeup.number for wakeup in wakeups if wakeup.seq), default=1),
            resumed=any(each.number == 1 or each.time_ns / 1e9 > standing.newest.at for each in resumes),
            now=self._store.connection.now(),
            ack_wait_s=self.ack_wait_s,
        )
        if caution(standing, handed, ()) is Caution.free:
            return Caution.free
        return caution(standing, handed, {node.id for node in await self._store.nodes.living()})

    async def _carefully(
        self,
        cautious: Caution,
        standing: Standing,
        records: Sequence[Stored],
        lying: Sequence[Lying],
        wakeups: list[Wakeup],
    ) -> list[Wakeup]:
        """A task that may be about to kill this process, as others before it: under a record that says so, if at all.

        A node tries one at a time, so that nothing else is blamed for its death.
        """
        now = self._store.connection.now
        match cautious:
            case Caution.poison:
                record = stuck_record(standing, self._author(), now(), poison_failure(standing))
                assert record is not None
                logger.error("workflow %s is stuck: %s", record.id, poison_failure(standing).error.message)
                return self.settling.stuck(await self._append(standing, record, lying), wakeups)
            case Caution.leave:
                return self.settling.stuck(standing, wakeups)
            case Caution.not_here:
                return []
            case Caution.elsewhere:
                for wakeup in wakeups:
                    self.settling.give_back(wakeup, self.ack_wait_s)
                return []
            case _:
                return await self._declared(standing, records, lying, wakeups)

    async def _declared(
        self, standing: Standing, records: Sequence[Stored], lying: Sequence[Lying], wakeups: list[Wakeup]
    ) -> list[Wakeup]:
        async with self._one_try:
            await self._drop(standing.newest.id)
            records = records or await self._store.histories.read(
                standing.newest.id, Stored(standing.newest, standing.seq), of_run=True
            )
            trying = await self._append(
                standing, trying_record(standing, self._author(), self._store.connection.now()), lying
            )
            return await self._run(trying, [*records, Stored(trying.newest, trying.seq)], None, lying, wakeups)

    async def _repeat(self, newest: Stored, lying: Sequence[Lying], wakeups: list[Wakeup]) -> list[Wakeup]:
        """Handed again what only the newest record has: its writer may have died behind it (W2).

        Its effects are performed again, unless it is so young that the writer is likely to be at it. A fork, the end of
        a local activity, or of a run in its first task or by what a fork has brought, has effects and may cover no
        input: whoever comes next makes sure of them.
        """
        record = newest.record
        if self._cache.are_effects_stored(record.id, newest.seq):
            return wakeups
        again = [wakeup for wakeup in wakeups if record.newly_covers(wakeup.seq)]
        if not again and not (forks(record) or ends_locals(record) or ends_uncovered(record)):
            return wakeups
        young_s = YOUNG_S - (self._store.connection.now() - record.at)
        if young_s <= 0 or not again or record.node == self._options.node:
            await self._make_sure(newest, lying)
            if record.ends_run and record.node != self._options.node:
                telemetry.run_ended(record)  # whoever wrote it may have died before its span was sent
            return wakeups
        for wakeup in again:
            self.settling.give_back(wakeup, young_s)
        return [wakeup for wakeup in wakeups if wakeup not in again]

    async def _run(
        self,
        standing: Standing,
        records: Sequence[Stored],
        cached: Cached | None,
        lying: Sequence[Lying],
        wakeups: list[Wakeup],
    ) -> list[Wakeup]:
        """Have the code apply the inputs, and append what it made of them."""
        began = time.monotonic()
        try:
            if cached is None:
                cached = Cached(standing, await self._load(standing, records))
            else:
                workflow_metrics.loaded(standing.newest.name, "cache", 0.0)
            inputs = [(await self._bodies.at_hand(each.given, standing.life), each.name) for each in lying]
        except BaseException as error:
            if cached is not None:
                await self._code.run(cached.instance.drop)
            if isinstance(error, NOT_LOADED):
                return await self._stuck(standing, error, lying, wakeups)
            raise
        try:
            left = await self._apply(standing, cached, inputs, lying, wakeups)
        except BaseException:
            self.locals.follow(standing, ())
            await self._code.run(cached.instance.drop)
            raise
        workflow_metrics.task_done(standing.newest.name, time.monotonic() - began)
        return left

    async def _apply(
        self,
        standing: Standing,
        cached: Cached,
        inputs: Sequence[tuple[Input, str]],
        lying: Sequence[Lying],
        wakeups: list[Wakeup],
    ) -> list[Wakeup]:
        draft, instance = Draft(standing), cached.instance
        now = self._store.connection.now()
        done = Done(draft)
        try:
            self.locals.check(self.locals.to_run(standing, wakeups))
            done = await self._code.run(lambda: apply_inputs(draft, inputs, now, self.locals.checking(instance.apply)))
            if draft.locals:
                draft.wake = self.locals.wake(standing, wakeups)
                if not draft.wake and any(wakeup.handed_over for wakeup in wakeups):
                    raise WantsInput(f"workflow {standing.newest.id} asks for a local activity")
                await self.locals.together(done, self._code.run, instance.apply)
        except (HeldTooLong, LeftByExit) as error:
            if isinstance(error, HeldTooLong) and error.stuck:
                self.locals.follow(standing, ())
                return await self._stuck(standing, error, lying, wakeups)  # the instance is its thread's for good
            done.broken = error
        except LocalActivityMissing as error:
            done.broken = error
        record = draft.record(self._author(), self._now(done, instance.waits(), len(lying)))
        if record is not None:
            cached.standing = await self._append(standing, redacted_record(record, self._options.redact), lying)
            instance.history_size = record.summary.size
        if done.broken is not None:
            wakeups = self.locals.follow(cached.standing, wakeups, draft.inputs)
            await self._code.run(instance.drop)
            return await self._stuck(cached.standing, done.broken, (), wakeups)
        if cached.standing.state.final or cached.standing.run != standing.run:
            if not instance.forget():
                await self._code.run(instance.drop)
        else:
            await self._keep(cached)
        if record is not None:
            self._verification.consider(cached.standing)
        left = self._after(cached.standing, done.void, wakeups, draft.inputs)
        return left if record is not None else self.settling.put_off(left)

    def _after(
        self, standing: Standing, void: Collection[int], wakeups: Iterable[Wakeup], taken: Sequence[Input] = ()
    ) -> list[Wakeup]:
        """Settle what is done with; run, stop and keep for local activities. What is left begins the next task."""
        return self.locals.follow(standing, self.settling.after(standing, void, wakeups, taken), taken)

    async def _load(self, standing: Standing, records: Sequence[Stored]) -> Any:
        workflow = self._workflows[standing.newest.name]
        recorded = [await self._bodies.of_record(each.record) for each in records]
        began = time.monotonic()
        instance = await replayed(self._code.run, workflow, recorded, standing, self._views)
        workflow_metrics.loaded(workflow.name, "replay" if standing.begun else "begin", time.monotonic() - began)
        return instance

    async def _append(self, standing: Standing, record: Record, lying: Sequence[Lying]) -> Standing:
        """Append the record and see to its effects: everything of a task that anybody can notice (W1, W2).

        Only the newest record's effects can be missing, because whoever appends makes sure of them first.
        """
        await self._make_sure(Stored(standing.newest, standing.seq), lying)
        record = await self._bodies.offloaded(record)
        seq = await self._store.histories.append(record, standing.seq)
        log_lines.appended(record)
        telemetry.commands_ended(record, standing.pending)
        questions.appended(record, standing.asked)
        after = stand([(record, seq)], standing)
        await self._commit(Stored(record, seq))
        self._arm(record)
        return after

    async def _commit(self, stored: Stored, ended: Collection[str] = ()) -> None:
        await self._committer.commit(stored, ended)
        self.locals.heard(stored.record)
        self._cache.effects_stored(stored.record.id, stored.seq)
        self.handover.taken(stored.record)

    async def _make_sure(self, newest: Stored, lying: Sequence[Lying]) -> None:
        """Nothing is missing of the newest record's effects. A command whose end is in the inbox is not repeated."""
        if self._cache.are_effects_stored(newest.record.id, newest.seq):
            return
        await self._commit(newest, ended_in(newest.record, (each.given for each in lying)))

    def _arm(self, record: Record) -> None:
        now, loop = self._store.connection.now(), asyncio.get_running_loop()
        for command in record.commands if self._options.arms_timers else ():
            if command.kind is CommandKind.timer and command.at is not None and command.at - now < ARMED_S:
                loop.call_later(max(command.at - now, 0.0), self.settling.fire, record, command)

    # --- other ways for a task to go ----------------------------------------------------------------------------------

    async def _terminate(
        self, standing: Standing, ending: Input, cached: Cached | None, lying: Sequence[Lying]
    ) -> None:
        """The end by somebody who needs no code: at once, whatever lies before it (W8)."""
        if cached is not None:
            await self._code.run(cached.instance.drop)
        record = terminated_record(standing, self._author(), self._store.connection.now(), ending)
        await self._append(standing, record, lying)
        self.locals.ended(record.id)

    async def _stuck(
        self, standing: Standing, error: BaseException, lying: Sequence[Lying], wakeups: list[Wakeup]
    ) -> list[Wakeup]:
        """The code can't go on: say why, once, and give the wake-ups back until it is repaired (W7).

        Ends that were handed over go into the inbox first, so they lie before what is sent to a stuck workflow.
        """
        if any(wakeup.handed_over for wakeup in wakeups):
            return [wakeup for wakeup in wakeups if not wakeup.handed_over]
        failure = trouble_of(error)
        self._options.on_stuck(standing.newest.id, cause_of(error))
        record = stuck_record(standing, self._author(), self._store.connection.now(), failure)
        if record is not None:
            record = redacted_record(record, self._options.redact)
            known = record.failure.error if record.failure is not None else failure.error
            said = "workflow %s is stuck until repaired code is deployed: %s: %s"
            logger.error(said, record.id, known.type, known.message)
            standing = await self._append(standing, record, lying)
        return self.settling.stuck(standing, wakeups)

    async def _put_back(self, cached: Cached | None) -> None:
        if cached is not None:
            await self._keep(cached)

    async def _keep(self, cached: Cached) -> None:
        for evicted in self._cache.put(cached.standing.newest.id, cached):
            await self._code.run(evicted.drop)

    async def _drop(self, workflow_id: str) -> None:
        if (cached := self._cache.take(workflow_id)) is not None:
            await self._code.run(cached.instance.drop)

    def _author(self) -> Author:
        return Author(self._options.node, self._options.build, self._store.chance.nonce(), self._options.pins)

    def _now(self, done: Done, waits: tuple[Any, ...], lying: int) -> Now:
        left = max(0, lying - len(done.draft.inputs)) if done.draft.end is not None else 0
        return Now(at=self._store.connection.now(), waits=waits, u=self._store.chance.fraction(), left=left)
