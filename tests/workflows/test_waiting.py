"""What a workflow waits for, as everybody sees it: which attempt of an activity runs, on which line of the code."""

from __future__ import annotations

import asyncio

from tests.support.waiting import until
from turnout import Client, RetryPolicy, Waiting, Worker, activity, current_job, current_workflow, workflow


@activity(retry=RetryPolicy(max_attempts=3, delay=0.01, jitter=0))
async def holding(fails: int) -> None:
    """Work that is retried at once, and goes on until it is cancelled."""
    if current_job().attempt <= fails:
        raise ConnectionError("not yet")
    await asyncio.Event().wait()


@activity(retry=RetryPolicy(max_attempts=2, delay=90, jitter=0))
async def put_off() -> None:
    """Work whose second attempt is far away."""
    raise ConnectionError("much later")


@workflow
async def busy() -> None:
    wf = current_workflow()
    await asyncio.gather(
        holding(0),
        holding(2),
        put_off(),
        holding.options(delay=600)(0),
        asyncio.sleep(600),
        wf.receive("word", str),
        wf.wait_for(lambda: False),
    )


async def test_attempts_of_jobs_and_lines_are_shown(client: Client) -> None:
    """The attempt that runs, or was the last; none of what nobody has begun. Each has a line of the user's code, also a
    timer, a signal and a condition in a task of their own."""
    async with Worker(client, activities=[holding, put_off], workflows=[busy]):
        handle = await client.start(busy)

        async def attempts() -> list[Waiting] | None:
            waiting = (await handle.info()).waiting
            return waiting if [each.attempt for each in waiting[:2]] == [1, 3] and _put_off(waiting) else None

        waiting = await until(attempts)
        (listed,) = [info async for info in client.workflows()]
        await handle.terminate()
    by_name = {(each.kind, each.name): each for each in waiting}
    begun = by_name["activity", "put_off"]
    assert begun.due_at is not None
    assert begun.since is not None
    assert 80 < (begun.due_at - begun.since).total_seconds() < 110
    delayed = [each for each in waiting if each.name == "holding" and each.due_at is not None]
    assert [each.attempt for each in delayed] == [None]
    assert [each.kind for each in waiting].count("activity") == 4
    assert {each.kind for each in waiting} == {"activity", "timer", "signal", "condition"}
    assert all(each.code is not None and each.code.startswith("test_waiting.py:") for each in waiting)
    assert all(each.code is not None and each.code.endswith(" busy") for each in waiting)
    assert listed.waiting == waiting


def _put_off(waiting: list[Waiting]) -> bool:
    return any(each.name == "put_off" and each.attempt == 1 and each.due_at is not None for each in waiting)
