"""Running the activity's function: on the event loop, in a thread, or in a child process."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable
from typing import Any

from turnout.core.failure import Failure, FaultReason
from turnout.definition.activity import Activity
from turnout.definition.plain_json import PayloadProblem
from turnout.errors import InvalidArguments, InvalidValue
from turnout.worker.context import Host, JobContext
from turnout.worker.failure import CodeFailed, InvalidResult, Redact, describe, is_ctrl_c, redacted
from turnout.worker.process.parent import ChildCall, run_in_child
from turnout.worker.threads import DaemonThreads

LEFT_BEHIND = 1000
"""How many threads that did not stop when asked may stay behind before they take the place of jobs that run."""

LARGE_CHARS = 256 * 1024
"""Payloads and results from this size on are converted in a thread, so that the event loop goes on meanwhile."""


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class CodeRunner:
    """Runs code for attempts; owns the threads that sync activities run in.

    `redact` edits the message and the traceback of whatever the code raises, before anybody else sees them.
    """

    def __init__(self, threads: int, redact: Redact | None = None) -> None:
        self._threads = DaemonThreads(threads + LEFT_BEHIND, "turnout-job")
        self._redact = redact

    def close(self) -> None:
        """Threads that are still busy are left to themselves; they end with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, activity: Activity[..., Any], context: JobContext, host: Host, payload: str) -> str:
        """The result's text. CodeFailed for whatever the code raises, and for a payload or result that doesn't fit."""
        try:
            if activity.settings.run_in == "process":
                return await _in_child(activity, context, host, payload)
            small = len(payload) < LARGE_CHARS
            args, kwargs = _decoded(activity, payload) if small else await self._decoded_in_thread(activity, payload)
            if activity.is_async:
                return _encoded(activity, await activity.fn(*args, **kwargs))
            return await self._in_thread(activity, args, kwargs)
        except asyncio.CancelledError:
            raise
        except CodeFailed as error:
            failure = error.failure
        except BaseException as error:  # user code: nothing that it raises may end the worker
            if is_ctrl_c(error):
                raise
            failure = describe(error)
        raise CodeFailed(redacted(failure, self._redact))

    async def _decoded_in_thread(self, activity: Activity[..., Any], payload: str) -> Arguments:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _decoded, activity, payload)

    async def _in_thread(self, activity: Activity[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        context = contextvars.copy_context()

        def call() -> str | Awaitable[Any] | Failure:
            """Returns what the code raises: a future refuses a StopIteration, and would never be done."""
            try:
                value = context.run(activity.fn, *args, **kwargs)
                return value if inspect.isawaitable(value) else _encoded(activity, value)
            except CodeFailed as error:
                return error.failure
            except BaseException as error:  # user code: nothing that it raises may end the worker
                return describe(error)

        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            outcome = await asyncio.shield(future)
        except asyncio.CancelledError:
            # A thread can't be stopped: it was asked to (cancelled(), wait_cancelled()), and what it answers counts.
            outcome = await future
            if inspect.iscoroutine(outcome):
                outcome.close()
                raise
        match outcome:
            case str():
                return outcome
            case Failure():
                raise CodeFailed(outcome)
            case _:  # a plain wrapper around async code
                return _encoded(activity, await outcome)


def _decoded(activity: Activity[..., Any], payload: str) -> Arguments:
    try:
        return activity.codec.decode(payload)
    except PayloadProblem as error:
        raise CodeFailed(describe(error, FaultReason.invalid_payload)) from None


async def _in_child(activity: Activity[..., Any], context: JobContext, host: Host, payload: str) -> str:
    call = ChildCall(activity=activity, payload=payload, facts=context.facts)
    result = await run_in_child(call, host, reason=lambda: context.cancel_reason)
    if result.failure is not None:
        raise CodeFailed(result.failure)
    return result.text or "null"


def _encoded(activity: Activity[..., Any], value: Any) -> str:
    try:
        return activity.codec.encode_result(value)
    except (InvalidValue, InvalidArguments) as error:
        problem = InvalidResult(f"the result of {activity.name} can't be stored: {error}")
        raise CodeFailed(describe(problem, FaultReason.invalid_result)) from None
