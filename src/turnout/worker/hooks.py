"""Calling hooks: beside the jobs, bounded in time and in number, whatever the hooks do."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from turnout.core.loglines import fields_of
from turnout.core.moments import Moment, moments
from turnout.core.values import JobRecord
from turnout.definition.activity import Activity
from turnout.definition.hooks import Hook, Hooks

logger = logging.getLogger("turnout.worker.hooks")

TIMEOUT_S = 10.0
"""How long one hook may take before it is left behind."""

THREADS = 16
"""How many sync hooks run at once; those that hang keep their place for as long as they do."""

PENDING = 1000
"""How many calls may wait; more are dropped."""

_CLOSING_S = 5.0

Describe = Callable[[JobRecord], Awaitable[object]]
"""Makes of a record what hooks are given."""


class HookCaller:
    """Calls the hooks of `activities`, and `hooks` for all of them. The moments of one job come one after the other.

    Made on the worker's loop, where async hooks run; `saved` is for any thread.
    """

    def __init__(
        self,
        activities: Mapping[str, Activity[..., Any]],
        hooks: Hooks,
        describe: Describe,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._of = {name: (each.settings, hooks) for name, each in activities.items()}
        self._describe = describe
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._last: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._threads = asyncio.Semaphore(THREADS)
        self._pending = 0

    def saved(self, before: JobRecord | None, after: JobRecord) -> None:
        """A record was written over another: call whoever wants to know. Never raises, never waits."""
        wanted = [
            (moment, hook)
            for moment in moments(before, after)
            for hooks in self._of.get(after.activity, ())
            if (hook := hooks.of(moment)) is not None
        ]
        if wanted:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._enqueue, after, wanted)

    async def close(self) -> None:
        """Wait a little for the calls that are under way; leave behind those that take longer."""
        tasks = list(self._last.values())
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=_CLOSING_S)
            for task in left:
                task.cancel()

    def _enqueue(self, record: JobRecord, wanted: list[tuple[Moment, Hook]]) -> None:
        if self._pending >= PENDING:
            logger.error(
                "job %s: %d hooks wait already, this call is dropped",
                *(record.id, self._pending),
                extra=fields_of(record),
            )
            return
        self._pending += 1
        key = (record.activity, record.id)
        task = self._loop.create_task(self._tell(record, wanted, self._last.get(key)))
        self._last[key] = task

        def forget(done: asyncio.Task[None]) -> None:
            self._pending -= 1
            if self._last.get(key) is done:
                del self._last[key]
            if not done.cancelled() and done.exception() is not None:
                logger.error(
                    "the hooks of job %s could not be called",
                    record.id,
                    exc_info=done.exception(),
                    extra=fields_of(record),
                )

        task.add_done_callback(forget)

    async def _tell(
        self, record: JobRecord, wanted: list[tuple[Moment, Hook]], before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        async with asyncio.timeout(self._timeout_s):
            info = await self._describe(record)
        for moment, hook in wanted:
            what = f"{moment.value} of job {record.id} ({getattr(hook, '__qualname__', hook)})"
            call = self._loop.create_task(self._call(hook, info))
            await asyncio.wait({call}, timeout=self._timeout_s)
            if not call.done():
                call.cancel()
                logger.error(
                    "%s is left behind: it took longer than %g s", what, self._timeout_s, extra=fields_of(record)
                )
                call.add_done_callback(_look)
            elif not call.cancelled() and (error := call.exception()) is not None:
                logger.error("%s has failed; the job goes on", what, exc_info=error, extra=fields_of(record))

    async def _call(self, hook: Hook, info: object) -> None:
        try:
            if inspect.iscoroutinefunction(hook):
                await _awaited(hook(info))
            else:
                await _awaited(await self._in_thread(hook, info))
        except SystemExit as error:
            raise RuntimeError(f"the hook called sys.exit({error.code!r})") from error

    async def _in_thread(self, hook: Hook, info: object) -> object:
        """A daemon thread for each call: one that hangs must not keep the process from ending."""
        await self._threads.acquire()
        done: asyncio.Future[object] = self._loop.create_future()

        def resolve(value: object, error: BaseException | None) -> None:
            self._threads.release()
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(value)

        def run() -> None:
            value, error = None, None
            try:
                value = hook(info)
            except Exception as caught:  # user code: what it raises is told by the caller
                error = caught
            except SystemExit as caught:
                error = RuntimeError(f"the hook called sys.exit({caught.code!r})")
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(resolve, value, error)

        threading.Thread(target=run, name="turnout-hook", daemon=True).start()
        return await done


async def _awaited(value: object) -> None:
    """A sync hook may return what is to be awaited: a lambda around an async one does."""
    if inspect.isawaitable(value):
        await value


def _look(call: asyncio.Task[None]) -> None:
    """What a hook that was left behind raises in the end is of no interest, and must not be reported as unseen."""
    if not call.cancelled():
        call.exception()
