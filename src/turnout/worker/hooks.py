"""Calling hooks: beside the jobs, bounded in time and in number, whatever the hooks do."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from turnout.core.changes import Change, Changes
from turnout.core.loglines import fields_of
from turnout.core.record import JobRecord
from turnout.definition.activity import Activity
from turnout.definition.hooks import Hook, Hooks
from turnout.worker.failure import is_ctrl_c

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
    """Calls the hooks of `activities`, and `hooks` for all of them. The calls of one job come one after the other.

    Made on the worker's loop, where async hooks run; `on_saved` is for any thread.
    """

    def __init__(self, activities: Mapping[str, Activity[..., Any]], hooks: Hooks, describe: Describe) -> None:
        self._of = {name: (each.settings, hooks) for name, each in activities.items()}
        self._describe = describe
        self._loop = asyncio.get_running_loop()
        self._last: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._threads = asyncio.Semaphore(THREADS)
        self._pending = 0

    def on_saved(self, record: JobRecord, changes: Changes) -> None:
        """Call the hooks for what a write of `record` means. It never raises and never waits."""
        wanted = [
            (change, hook)
            for change in changes.all
            for hooks in self._of.get(record.activity, ())
            if (hook := hooks.of(change)) is not None
        ]
        if wanted:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._enqueue, record, wanted)

    async def close(self) -> None:
        """Wait a little for the calls that are under way; leave behind those that take longer."""
        tasks = list(self._last.values())
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=_CLOSING_S)
            for task in left:
                task.cancel()

    def _enqueue(self, record: JobRecord, wanted: list[tuple[Change, Hook]]) -> None:
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
        self, record: JobRecord, wanted: list[tuple[Change, Hook]], before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        async with asyncio.timeout(TIMEOUT_S):
            info = await self._describe(record)
        for change, hook in wanted:
            what = f"the hook for `{change.value}` of job {record.id} ({getattr(hook, '__qualname__', hook)})"
            call = self._loop.create_task(self._call(hook, info))
            await asyncio.wait({call}, timeout=TIMEOUT_S)
            if not call.done():
                call.cancel()
                logger.error("%s is left behind: it took longer than %g s", what, TIMEOUT_S, extra=fields_of(record))
                call.add_done_callback(_look)
            elif not call.cancelled() and (error := call.exception()) is not None:
                logger.error("%s has failed; the job goes on", what, exc_info=error, extra=fields_of(record))

    async def _call(self, hook: Hook, info: object) -> None:
        try:
            if inspect.iscoroutinefunction(hook):
                await _awaited(hook(info))
            else:
                await _awaited(await self._in_thread(hook, info))
        except BaseException as error:  # user code: nothing that it raises may end the worker
            if isinstance(error, Exception | asyncio.CancelledError) or is_ctrl_c(error):
                raise
            raise RuntimeError(f"the hook raised {type(error).__qualname__}") from error

    async def _in_thread(self, hook: Hook, info: object) -> object:
        """A daemon thread for each call: one that hangs must not keep the process from ending."""
        await self._threads.acquire()
        done: asyncio.Future[object] = self._loop.create_future()

        def resolve(value: object, error: BaseException | None) -> None:
            self._threads.release()
            if done.cancelled():
                return
            if error is not None:
                # A future refuses a StopIteration, and the event loop would end by a KeyboardInterrupt.
                done.set_exception(HookFailed(error))
            else:
                done.set_result(value)

        def run() -> None:
            value, error = None, None
            try:
                value = hook(info)
            except BaseException as caught:  # user code: what it raises is logged by the caller
                error = caught
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(resolve, value, error)

        threading.Thread(target=run, name="turnout-hook", daemon=True).start()
        return await done


class HookFailed(Exception):
    """A hook that ran in a thread has raised; the cause is what it raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"the hook raised {type(error).__qualname__}")
        self.__cause__ = error


async def _awaited(value: object) -> None:
    """A sync hook may return what is to be awaited: a lambda around an async one does."""
    if inspect.isawaitable(value):
        await value


def _look(call: asyncio.Task[None]) -> None:
    """What a hook that was left behind raises in the end is of no interest, and must not be reported as unseen."""
    if not call.cancelled():
        call.exception()
