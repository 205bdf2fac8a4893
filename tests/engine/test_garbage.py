"""What a job was made of goes with its end: the garbage collector, whose turns cost all jobs, has nothing to find."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.waiting import until
from turnout import Client, JobFaulted, RetryPolicy, Worker, activity, workflow
from turnout.client.notices import Notices
from turnout.worker.attempt import Attempt
from turnout.worker.context import JobContext
from turnout.worker.reports import Reports

MANY = 20


@activity
async def good(n: int) -> int:
    return n


@activity
def sync(n: int) -> int:
    return n


@activity(retry=RetryPolicy(max_attempts=1))
async def bad(n: int) -> int:
    raise ValueError(str(n))


@workflow
class Steps:
    @workflow.run
    async def run(self, n: int) -> int:
        return await good(n) + await good(n)


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def failed(client: Client, n: int) -> None:
    with pytest.raises(JobFaulted):
        await (await client.submit(bad, n=n)).result()


@pytest.mark.usefixtures("uncollected")
async def test_nothing_of_an_ended_job_waits_for_the_collector(turnout_client: Client) -> None:
    """Neither where it has failed, nor where it was a workflow's, nor of those who have waited for its result."""
    async with Worker(turnout_client, activities=[good, sync, bad], workflows=[Steps]):
        for n in range(MANY):
            assert await (await turnout_client.submit(good, n=n)).result() == n
            assert await (await turnout_client.submit(sync, n=n)).result() == n
            await failed(turnout_client, n)
            assert await (await turnout_client.start(Steps.run, n)).result() == 2 * n
    with contextlib.suppress(TimeoutError):  # a timer lets go of what it was set by when it is due; a cycle never does
        await until(nothing_left)
    assert left() == {}


def left() -> Counter[str]:
    kinds = (Attempt, Reports, JobContext, Notices)
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds))


async def nothing_left() -> bool:
    return not left()
