"""What the code of one attempt reports, and the attempt's one writer of the record (P1).

At most one write is in flight; progress is folded into the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Callable
from functools import partial

from turnout.core.events import Reported
from turnout.core.failure import LEASE_LOST, Stop, StopReason
from turnout.core.loglines import Line
from turnout.core.record import JobRecord, Progress, Token
from turnout.core.spec import Body
from turnout.definition.limits import undeclared
from turnout.errors import TurnoutError
from turnout.store.perform import Performer, Store, retry_while_away
from turnout.store.records import Versioned
from turnout.telemetry.attempts import AttemptSpan
from turnout.worker.leases import Lease
from turnout.worker.log_buffer import AttemptLog

logger = logging.getLogger("turnout.attempts")

REPORT_INTERVAL_S = 1.0


class Reports:
    """The host of a running attempt's `JobContext`. `stop` is called with a reason when the code has to stop."""

    def __init__(
        self,
        job: Versioned,
        store: Store,
        performer: Performer,
        lease: Lease,
        tracing: AttemptSpan,
        stop: Callable[[StopReason], None],
    ) -> None:
        record = job.record
        assert record is not None and record.token is not None
        self.job = job
        self.record: JobRecord = record
        self.token: Token = record.token
        self.progress: Progress | None = None
        self._store = store
        self._performer = performer
        self._lease = lease
        self._tracing = tracing
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._beaten_at = self._loop.time()
        self._storing = 0
        self._waking = False
        self._ended = False
        self._reporter: asyncio.Task[None] | None = None
        self._log: AttemptLog | None = None

    # --- made when they are needed, which in most jobs is never -------------------------------------------------------

    @functools.cached_property
    def _writing(self) -> asyncio.Lock:
        return asyncio.Lock()

    @functools.cached_property
    def _dirty(self) -> asyncio.Event:
        return asyncio.Event()

    # --- what the code reports ----------------------------------------------------------------------------------------

    def report(self, progress: Progress) -> None:
        """Any thread; the newest report is written when the last one's second is over."""
        self.progress = progress
        self._tracing.progress(progress)
        self.beat()
        if not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: a thread that was left behind reports
                self._loop.call_soon_threadsafe(self._wake_reporter)

    def beat(self) -> None:
        self._beaten_at = self._loop.time()

    @property
    def silent_s(self) -> float:
        """How long the code has not been heard of. While it waits for the server, the code is not silent."""
        return 0.0 if self._storing else self._loop.time() - self._beaten_at

    def log(self, line: Line) -> None:
        """Any thread; most jobs never log, and make nothing for it."""
        if self._log is None:
            with _first_line:
                if self._log is None:
                    self._log = AttemptLog(self._store, self.record, self._tracing.span, self._loop)
        self._log.add(line)

    async def checkpoint(self, text: str) -> None:
        """Durable when it returns; cancelled when the lease turns out to be lost."""
        self._storing += 1
        try:
            await self._checkpoint(text)
        finally:
            self._storing -= 1
            self.beat()

    async def slow_down(self, limit: str, seconds: float) -> None:
        """Holds for all when it returns."""
        until = self._store.connection.now() + seconds
        self._storing += 1
        try:
            await retry_while_away(partial(self._store.limits.hold_up, limit, until))
            await self._tell_if_undeclared(limit)
        finally:
            self._storing -= 1
            self.beat()

    async def _tell_if_undeclared(self, limit: str) -> None:
        with contextlib.suppress(TurnoutError):  # a mere remark
            if limit in undeclared(await self._store.limits.all(), self._store.connection.now()):
                logger.warning("slow_down: no worker has declared a limit %s, so that nothing heeds it", limit)

    async def _checkpoint(self, text: str) -> None:
        before = self.record.checkpoint
        body = await self.body(text, "checkpoint")
        if not await self._write(Reported(token=self.token, progress=self.progress, checkpoint=body)):
            raise asyncio.CancelledError
        self._tracing.checkpoint(body.size)
        if before is not None and before.ref is not None:
            with contextlib.suppress(TurnoutError):  # it is stored: what can't be cleared up is not the code's concern
                await self._store.payloads.delete(before)

    def end(self) -> None:
        """Nothing that comes from now on is written, and nothing here keeps the attempt in memory."""
        self._ended = True
        self._stop = _over
        if self._reporter is not None:
            self._reporter.cancel()
        if self._log is not None:
            self._log.end()

    def _wake_reporter(self) -> None:
        if not self._ended:
            self._dirty.set()
            if self._reporter is None:
                self._reporter = self._loop.create_task(self._report_forever())

    async def _report_forever(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._waking = False
            await self._write(Reported(token=self.token, progress=self.progress))
            await asyncio.sleep(REPORT_INTERVAL_S)

    # --- bodies -------------------------------------------------------------------------------------------------------

    async def text(self, body: Body) -> str:
        """What a body of the record says, wherever it lies."""
        if body.ref is None:
            return body.text or ""
        return await retry_while_away(lambda: self._store.payloads.get(body))

    async def body(self, text: str, what: str) -> Body:
        """A text as the record keeps it: inline, or in an object that is stored when this returns."""
        small = self._store.payloads.inline(text)
        if small is not None:
            return small
        return await retry_while_away(lambda: self._store.payloads.put(text, what, self.record.id))

    # --- the record ---------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Read the record again: somebody may have asked for a cancel, or have taken the job away."""
        async with self._writing:
            self.adopt(await retry_while_away(lambda: self._store.registry.load(self.record.activity, self.record.id)))

    def adopt(self, job: Versioned) -> None:
        """Go on from the record as somebody else has written it, if that is news."""
        if self._ended or job.revision <= self.job.revision:
            return
        if job.record is None or not job.record.owned_by(self.token):
            self._stop(LEASE_LOST)
            return
        self.job, self.record = job, job.record
        self._lease.revision = job.revision
        self.heed_cancel()

    def heed_cancel(self) -> None:
        """Stop if somebody has asked for it."""
        request = self.record.cancel_request
        if request is not None:
            self._stop(StopReason(Stop.cancelled, request))

    async def _write(self, event: Reported) -> bool:
        """Apply the event; False when the attempt is not ours any more."""
        async with self._writing:
            applied = await self._performer.apply(self.record.activity, self.record.id, event, self.job)
            if applied.abandoned:
                self._stop(LEASE_LOST)
                return False
            self.adopt(applied.job)
            return True


def _over(_: StopReason) -> None:
    """The code has ended: there is nothing to stop."""


_first_line = threading.Lock()
