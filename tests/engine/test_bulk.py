"""Acting on all jobs that match a filter, from a program."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from turnout import Client, Fatal, JobNotFound, JobState, activity
from turnout.nats.connection import Connection
from turnout.nats.stream import kv_stream
from turnout.testing.fixtures import WorkerFactory

fixed = asyncio.Event()


@activity
async def wait_for_it() -> str:
    await asyncio.Event().wait()
    return "never"


@activity
async def fail(kind: str) -> str:
    if fixed.is_set():
        return "fixed"
    raise {"fatal": Fatal, "key": _Missing}[kind](kind)


class _Missing(Fatal):
    """Another class of errors."""


@pytest.fixture(autouse=True)
def broken() -> None:
    fixed.clear()


async def test_a_cancel_looks_no_more_than_it_has_to(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the record and the message, whether it is overdue, then to decide, and at the message that it removes. Whoever
    cancels twenty thousand waits for all of these."""
    asked: list[str] = []
    get = Connection.get_message

    async def counted(connection: Connection, stream: str, **body: Any) -> Any:
        asked.append(stream)
        return await get(connection, stream, **body)

    handle = await turnout_client.submit(wait_for_it)
    monkeypatch.setattr(Connection, "get_message", counted)
    await handle.cancel()
    names = turnout_client.store.names
    assert asked == [kv_stream(names.jobs_bucket), names.work] * 2 + [names.work]
    assert (await handle.info()).state is JobState.cancelled


async def test_cancelling_what_matches(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Queued, scheduled and running jobs that match are cancelled with the reason; others, and ended ones, stay."""
    ours = {"customer": "42"}
    async with turnout_worker(wait_for_it, concurrency=1):
        running = await turnout_client.submit(wait_for_it.options(labels=ours))
        async for info in running.watch():
            if info.state == "running":
                break
        queued = await turnout_client.submit(wait_for_it.options(labels=ours))
        await turnout_client.submit(wait_for_it.options(labels=ours, delay=3600))
        other = await turnout_client.submit(wait_for_it.options(labels={"customer": "43"}))
        assert await turnout_client.cancel_jobs(state="running", label="customer=43") == 0
        assert await turnout_client.cancel_jobs(label="customer=42", reason="wrong files") == 3
        ended = [info async for info in running.watch()][-1]
        assert (ended.state, ended.reason) == ("cancelled", "wrong files")
        assert (await queued.info()).reason == "wrong files"
        assert not (await other.info()).state.final
        assert await turnout_client.cancel_jobs(label="customer=42") == 0


async def test_retrying_and_deleting_what_matches(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Faulted jobs are retried by their error, and ended ones deleted by their state; the numbers are those of jobs."""
    async with turnout_worker(fail):
        handles = await turnout_client.submit_many(fail, [{"kind": "fatal"}] * 3 + [{"kind": "key"}] * 2)
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles), return_exceptions=True)
        errors = [info.error.type async for info in turnout_client.jobs(error=Fatal) if info.error is not None]
        assert errors == ["Fatal"] * 3
        assert (await turnout_client.count(error="_Missing"))[JobState.faulted] == 2
        fixed.set()
        assert await turnout_client.retry_jobs(error=Fatal, since=timedelta(hours=1)) == 3
        assert {await handle.result(timeout=30) for handle in handles[:3]} == {"fixed"}
        assert await turnout_client.retry_jobs(state="cancelled", activity=fail) == 0
    assert await turnout_client.delete_jobs(state="completed", activity="fail") == 3
    assert (await turnout_client.count())[JobState.completed] == 0
    assert (await turnout_client.count())[JobState.faulted] == 2


async def test_nobody_acts_on_all_by_mistake(turnout_client: Client) -> None:
    """Without a filter, with None for each, and with a state that can't be acted on so, it is a ValueError."""
    await turnout_client.submit(wait_for_it)
    calls: list[Any] = [turnout_client.cancel_jobs, turnout_client.retry_jobs, turnout_client.delete_jobs]
    for call in calls:
        with pytest.raises(ValueError, match="at least one of state, activity"):
            await call()
        with pytest.raises(ValueError, match="at least one of state, activity"):
            await call(activity=None, label=None)
        with pytest.raises(ValueError, match="state must be one of"):
            await call(state="odd")
        with pytest.raises(TypeError, match="there is no filter lable; these are state, activity"):
            await call(lable="customer=42")
    with pytest.raises(ValueError, match="state must be one of queued, retrying, running, scheduled here"):
        await turnout_client.cancel_jobs(state="completed")
    with pytest.raises(ValueError, match="state must be one of cancelled, completed, faulted here, not queued"):
        await turnout_client.delete_jobs(state="queued")
    assert (await turnout_client.count())[JobState.queued] == 1


async def test_several_who_act_on_the_same_jobs(turnout_client: Client) -> None:
    """Each job is deleted once, or retried: whoever comes too late leaves it alone, and goes on with the others."""
    handles = await turnout_client.submit_many("nobody", [{}] * 40)
    assert sum(await asyncio.gather(*(turnout_client.cancel_jobs(activity="nobody") for _ in range(2)))) >= 40
    deleted = await asyncio.gather(*(handle.delete() for handle in handles[:10] * 3), return_exceptions=True)
    assert {type(outcome) for outcome in deleted} == {type(None), JobNotFound}
    retries, *deletions = await asyncio.gather(
        turnout_client.retry_jobs(activity="nobody"),
        turnout_client.delete_jobs(activity="nobody"),
        turnout_client.delete_jobs(activity="nobody"),
    )
    left = await turnout_client.count(activity="nobody")
    assert +Counter(left) == +Counter({JobState.queued: sum(left.values())})
    assert sum(left.values()) <= retries
    assert sum(left.values()) + sum(deletions) >= 30
