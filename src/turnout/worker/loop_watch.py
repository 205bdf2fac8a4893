"""Whether the worker's event loop is awake, and what the worker runs right now, with stacks."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Iterable
from types import FrameType
from typing import Any

from turnout.nats.boottime import boottime
from turnout.telemetry import metrics
from turnout.worker.attempt import Attempt

logger = logging.getLogger("turnout.worker")

AWAKE_EVERY_S = 0.25
BLOCKED_AFTER_S = 2.0
_LOOK_EVERY_S = 0.5
_DEPTH = 200


class LoopWatch:
    """Notes four times a second that the running event loop is awake; a thread warns of code that blocks it.

    The leases are kept meanwhile, by a thread of their own.
    """

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._awake_at = (boottime(), boottime())
        self._due = self._loop.time()
        self._ended = threading.Event()

    def start(self) -> None:
        self._due = self._loop.time()
        self._note()
        threading.Thread(target=self._watch, name="turnout-watch", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def asleep_s(self) -> float:
        """For how long what comes now may have lain here unread: since the last note but one (P9)."""
        return boottime() - self._awake_at[0]

    @property
    def blocked_s(self) -> float:
        """For how long the loop has not been awake, 0 as long as that is not worth mentioning. For any thread."""
        silent_s = boottime() - self._awake_at[1]
        return silent_s if silent_s > BLOCKED_AFTER_S else 0.0

    def _note(self) -> None:
        self._awake_at = (self._awake_at[1], boottime())
        metrics.woke(self._node_id, self._loop.time() - self._due)
        self._due = self._loop.time() + AWAKE_EVERY_S
        if not self._ended.is_set():
            self._loop.call_later(AWAKE_EVERY_S, self._note)

    def _watch(self) -> None:
        warned, looked_at = 0.0, boottime()
        while not self._ended.wait(_LOOK_EVERY_S) and not self._loop.is_closed():
            late_s, looked_at = boottime() - looked_at - _LOOK_EVERY_S, boottime()
            awake_at = self._awake_at[1]
            if late_s > BLOCKED_AFTER_S:  # no thread has run: the stack of this moment has nothing to do with it
                warned = awake_at
                logger.warning(
                    "the event loop has been blocked for %.1f s, and so has all of the process: code in C held the "
                    "interpreter (as a garbage collection among very many objects does), it was stopped, or had no CPU",
                    late_s,
                )
            elif self.blocked_s and awake_at != warned:
                warned = awake_at
                frame = sys._current_frames().get(self._thread_id)
                stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
                logger.warning(
                    "the event loop has been blocked for more than %g s; use a sync activity for such code. Stack:\n%s",
                    *(BLOCKED_AFTER_S, stack),
                )


def running(attempts: Iterable[Attempt]) -> str:
    """Every attempt with the stack of its code, then the stack of every thread. May be called from any thread."""
    parts = []
    for attempt in attempts:
        record = attempt.record
        reason = attempt.context.cancel_reason
        asked = f", asked to stop: {reason}" if reason is not None else ""
        parts.append(f"job {record.id} ({record.activity}) attempt {record.attempt}{asked}\n{_code(attempt)}")
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None:
            parts.append(f"thread {thread.name}\n{''.join(traceback.format_stack(frame)).rstrip()}")
    return "\n\n".join(parts)


def _code(attempt: Attempt) -> str:
    """The stack of an attempt's task, the outermost frame first. Sync code is among the threads, or another process."""
    task = attempt.code
    if task is None:
        return "  has not begun yet"
    if attempt.activity.settings.run_in == "thread":
        return "  runs in a thread: see below"
    if attempt.activity.settings.run_in == "process":
        return "  runs in a process of its own"
    frames = _frames(task)
    summary = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
    return "".join(summary.format()).rstrip() or "  is just beginning or ending"


def _frames(task: asyncio.Future[Any]) -> list[FrameType]:
    """The frames of what a task waits for, through all that awaits something else."""
    found: list[FrameType] = []
    inner: Any = task.get_coro() if isinstance(task, asyncio.Task) else None
    while inner is not None and len(found) < _DEPTH:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None) or getattr(inner, "ag_frame", None)
        if frame is not None:
            found.append(frame)
        inner = (
            getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None) or getattr(inner, "ag_await", None)
        )
    return found
