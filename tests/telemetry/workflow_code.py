"""Workflows whose trace is looked at, in worker processes."""

from __future__ import annotations

import asyncio
import logging

from turnout import RetryPolicy, activity, current_job, current_workflow, workflow

log = logging.getLogger("program")
strides = logging.getLogger("strides")


@activity(retry=RetryPolicy(max_attempts=2, delay=0.05))
async def walk(km: int) -> int:
    current_job().log.info("%d km", km)
    strides.info("a line of a library's")
    if current_job().attempt == 1 and km == 2:
        raise ValueError("a stone in the shoe")
    return km


@workflow
async def leg(km: int) -> int:
    return await walk(km)


@workflow
async def trip(run: int = 1) -> int:
    """Walks, rests, waits for a word, and walks the second half as a new run with two legs."""
    wf = current_workflow()
    if run == 2:
        return sum(await asyncio.gather(leg(3), leg(4)))
    wf.log.info("sets out")
    log.info("a line of the program's own")
    await walk(1)
    await walk.options(local=True)(2)
    await asyncio.sleep(0.3)
    await walk(2)
    await wf.receive("go", str)
    wf.log.info("goes on")
    return wf.continue_as_new(run=2)
