"""Activities that end in every way a job can end, and workflows: one waits for a word, one has a bug."""

import asyncio
import time
from typing import Any

from turnout import Limit, RetryPolicy, activity, current_job, current_workflow, workflow


@activity(lease=2)
async def add(a: int, b: int = 0) -> int:
    """Complete."""
    return a + b


@activity(lease=2, retry=RetryPolicy(max_attempts=2, delay=0.1))
async def fail() -> None:
    """Fail twice, and be faulted."""
    raise ValueError("as ever")


@activity(lease=2, limits=[Limit("stays", concurrency=5)])
async def stay() -> None:
    """Stay until it is cancelled, or its node dies; the next attempt completes."""
    if current_job().attempt == 1:
        await asyncio.sleep(3600)


@activity(lease=2)
async def block(seconds: float) -> None:
    """Block the event loop."""
    time.sleep(seconds)


@activity(lease=2)
async def summarize(ended: list[dict[str, Any]]) -> int:
    """Follow a group."""
    return len(ended)


@workflow
async def listening() -> str:
    """Wait for a word, and give it back."""
    word: str = await current_workflow().receive("word", str)
    return word


@workflow
async def broken() -> None:
    """Raise what no workflow ends by."""
    raise RuntimeError("a bug")


@workflow
class Counting:
    """Answer."""

    @workflow.run
    async def run(self) -> None:
        await current_workflow().receive("end")

    @workflow.query
    def total(self) -> int:
        return 1

    @workflow.update
    def add(self) -> int:
        return 1
