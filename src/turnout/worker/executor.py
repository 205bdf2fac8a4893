"""The path of one delivery through a worker: decide, run, decide again.

No branch here does I/O of its own: what has to be written, settled or asked follows from `decide()`.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from turnout.core.events import Received
from turnout.core.loglines import fields
from turnout.core.values import Delivery
from turnout.crashpoints import reach
from turnout.definition.activity import Activity
from turnout.errors import UnreadableRecord
from turnout.jetstream.perform import Performer, Saved, Store
from turnout.jetstream.registry import Loaded
from turnout.telemetry import attempts, spans
from turnout.telemetry.attempts import AttemptSpan
from turnout.worker.attempt import Attempt
from turnout.worker.code import CodeRunner
from turnout.worker.context import job_fields
from turnout.worker.lease import Lease, LeaseKeeper

logger = logging.getLogger("turnout.worker")

UNREADABLE_PAUSE_S = 30.0
"""How long a job whose record this version can't read is left to others."""


class Executor:
    """Executes deliveries for one node."""

    def __init__(
        self,
        store: Store,
        node: str,
        activities: Mapping[str, Activity[..., Any]],
        keeper: LeaseKeeper,
        code: CodeRunner,
        saved: Saved | None = None,
    ) -> None:
        self.attempts: dict[str, Attempt] = {}
        self._nonce = secrets.token_hex(8)
        self._count = itertools.count()
        self._aborting = False
        self._store = store
        self._node = node
        self._activities = activities
        self._rules = {name: activity.settings.rules for name, activity in activities.items()}
        self._keeper = keeper
        self._code = code
        self._saved = saved

    async def execute(self, delivery: Delivery, ack_wait_s: float) -> None:
        """Run the delivery's job to the end of one attempt, or find out that there is nothing to run."""
        reach("execute.received")
        nonce = f"{self._nonce}{next(self._count):x}"
        subject = self._store.names.record(delivery.activity, delivery.id)
        # From before the start record is written: whoever asks meanwhile is told yes (P5).
        lease = self._keeper.register(nonce, subject, delivery.message, ack_wait_s)
        reach("execute.registered")
        performer = Performer(
            self._store, settle=lease.settle, confident=self._keeper.confident, patient=True, saved=self._saved
        )
        try:
            job, tracing = await self._start(delivery, nonce, performer)
            record = job.record
            if (
                record is not None
                and record.token is not None
                and record.token.nonce == nonce
                and not record.state.final
            ):
                lease.started(record.token, job.revision)
                tracing.started(record)
                reach("execute.started")
                await self._attempt(job, performer, lease, tracing)
        except UnreadableRecord as error:
            # Newer nodes than this one are at work, and one of them will take it. Asked at once it would be here again.
            logger.warning(
                "job %s is given back for %g s: %s",
                *(delivery.id, UNREADABLE_PAUSE_S, error),
                extra=fields(delivery.id, delivery.activity, node=self._node),
            )
            performer.give_back(delivery.message, UNREADABLE_PAUSE_S)
        finally:
            lease.release()

    def abort(self) -> None:
        """Ask everything that runs to stop, and what is just starting as soon as it runs."""
        self._aborting = True
        for attempt in list(self.attempts.values()):
            attempt.stop("node_stopping")

    async def _start(self, delivery: Delivery, nonce: str, performer: Performer) -> tuple[Loaded, AttemptSpan]:
        """Decide whether the job starts; its span begins before, since the start record names it."""
        # A message that was put in anew carries on what earlier attempts began, and their record says what.
        first = delivery.number == 1 and delivery.generation == 1 and not delivery.replaced
        job = Loaded() if first else await self._store.registry.load(delivery.activity, delivery.id)
        tracing = attempts.begin(job.record, delivery, self._node, self._store.names.bare)
        event = Received(
            delivery=delivery,
            node=self._node,
            nonce=nonce,
            now=self._store.connection.now(),
            rules=self._rules[delivery.activity],
            span_id=spans.span_id(tracing.span),
        )
        # What was read for the span is not decided upon: between then and now the job may have gone (P9).
        applied = await performer.apply(delivery.activity, delivery.id, event, job if first or job.record else None)
        return applied.job, tracing

    async def _attempt(self, job: Loaded, performer: Performer, lease: Lease, tracing: AttemptSpan) -> None:
        assert job.record is not None
        activity = self._activities[job.record.activity]
        attempt = Attempt(activity, job, self._store, performer, lease, tracing)
        lease.on_change, lease.on_lost, lease.on_trouble = attempt.changed, attempt.lost, tracing.lease_unconfirmed
        if lease.missed_change:
            attempt.changed()
        self.attempts[lease.nonce] = attempt
        if self._aborting:
            attempt.stop("node_stopping")
        try:
            with tracing:
                outcome = await attempt.run(self._code.run)
        finally:
            del self.attempts[lease.nonce]
        if outcome is None:
            logger.warning(
                "job %s attempt %d: the lease is lost, its result is dropped",
                *(job.record.id, job.record.attempt),
                extra=job_fields(attempt.context),
            )
            return  # whoever counts the loss ends its span
        reach("execute.ended")
        applied = await performer.apply(job.record.activity, job.record.id, outcome, attempt.job)
        reach("execute.settled")
        tracing.ended(None if applied.abandoned else applied.job.record)
