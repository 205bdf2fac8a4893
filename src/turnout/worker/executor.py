"""The path of one delivery through a worker: decide, run, decide again.

No branch here does I/O of its own: what has to be written, settled or asked follows from `decide()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import attrs

from turnout.core.catalog import ActivityInfo
from turnout.core.ends import AttemptEnd
from turnout.core.events import Declined, Lost, Received
from turnout.core.evolve import evolve
from turnout.core.failure import NODE_STOPPING, ErrorInfo
from turnout.core.loglines import fields
from turnout.core.record import FINAL, Delivery, JobRecord
from turnout.core.routing import fits
from turnout.crashpoints import reach
from turnout.definition.activity import Activity
from turnout.definition.bounds import Bounds
from turnout.errors import PayloadTooLarge, TurnoutError, UnreadableRecord
from turnout.nats.stream import ACK
from turnout.once import log_rarely
from turnout.store.perform import UNAVAILABLE, Applied, Gates, OnSaved, Performer, Store, retry_while_away
from turnout.store.records import Versioned
from turnout.telemetry import attempts, spans
from turnout.telemetry.attempts import AttemptSpan
from turnout.worker.admission import Admission, Seat
from turnout.worker.attempt import Attempt
from turnout.worker.code import CodeRunner
from turnout.worker.context import job_fields
from turnout.worker.keeper import LeaseKeeper
from turnout.worker.leases import Lease
from turnout.worker.workflows.handover import Handover

logger = logging.getLogger("turnout.worker")

UNREADABLE_PAUSE_S = 30.0
"""How long a job whose record this version can't read is left to others."""


Offer = Callable[[JobRecord], asyncio.Future[bool] | None]


class NodeStops(TurnoutError):
    """The node stops, and what was not begun is given back."""


_ALL_WAIT = (
    "all %d slots of this node are held by jobs that wait for other jobs: where those need a slot here, nothing moves."
    " Wait in a workflow, which holds no slot, or give the worker more of them (--concurrency)"
)


@attrs.frozen(kw_only=True)
class NodeParts:
    """The parts of a node that its executor works with.

    `on_saved` is called after each write of a record. `isolate` returns when the node runs nothing but the task that
    calls it; NodeStops when that will not be. `client` is what the code of jobs may submit with. `workflows` are given
    the ends of their jobs, if they are at hand here. `slots`: how many jobs run at a time, `properties`: what the node
    has that jobs may require; None: all of it.
    """

    id: str
    keeper: LeaseKeeper
    code: CodeRunner
    on_saved: OnSaved | None
    isolate: Callable[[], Awaitable[None]]
    client: Any = None
    workflows: Handover | None = None
    slots: int = 0
    properties: Mapping[str, str] | None = None


class Executor:
    """Executes deliveries for one node."""

    def __init__(self, store: Store, activities: Mapping[str, Activity[..., Any]], parts: NodeParts) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.contracts: dict[str, ActivityInfo] = {}
        """What was declared of each activity."""
        self._nonce = secrets.token_hex(8)
        self._count = itertools.count()
        self._aborting = False
        self._declining: set[asyncio.Task[Applied]] = set()
        self.finishing: set[asyncio.Future[Any]] = set()
        """See to what is left of jobs that have ended here: the word of the workflow that is at work on that, say."""
        self._store = store
        self._node = parts.id
        self._activities = activities
        self._keeper = parts.keeper
        self._code = parts.code
        self._parts = parts
        self._gates = Gates(parts.isolate)

    async def execute(self, delivery: Delivery, ack_wait_s: float, seat: Seat) -> None:
        """Run the delivery's job to the end of one attempt, or find out that there is nothing to run."""
        reach("execute.received")
        nonce = f"{self._nonce}{next(self._count):x}"
        spec = delivery.spec
        subject = self._store.names.record(spec.activity, spec.id)
        # From before the start record is written: whoever asks meanwhile is told yes (P5).
        lease = self._keeper.register(nonce, subject, delivery.message, ack_wait_s)
        reach("execute.registered")
        activity = self._activities[spec.activity]
        if activity.requires:
            delivery = _requiring(delivery, activity.requires)
        admission = Admission(self._store, activity, delivery, self._node, seat) if activity.limits else None
        performer = Performer(
            self._store,
            settle=partial(self._keeper.settle, lease),
            confident=self._keeper.confident,
            retry_while_away=True,
            on_saved=self._parts.on_saved,
            gates=self._gates if admission is None else Gates(self._parts.isolate, admission.take),
        )
        try:
            job, tracing = await self._start(delivery, nonce, performer, admission)
            record = job.record
            if record is not None and spec.generation > record.spec.generation:
                self._warn_of_generation(delivery, record)
            if record is not None and record.token is not None and record.is_of(nonce) and record.state not in FINAL:
                lease.started(record.token, job.revision)
                tracing.started(record)
                reach("execute.started")
                over = await self._attempt(job, performer, lease, tracing)
                if admission is not None and over:
                    admission.leave()  # without a slot
            elif admission is not None and record is not None:
                await admission.leave_over(record)
        except NodeStops:
            self.decline(delivery)
        except UnreadableRecord as error:
            self._leave_to_newer(delivery, performer, error)
        finally:
            if not lease.handed_over:
                self._keeper.release(lease)

    def _warn_of_generation(self, delivery: Delivery, record: JobRecord) -> None:
        logger.warning(
            "a message that claims to be generation %d of job %s is dropped: it does not follow generation %d",
            *(delivery.generation, delivery.id, record.generation),
            extra=fields(delivery.id, delivery.activity, node=self._node),
        )

    def _leave_to_newer(self, delivery: Delivery, performer: Performer, error: UnreadableRecord) -> None:
        """Newer nodes than this one are at work, and one will take the job. Asked at once it would be here again."""
        logger.warning(
            "job %s is given back for %g s: %s",
            *(delivery.id, UNREADABLE_PAUSE_S, error),
            extra=fields(delivery.id, delivery.activity, node=self._node),
        )
        performer.give_back(delivery.message, UNREADABLE_PAUSE_S)

    def decline(self, delivery: Delivery) -> None:
        """Give back a delivery that was not begun, for want of a slot, say. That never counts against the job."""
        performer = Performer(self._store, retry_while_away=True)
        if not delivery.exhausted:
            with contextlib.suppress(TurnoutError):  # offline: its lease brings it back
                performer.give_back(delivery.message, 0.0)
            return
        declined = performer.apply(delivery.activity, delivery.id, Declined(delivery=delivery))
        self._declining.add(task := asyncio.get_running_loop().create_task(declined))
        task.add_done_callback(self._declining.discard)

    def abort(self) -> None:
        """Ask everything that runs to stop, and what is just starting as soon as it runs."""
        self._aborting = True
        for attempt in list(self.attempts.values()):
            attempt.stop(NODE_STOPPING)

    @property
    def waiting(self) -> int:
        """Of how many attempts the code waits for another job. For any thread."""
        return sum(attempt.context.waiting > 0 for attempt in list(self.attempts.values()))

    def _waits(self) -> None:
        """A job's code waits for another job: say so when all slots are held by such code, which may never move on."""
        waiting = self.waiting
        if waiting >= self._parts.slots:
            log_rarely(logger, logging.WARNING, "waiting", _ALL_WAIT, waiting)

    async def _start(
        self, delivery: Delivery, nonce: str, performer: Performer, admission: Admission | None
    ) -> tuple[Versioned, AttemptSpan]:
        """Decide whether the job starts; its span begins before, since the start record names it."""
        activity, job_id = delivery.spec.activity, delivery.spec.id
        if (bounds := self._activities[activity].settings.bounds) is not None:
            delivery = await self._within_bounds(delivery, bounds)
        # A message that was requeued carries on what earlier attempts began, and their record says what.
        first = delivery.number == 1 and delivery.spec.generation == 1 and not delivery.replaced
        wanted = delivery.spec.options.requires
        requires = wanted if wanted and not self._fits(wanted) else None
        admitted = full = None
        if admission is not None and first and requires is None and not delivery.doubtful:
            # No more than that would be decided first, mostly. Where something else may keep it from its start, that is
            # looked at before it takes a place.
            try:
                full = await admission.take(delivery.spec.generation, 1, delivery.spec.payload)
                admitted = (delivery.spec.generation, 1) if full is None else None
            except UNAVAILABLE:
                pass  # it is asked for again
        job = Versioned() if first else await retry_while_away(lambda: self._store.registry.load(activity, job_id))
        tracing = attempts.begin(job.record, delivery, self._node, self._store.names.bare)
        event = Received(
            delivery=delivery,
            node=self._node,
            nonce=nonce,
            now=self._store.connection.now(),
            rules=self._activities[activity].rules,
            limited=admission is not None,
            admitted=admitted,
            full=full,
            requires=requires,
            span_id=spans.span_id(tracing.span),
        )
        # What was read for the span is not decided upon: between then and now the job may have gone (P9).
        applied = await performer.apply(activity, job_id, event, job if first or job.record else None)
        return applied.job, tracing

    async def _within_bounds(self, delivery: Delivery, bounds: Bounds) -> Delivery:
        """The delivery with a problem, if its message asks for more than the activity lets a submission ask for.

        Whoever has asked by `.options()` where no client could refuse it, such as a workflow's code, is told the same
        as by one. A workflow does not look at the bounds itself: they are this version's, its history may be older.
        What was accepted stays so: a job that has begun, and one that was submitted while other bounds allowed it.
        """
        activity, options = delivery.activity, delivery.spec.options
        problem = bounds.problem(activity, options)
        if not problem or delivery.problem is not None:
            return delivery
        record = (await retry_while_away(partial(self._store.registry.load, activity, delivery.id))).record
        contract = self.contracts.get(activity)
        until, earlier = Bounds.earlier({} if contract is None else contract.options)
        submitted_at = delivery.spec.submitted_at if record is None else record.spec.submitted_at
        allowed = submitted_at < until and (earlier is None or not earlier.problem(activity, options))
        if allowed or (record is not None and record.begun):
            return delivery
        return evolve(delivery, problem=ErrorInfo("InvalidValue", problem))

    def _fits(self, requires: Mapping[str, str]) -> bool:
        has = self._parts.properties
        return has is None or fits(has, requires)

    async def _attempt(self, job: Versioned, performer: Performer, lease: Lease, tracing: AttemptSpan) -> bool:
        """Run the attempt; False when it goes on outside, and keeps its places of limits (P14)."""
        assert job.record is not None
        spec = job.record.spec
        activity = self._activities[spec.activity]
        attempt = Attempt(activity, job, self._store, performer, lease, tracing)
        attempt.context.provide(self._parts.client, self._waits)
        lease.limited = bool(activity.limits)
        lease.attach(attempt)
        if self._keeper.trouble is not None:  # what can't be kept is not begun, and may be somebody else's by then
            await self._keeper.wait_confirmed()
            await attempt.reports.refresh()
        self.attempts[lease.nonce] = attempt
        if self._aborting:
            attempt.stop(NODE_STOPPING)
        try:
            with tracing:
                outcome = await attempt.run(partial(self._code.run, activity, attempt.context, attempt.reports))
        finally:
            del self.attempts[lease.nonce]
        if outcome is None:
            self._drop_result(attempt, job.record)
            return True  # whoever counts the loss ends its span
        reach("execute.ended")
        parent, workflows = spec.options.parent, self._parts.workflows
        if workflows is not None and parent is not None:
            offer = partial(workflows.offer, ahead=workflows.expect(parent))
            performer.hand_over = partial(self._hand_over, offer, performer, lease, outcome)
        job = attempt.reports.job
        try:
            applied = await performer.apply(spec.activity, spec.id, outcome, job)
        except PayloadTooLarge as error:  # whatever else is in the record, the server is smaller than it was taken for
            performer.hand_over = None
            applied = await performer.apply(spec.activity, spec.id, attempt.unstorable(error), job)
        performer.hand_over = None
        reach("execute.settled")
        record = None if applied.abandoned else applied.job.record
        tracing.ended(record)
        return record is None or record.outside is None

    def _drop_result(self, attempt: Attempt, record: JobRecord) -> None:
        """The lease was lost meanwhile: the attempt is somebody else's to count."""
        logger.warning(
            "job %s attempt %d: the lease is lost, its result is dropped",
            *(record.id, record.attempt),
            extra=job_fields(attempt.context),
        )
        self._finish(self._count_loss(record))

    async def _count_loss(self, record: JobRecord) -> None:
        """Say that the attempt is lost, unless somebody has: none that asks may be left, where its message is exhausted
        and the server's alarm got lost, and who lives is not taken for dead (P7)."""
        assert record.token is not None
        performer = Performer(self._store, retry_while_away=True, on_saved=self._parts.on_saved)
        lost = Lost(token=record.token, now=self._store.connection.now())
        with contextlib.suppress(TurnoutError):
            await performer.apply(record.activity, record.id, lost)

    def _hand_over(
        self, offer: Offer, performer: Performer, lease: Lease, outcome: AttemptEnd, record: JobRecord
    ) -> bool:
        """Whether the job's workflow is at work on its end; its message stays until that is recorded (W4)."""
        taken = offer(record)
        if taken is None:
            return False
        lease.handed_over = True
        lease.detach()
        self._finish(self._handed_over(taken, performer, lease, outcome, record))
        return True

    def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        self.finishing.add(task := asyncio.get_running_loop().create_task(work))
        task.add_done_callback(self.finishing.discard)

    async def _handed_over(
        self,
        taken: asyncio.Future[bool],
        performer: Performer,
        lease: Lease,
        outcome: AttemptEnd,
        record: JobRecord,
    ) -> None:
        try:
            if await taken and record.message is not None:
                self._keeper.settle(lease, record.message, ACK)
            else:
                performer.hand_over = None
                await performer.apply(record.activity, record.id, outcome)
        finally:
            self._keeper.release(lease)


def _requiring(delivery: Delivery, requires: Mapping[str, str]) -> Delivery:
    """The delivery of a job that requires what its activity does, and over that what its own message says."""
    options = delivery.spec.options
    merged = attrs.evolve(options, requires={**requires, **options.requires})
    return evolve(delivery, spec=evolve(delivery.spec, options=merged))
