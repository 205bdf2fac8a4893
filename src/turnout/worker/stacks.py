"""What a worker runs right now, with stacks: for the log of somebody who wonders why nothing moves."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterable
from types import FrameType
from typing import Any

from turnout.worker.attempt import Attempt

_DEPTH = 200


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
