"""What the crash suite's workers run."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from turnout import RetryPolicy, activity, current_job

ONCE = RetryPolicy.none()


@activity(lease=30, retry=ONCE)
async def steps(path: str, count: int, pause: float = 0.1) -> int:
    """Appends a line for each step it has done; goes on from its checkpoint; returns the attempt that ended it."""
    job = current_job()
    done = job.restored(int) or 0
    while done < count:
        await asyncio.sleep(pause)
        with Path(path).open("a") as lines:
            lines.write(f"{done} {job.attempt} {job.node}\n")
        done += 1
        job.progress(done, count)
        await job.checkpoint(done)
    return job.attempt


@activity(lease=30, retry=ONCE)
async def wait_for(path: str, notes: str) -> str:
    """Waits until a file is there, and notes why it was stopped if it was."""
    job = current_job()
    job.progress(job.attempt)
    try:
        while not await asyncio.to_thread(Path(path).exists):  # noqa: ASYNC110 (a file has no event)
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        with Path(notes).open("a") as lines:
            lines.write(f"{job.attempt} {job.node} {job.cancel_reason}\n")
        raise
    return job.node


@activity(lease=2, retry=ONCE, max_lost=2)
async def poison() -> None:
    """Kills the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


@activity(lease=2, retry=RetryPolicy(max_attempts=4, delay=0.1))
async def flaky(n: int, pause: float = 0.0) -> int:
    """Fails at its first attempt when `n` is a multiple of five."""
    await asyncio.sleep(pause)
    if n % 5 == 0 and current_job().attempt == 1:
        raise ValueError("the first time")
    return n
