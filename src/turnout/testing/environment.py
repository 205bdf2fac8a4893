"""Run one activity without a server: for unit tests of its code."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from turnout.client.client import Client
from turnout.client.info import LogLine, log_line
from turnout.core.loglines import Line
from turnout.core.record import Progress
from turnout.definition.activity import Activity
from turnout.definition.codec import decode_as, encode_checkpoint
from turnout.worker.context import JobContext, JobFacts, entered

P = ParamSpec("P")
R = TypeVar("R")


async def _in_thread(call: Callable[[], Any]) -> Any:
    """What a plain function returns or raises, or what a plain wrapper around async code gives in the end."""

    def contained() -> tuple[Any, BaseException | None]:
        try:
            return call(), None
        except BaseException as error:  # raised again below: a future refuses a StopIteration, and never ends
            return None, error

    value, error = await asyncio.to_thread(contained)
    if error is not None:
        raise error
    return await value if inspect.isawaitable(value) else value


class ActivityEnvironment:
    """Runs an activity as a worker would run one attempt, and shows what it reported.

    `checkpoint` is what an earlier attempt left behind, `client` what `current_job().client` gives. `progress` and
    `checkpoints` list what the code reported, in order; `heartbeats` counts the calls of `heartbeat()`; `logs` lists
    the lines of `job.log` that a worker would keep, `slowed_down` limits and seconds of `slow_down()`.

        env = ActivityEnvironment(attempt=2, checkpoint=3)
        assert await env.run(audit, path="history.db") == "done"
        assert env.checkpoints[-1] == 10
    """

    def __init__(
        self,
        *,
        id: str = "test-job",
        attempt: int = 1,
        node: str = "test-node",
        labels: dict[str, str] | None = None,
        checkpoint: Any = None,
        client: Client | None = None,
    ) -> None:
        self.progress: list[Progress] = []
        self.heartbeats = 0
        self.logs: list[LogLine] = []
        self.slowed_down: list[tuple[str, float]] = []
        self._checkpoints: list[str] = []
        self._id, self._attempt, self._node, self._labels = id, attempt, node, labels or {}
        self._restored = None if checkpoint is None else encode_checkpoint(checkpoint)
        self._client = client
        self._context: JobContext | None = None
        self._code: asyncio.Future[Any] | None = None
        self._changed = asyncio.Event()

    @property
    def checkpoints(self) -> list[Any]:
        """Every checkpoint, as plain JSON values."""
        return [decode_as(text) for text in self._checkpoints]

    @overload
    async def run(self, activity: Activity[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, activity: Activity[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, activity: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run the activity to its end; raises what it raises.

        The arguments go through the payload's JSON and the result through the result's, as they would in a job. A sync
        activity runs in a thread, one with `run_in="process"` too.
        """
        facts = JobFacts(
            id=self._id,
            activity=activity.name,
            attempt=self._attempt,
            node=self._node,
            labels=self._labels,
            submitted_at=time.time(),
            restored=self._restored,
        )
        context = JobContext(facts, self, asyncio.get_running_loop())
        context.provide(self._client)
        arguments, keywords = activity.codec.decode(activity.codec.encode_arguments(args, kwargs))
        self._context = context
        with entered(context):
            if activity.is_async:
                code: asyncio.Future[Any] = asyncio.ensure_future(activity.fn(*arguments, **keywords))
            else:
                inside = contextvars.copy_context()
                call = functools.partial(inside.run, activity.fn, *arguments, **keywords)
                code = asyncio.ensure_future(_in_thread(call))
            self._code = code
        value = await code
        return activity.codec.decode_result(activity.codec.encode_result(value))

    def cancel(self, reason: str = "cancelled: by the test") -> None:
        """Ask the code to stop, as a worker would: async code sees CancelledError, sync code `job.cancelled()`."""
        if self._context is None or self._code is None:
            raise RuntimeError("cancel() needs a running activity: start run() as a task first")
        self._context.ask_to_stop(reason)
        if not self._code.done():
            self._code.get_loop().call_soon_threadsafe(self._code.cancel)

    async def wait_progress(self, count: int = 1) -> Progress:
        """Wait until the code has reported progress `count` times; the report of that number."""
        while len(self.progress) < count:
            self._changed.clear()
            await self._changed.wait()
        return self.progress[count - 1]

    # --- the context's host -------------------------------------------------------------------------------------------

    def report(self, progress: Progress) -> None:
        self.progress.append(progress)
        if self._code is not None:
            self._code.get_loop().call_soon_threadsafe(self._changed.set)
        else:
            self._changed.set()

    def beat(self) -> None:
        self.heartbeats += 1

    def log(self, line: Line) -> None:
        self.logs.append(log_line(line))

    async def checkpoint(self, text: str) -> None:
        self._checkpoints.append(text)

    async def slow_down(self, limit: str, seconds: float) -> None:
        self.slowed_down.append((limit, seconds))
