"""One local activity: attempt after attempt in this process, in place, until it has ended (W15).

What follows from the end of an attempt is decided as for jobs, in turnout.core.ends. Nothing of it is stored here: who
runs it is told of the attempts that failed, and gets its end.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from opentelemetry import context as context_api

from turnout.core.ends import AttemptEnd, after_end, cancel
from turnout.core.events import Aborted, Cancelled, Completed, Failed, Snoozed
from turnout.core.evolve import evolve
from turnout.core.failure import NODE_STOPPING, TIMED_OUT, ErrorInfo, Failure, FaultReason, Stop, StopReason
from turnout.core.loglines import Line
from turnout.core.record import ATTEMPTS_KEPT, AttemptRecord, JobRecord, JobState, Progress, Token
from turnout.core.retry import mro_names
from turnout.core.spec import NO_OPTIONS, Body, JobSpec
from turnout.core.workflows.jobs import command_span_id_of, ending_of_job
from turnout.core.workflows.values import Command, Ending, EndKind, key_of
from turnout.definition.activity import Activity
from turnout.errors import InvalidValue, NotInJob, TurnoutError
from turnout.nats.clock import Alarm
from turnout.store.payloads import Payloads, life_owner
from turnout.store.perform import Store
from turnout.telemetry import propagation
from turnout.worker.attempt import CLEANUP_S
from turnout.worker.code import CodeRunner
from turnout.worker.context import JobContext, JobFacts, entered
from turnout.worker.failure import CodeFailed, Redact, describe

logger = logging.getLogger("turnout.workflow")

THREADS = 32
"""How many threads there are for local activities that are no coroutines, beside those for code that is left behind.

Those are taken as well while they are free, and nothing else bounds how many run at once.
"""

_TIMEOUT_MRO = mro_names(TimeoutError())


@attrs.frozen(kw_only=True)
class RunFacts:
    """The run of a workflow that asks for it, and the trace that it is in; `flags` are the trace's."""

    id: str
    name: str
    life: str
    run: int
    trace_id: str = ""
    flags: str = "01"


@attrs.frozen(kw_only=True)
class Surroundings:
    """What local activities need of the node that they run on. `sleep` waits between attempts, `later` ends them."""

    node: str
    code: CodeRunner
    payloads: Payloads
    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    later: Callable[..., Alarm]
    hold_up: Callable[[str, float], Awaitable[None]]
    client: Any = None


def surroundings(
    store: Store, node: str, redact: Redact | None, sleep: Callable[[float], Awaitable[None]], client: Any
) -> Surroundings:
    """Those of a node, with threads of its own for local activities."""
    return Surroundings(
        node=node,
        code=CodeRunner(THREADS, redact),
        payloads=store.payloads,
        now=store.connection.now,
        sleep=sleep,
        later=store.connection.later,
        hold_up=store.limits.hold_up,
        client=client,
    )


class LocalActivity:
    """Runs one local activity; the host of what its code sees of it."""

    def __init__(
        self,
        activity: Activity[..., Any],
        command: Command,
        of: RunFacts,
        around: Surroundings,
        tried: JobRecord | None = None,
    ) -> None:
        self._activity = activity
        self._command = command
        self._of = of
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._record = tried or self._unbegun()
        self._span_id = command_span_id_of(of.life, of.run, command.id) if of.trace_id else ""
        self._token = Token(around.node, 1, 0, "")
        self._reason: StopReason | None = None
        self._timeout_message = ""
        self._context: JobContext | None = None
        self._code: asyncio.Task[str] | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()  # an attempt has its own
        self._timers: list[Alarm] = []
        self._nap: asyncio.Future[None] | None = None
        self._beaten_at = 0.0

    def _unbegun(self) -> JobRecord:
        of, command = self._of, self._command
        spec = JobSpec(
            id=key_of(of.id, of.life, of.run, command.id),
            activity=command.name,
            submitted_at=command.since,
            options=command.job or NO_OPTIONS,
            trace_id=of.trace_id,
        )
        return JobRecord(spec, JobState.queued, rules=self._activity.rules)

    @property
    def asleep(self) -> bool:
        """Whether it only waits for its next attempt."""
        return self._nap is not None and not self._nap.done()

    # --- its life -----------------------------------------------------------------------------------------------------

    async def run(self, on_retry: Callable[[JobRecord], None]) -> Ending | None:
        """How it has ended; None when this node stops before that. `on_retry` is told of each that failed before."""
        now = self._around.now
        await self._rest()
        while self._reason is None:
            self._record = self._begun()
            end = await self._attempt()
            if isinstance(end, Completed):  # a result counts, whatever else was asked for: nothing more is told of it
                return Ending(EndKind.completed, result=end.result)
            self._record = after_end(self._record, end)
            if self._record.state.final:
                return ending_of_job(self._record)
            if self._reason is None:
                on_retry(self._record)
                await self._rest()
        if self._record.cancel_request is None:
            return None
        return ending_of_job(cancel(self._record, now(), None))

    async def _rest(self) -> None:
        """Wait until the next attempt is due, or somebody asks for the end."""
        due = self._record.due_at
        if due is None or self._reason is not None:
            return
        self._nap = asyncio.ensure_future(self._around.sleep(max(due - self._around.now(), 0.0)))
        await asyncio.wait([self._nap])
        self._nap = None

    def _begun(self) -> JobRecord:
        record, now = self._record, self._around.now()
        number = record.attempt + 1
        attempt = AttemptRecord(number, record.generation, self._around.node, started_at=now)
        return evolve(
            record,
            state=JobState.running,
            attempt=number,
            attempts=(*record.attempts, attempt)[-ATTEMPTS_KEPT:],
            started_at=record.started_at or now,
            due_at=None,
        )

    async def _attempt(self) -> AttemptEnd:
        try:
            payload = await self._around.payloads.get(self._command.body)
        except TurnoutError as error:
            return self._failed(describe(error))
        context = self._context = self._new_context()
        self._over, self._timers = self._loop.create_future(), []
        self._beat()
        traced = context_api.attach(self._parent())
        try:
            with entered(context):
                self._code = self._loop.create_task(self._contained(context, payload, self._over))
        finally:
            context_api.detach(traced)
        self._start_timers()
        if self._reason is not None:  # asked while the payload was fetched
            self.stop(self._reason)
        try:
            await self._over
        finally:
            for timer in self._timers:
                timer.cancel()
        if self._code.done():
            context.end()
        return await self._outcome(self._code)

    async def _contained(self, context: JobContext, payload: str, over: asyncio.Future[None]) -> str:
        try:
            return await self._around.code.run(self._activity, context, self, payload)
        finally:
            _end_wait(over)

    def _new_context(self) -> JobContext:
        record = self._record
        facts = JobFacts(
            id=record.id,
            activity=record.activity,
            attempt=record.attempt,
            node=self._around.node,
            submitted_at=record.spec.submitted_at,
            trace_id=record.spec.trace_id,
            span_id=self._span_id,
            workflow=self._of.id,
            workflow_name=self._of.name,
            workflow_run=self._of.run,
        )
        context = JobContext(facts, self, self._loop)
        if self._around.client is not None:
            context.provide(self._around.client)
        return context

    def _parent(self) -> context_api.Context:
        """The span of this local activity, which is told when its end is recorded."""
        of = self._of
        if not of.trace_id:
            return context_api.get_current()
        return propagation.below(of.trace_id, self._span_id, of.flags)

    # --- how an attempt ends ------------------------------------------------------------------------------------------

    async def _outcome(self, code: asyncio.Task[str]) -> AttemptEnd:
        if not code.done():
            logger.warning(
                "local activity %s of workflow %s did not stop within %g s of being asked to (%s); it is left behind",
                *(self._record.activity, self._of.id, CLEANUP_S, self._reason or TIMED_OUT),
            )
            return self._stopped()
        if code.cancelled():
            return self._stopped()
        error = code.exception()
        if error is not None:
            return self._stopped() if self._asked is not None else self._raised(error)
        if self._timeout_message:
            return self._stopped()
        try:
            body = await self._body(code.result())
        except InvalidValue as problem:
            return self._failed(describe(problem, FaultReason.invalid_result))
        except TurnoutError as problem:
            return self._failed(describe(problem))
        return Completed(token=self._token, now=self._around.now(), result=body)

    @property
    def _asked(self) -> StopReason | None:
        return TIMED_OUT if self._timeout_message else self._reason

    async def _body(self, text: str) -> Body:
        inline = self._around.payloads.inline(text)
        if inline is not None:
            return inline
        body = await self._around.payloads.put(text, "input", life_owner(self._of.id, self._of.life))
        return Body(text=text, ref=body.ref, size=body.size)

    def _stopped(self) -> AttemptEnd:
        """A cancellation that nobody asked for is a failure."""
        asked, now = self._asked, self._around.now()
        if asked is None:
            return self._raised(asyncio.CancelledError())
        if asked is TIMED_OUT:
            error = ErrorInfo("TimeoutError", self._timeout_message)
            self._timeout_message = ""
            return self._failed(Failure(error, _TIMEOUT_MRO, timed_out=True))
        if asked.stop is Stop.cancelled:
            return Cancelled(token=self._token, now=now)
        return Aborted(token=self._token, now=now)

    def _raised(self, error: BaseException) -> AttemptEnd:
        failure = error.failure if isinstance(error, CodeFailed) else describe(error)
        if failure.deferred:
            message = "a local activity can't be completed from outside: call it without local=True"
            return self._failed(Failure(ErrorInfo("CompleteLater", message), failure.mro, FaultReason.fatal))
        if failure.snoozed and failure.retry_after is not None:
            now, message = self._around.now(), failure.error.message
            return Snoozed(token=self._token, now=now, delay_s=failure.retry_after, message=message)
        return self._failed(failure)

    def _failed(self, failure: Failure) -> Failed:
        return Failed(token=self._token, now=self._around.now(), failure=failure, u=random.random())

    # --- stopping -----------------------------------------------------------------------------------------------------

    def stop(self, reason: StopReason) -> None:
        """Ask for the end: of the code, or of the wait for its next attempt."""
        self._reason = reason
        if reason.stop is Stop.cancelled and self._record.cancel_request is None:
            self._record = evolve(self._record, cancel_request=reason.detail)
        if self._nap is not None:
            self._nap.cancel()
        self._ask_code(reason)

    def leave(self) -> None:
        """Nobody waits for it any more, and it goes on: the attempt that runs is the last one."""
        if self.asleep:
            self.stop(NODE_STOPPING)
        else:
            self._record = evolve(self._record, cancel_request="")

    def _ask_code(self, reason: StopReason) -> None:
        if self._code is not None and not self._code.done() and self._context is not None:
            self._context.ask_to_stop(str(reason))
            self._code.cancel()
            self._timers.append(self._loop.call_later(CLEANUP_S, _end_wait, self._over))

    def _start_timers(self) -> None:
        settings = self._activity.settings
        timeout = self._record.spec.options.timeout or settings.timeout
        if timeout is not None:
            message = f"the attempt took longer than {timeout:g} s"
            self._timers.append(self._around.later(timeout, self._time_out, message))
        if settings.heartbeat_timeout is not None:
            self._watch_heart(settings.heartbeat_timeout, self._over)

    def _watch_heart(self, limit_s: float, over: asyncio.Future[None]) -> None:
        if over.done():
            return
        silent_s = self._loop.time() - self._beaten_at
        if silent_s >= limit_s:
            self._time_out(f"no heartbeat or progress for {limit_s:g} s")
        else:
            self._loop.call_later(limit_s - silent_s, self._watch_heart, limit_s, over)

    def _time_out(self, message: str) -> None:
        if self._asked is None:
            self._timeout_message = message
            self._ask_code(TIMED_OUT)

    # --- what its code says (turnout.worker.context.Host) -------------------------------------------------------------

    def report(self, progress: Progress) -> None:
        """Nobody is shown it, but the code is alive."""
        self._beat()

    def beat(self) -> None:
        """Any thread."""
        self._beat()

    def _beat(self) -> None:
        self._beaten_at = self._loop.time()

    def log(self, line: Line) -> None:
        """There is no job that the line could be kept with; the program's own logging has it."""

    async def checkpoint(self, text: str) -> None:
        """Refused: a local activity is short."""
        raise NotInJob("a local activity keeps no checkpoint, it is for short calls: call it without local=True")

    async def slow_down(self, limit: str, seconds: float) -> None:
        """Holds for all when it returns."""
        await self._around.hold_up(limit, self._around.now() + seconds)
        self._beat()


def _end_wait(over: asyncio.Future[None]) -> None:
    """The code of an attempt has ended, or is left behind."""
    if not over.done():
        over.set_result(None)
