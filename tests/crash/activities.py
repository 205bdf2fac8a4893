"""What the crash suite's workers run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import time
from pathlib import Path
from typing import Any

from turnout import CompleteLater, Fatal, Limit, RetryLater, RetryPolicy, Snooze, activity, current_job

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
        while not await asyncio.to_thread(Path(path).exists):
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        with Path(notes).open("a") as lines:
            lines.write(f"{job.attempt} {job.node} {job.cancel_reason}\n")
        raise
    return job.node


async def act(end: str, gate: str, cleanup: float) -> int:
    """Waits for its gate, then ends as told; failures are of the first attempt only.

    The gate is a file, if there is to be one, or one of the same name with `-` and the attempt's number. `cleanup`: how
    many seconds it cleans up at most, until there is a file of the same name with `-clean`.
    """
    job = current_job()
    gates = [Path(gate), Path(f"{gate}-{job.attempt}")] if gate else []
    try:
        while gates and not any(each.exists() for each in gates):
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        if cleanup:
            Path(f"{gate}-cleaning").touch()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(cleanup):
                    while not Path(f"{gate}-clean").exists():
                        await asyncio.sleep(0.05)
        raise
    if end == "report":
        await job.checkpoint(job.attempt)
    if end == "snooze" and job.restored(int) is None:
        await job.checkpoint(job.attempt)
        raise Snooze(1.0)
    if end == "later":
        raise CompleteLater
    if end == "fail" and job.attempt == 1:
        raise ValueError("the first time")
    if end == "fatal" and job.attempt == 1:
        raise Fatal("the first time")
    return job.attempt


@activity(lease=2, retry=RetryPolicy(max_attempts=2, delay=10, jitter=0))
async def play(end: str = "return", gate: str = "", cleanup: float = 0) -> int:
    """A part in a scene; returns the attempt that ended it."""
    return await act(end, gate, cleanup)


@activity(lease=30, retry=RetryPolicy(max_attempts=2, delay=1, jitter=0))
async def play_long(end: str = "return", gate: str = "", cleanup: float = 0) -> int:
    """The same with a lease so long that the node does not look after its job by itself."""
    return await act(end, gate, cleanup)


@activity(lease=2, retry=ONCE, max_lost=0)
async def play_once(end: str = "return", gate: str = "", cleanup: float = 0) -> int:
    """The same, and no loss is forgiven."""
    return await act(end, gate, cleanup)


@activity(
    lease=2, retry=RetryPolicy(max_attempts=2, delay=1, jitter=0), limits=[Limit("crash", concurrency=1, rate=50)]
)
async def play_limited(end: str = "return", gate: str = "", cleanup: float = 0) -> int:
    """The same, one at a time over all nodes."""
    return await act(end, gate, cleanup)


@activity(lease=2, retry=ONCE)
async def count_ends(ended: list[dict[str, Any]]) -> int:
    """What follows a group: how many have ended."""
    return len(ended)


@activity(lease=2, retry=ONCE, max_lost=2)
async def poison() -> None:
    """Kills the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


@activity(lease=30, retry=ONCE, max_lost=2)
async def bystand(gate: str) -> int:
    """Waits until a file is there, beside whatever else the node runs; returns the attempt that ended it."""
    while not Path(gate).exists():
        await asyncio.sleep(0.05)
    return current_job().attempt


@activity(lease=2, retry=RetryPolicy(max_attempts=4, delay=0.1), max_lost=100)
async def flaky(n: int, pause: float = 0.0) -> int:
    """Fails at its first attempt when `n` is a multiple of five."""
    await asyncio.sleep(pause)
    if n % 5 == 0 and current_job().attempt == 1:
        raise ValueError("the first time")
    return n


@activity(lease=5, retry=RetryPolicy(max_attempts=3, delay=0.1), max_lost=100)
async def stroll(count: int, pause: float = 0.1) -> int:
    """Takes its time, with a checkpoint at every step; returns how many steps were done in all attempts together."""
    job = current_job()
    done = job.restored(int) or 0
    while done < count:
        await asyncio.sleep(pause)
        done += 1
        await job.checkpoint(done)
    return done


@activity(lease=5, retry=ONCE, max_lost=100)
async def doomed(pause: float = 0.0) -> None:
    """Fails, whatever happens."""
    await asyncio.sleep(pause)
    raise RuntimeError("doomed")


@activity(lease=5, retry=ONCE)
async def bulky(gate: str, size: int) -> str:
    """Waits for the gate, then stores a checkpoint and a result that both need the object store."""
    job = current_job()
    job.progress(job.attempt)
    while not Path(gate).exists():
        await asyncio.sleep(0.05)
    await job.checkpoint("c" * size)
    return "r" * size


@activity(lease=2, retry=ONCE)
async def tells(count: int, until: int = 1, pause: float = 0.05) -> int:
    """JobLogs a line at every step; an attempt before `until` never ends by itself."""
    job = current_job()
    for n in range(count):
        job.log.info("line %d", n)
        await asyncio.sleep(pause)
        if job.attempt >= until:
            break
    else:
        await asyncio.sleep(3600)
    return job.attempt


@activity(lease=600, retry=ONCE)
async def quick(n: int = 0) -> int:
    """Is done at once. With this lease nothing brings it back by itself while somebody waits for it."""
    return n


@activity(lease=600, retry=RetryPolicy(max_attempts=2, delay=2, jitter=0))
async def fails_at(instant: float) -> int:
    """Fails at that instant, by the wall clock, at its first attempt."""
    if current_job().attempt == 1:
        await asyncio.sleep(max(instant - time.time(), 0))
        raise ValueError("the first time")
    return current_job().attempt


@activity(lease=300, retry=RetryPolicy(max_attempts=3))
async def put_off(n: int) -> None:
    """Fails, and is tried again in an hour."""
    raise RetryLater(3600, f"the third party is away from {n}")


@functools.cache
def many(count: int) -> list[Any]:
    """So many activities that do the same: one in seven jobs fails at its first attempt; each returns its number."""

    async def run(n: int) -> int:
        await asyncio.sleep(0.05)
        if n % 7 == 0 and current_job().attempt == 1:
            raise ValueError("the first time")
        return n

    policy = RetryPolicy(max_attempts=3, delay=0.5)
    return [activity(name=f"many_{n:02}", lease=5, retry=policy, max_lost=100)(run) for n in range(count)]


EVERY = (
    steps,
    wait_for,
    poison,
    bystand,
    flaky,
    play,
    play_long,
    play_once,
    play_limited,
    put_off,
    stroll,
    doomed,
    bulky,
    tells,
    quick,
    fails_at,
    count_ends,
)
