"""Running the activity's function: on the event loop, in a thread, or in a child process."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from turnout.definition.activity import Activity
from turnout.errors import InvalidArguments, InvalidValue
from turnout.worker.attempt import Attempt, ChildError, InvalidResult
from turnout.worker.process import ChildCall, run_in_child

LEFT_BEHIND = 1000
"""How many threads that did not stop when asked may stay behind before they take the place of jobs that run."""


class CodeRunner:
    """Runs code for attempts; owns the threads that sync activities run in."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(max_workers=threads + LEFT_BEHIND, thread_name_prefix="turnout-job")

    def close(self) -> None:
        """Threads that are still busy are left to themselves; they end with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, attempt: Attempt, payload: str) -> str:
        """The result's text. Raises what the code raises, PayloadProblem, or InvalidResult."""
        activity = attempt.activity
        if activity.settings.run_in == "process":
            return await _in_child(attempt, payload)
        args, kwargs = activity.codec.decode(payload)
        if activity.is_async:
            return _encoded(activity, await activity.fn(*args, **kwargs))
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()

        def call() -> str:
            return _encoded(activity, context.run(activity.fn, *args, **kwargs))

        future = loop.run_in_executor(self._threads, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # A thread can't be stopped: it was asked to (cancelled(), wait_cancelled()), and what it answers counts.
            return await future


async def _in_child(attempt: Attempt, payload: str) -> str:
    call = ChildCall(activity=attempt.activity, payload=payload, facts=attempt.context.facts)
    result = await run_in_child(call, attempt, reason=lambda: attempt.context.cancel_reason)
    if result.failure is not None:
        raise ChildError(result.failure)
    return result.text or "null"


def _encoded(activity: Activity[..., Any], value: Any) -> str:
    try:
        return activity.codec.encode_result(value)
    except (InvalidValue, InvalidArguments) as error:
        raise InvalidResult(f"the result of {activity.name} can't be stored: {error}") from error
