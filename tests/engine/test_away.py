"""The connection is away for a moment: whoever asks a client then waits for it, whatever he asks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Awaitable
from pathlib import Path
from typing import Any

import pytest

from turnout import (
    Client,
    DefinitionError,
    Retention,
    Schedule,
    ServerUnavailable,
    Worker,
    activity,
    node,
    workflow,
)
from turnout.client import away
from turnout.client.groups.handle import GroupHandle
from turnout.client.handle import JobHandle
from turnout.client.schedules.handle import ScheduleHandle
from turnout.client.workflows.handle import WorkflowHandle
from turnout.testing import NatsServer

WAITS_ANYWAY = {"submit", "result", "results", "watch", "query", "close"}


@activity
async def noop() -> None: ...


@workflow
async def nothing() -> None: ...


@workflow
class Asked:
    @workflow.run
    async def run(self) -> None:
        await asyncio.sleep(3600)

    @workflow.query
    def answer(self) -> int:
        return 42


async def _asked(question: Awaitable[Any] | AsyncIterable[Any]) -> Any:
    if isinstance(question, AsyncIterable):
        return [each async for each in question]
    return await question


async def test_whatever_a_client_is_asked_while_the_connection_is_away_is_outwaited(tmp_path: Path) -> None:
    """Each call of a client or of a handle that is made while the server restarts comes back as if nothing had been."""
    with NatsServer(store_dir=tmp_path) as server:
        async with Client.connect(server.url) as client:
            async with Worker(client, activities=[noop], workflows=[nothing]):
                ended, gone_job = await client.submit_many(noop, [{}, {}])
                done, over = await client.submit_group(noop, [{}]), await client.start(nothing)
                for each in (ended.result, gone_job.result, done.results, over.result):
                    await each(timeout=30)
            waits = [await client.submit(noop) for _ in range(5)]
            late = await client.start(nothing.options(delay=3600))
            flows = [await client.start(nothing.options(delay=3600)) for _ in range(4)]
            schedule = await client.add_schedule("nightly", Schedule(cron="0 3 * * *"), noop)
            gone = await client.add_schedule("gone", Schedule(cron="0 3 * * *"), noop)
            group = await client.submit_group(noop, [{}])
            other = await client.submit_group(noop, [{}])
            worker = Worker(client, activities=[noop])
            await asyncio.to_thread(server.stop)
            while client.store.connection.up:
                await asyncio.sleep(0.01)
            questions: dict[str, Any] = {
                "set_retention": client.set_retention(Retention(completed=3600)),
                "submit": client.submit(noop),
                "submit with an id": client.submit(noop.options(id="mine")),
                "submit debounced": client.submit(noop.options(debounce=60)),
                "submit by name": client.submit("noop", {}),
                "submit with a priority": client.submit(noop.options(priority=1)),
                "submit what is large": client.submit("unknown", {"text": "x" * 100_000}),
                "submit_many": client.submit_many(noop, [{}]),
                "jobs": client.jobs(),
                "count": client.count(),
                "nodes": client.nodes(),
                "drain_node": client.drain_node("nobody"),
                "activities": client.activities(),
                "faults": client.faults(),
                "replay_faults": client.replay_faults(),
                "count_faults": client.count_faults(),
                "cancel_jobs": client.cancel_jobs(label="none"),
                "retry_jobs": client.retry_jobs(label="none"),
                "delete_jobs": client.delete_jobs(label="none"),
                "pause": client.pause(noop),
                "resume": client.resume(noop),
                "set_limit": client.set_limit("api", 3),
                "clear_limit": client.clear_limit("mail"),
                "limits": client.limits(),
                "add_schedule": client.add_schedule("weekly", Schedule(cron="0 3 * * 0"), noop),
                "schedules": client.schedules(),
                "sync_schedules": client.sync_schedules({}, prefix="app-"),
                "schedule.info": schedule.info(),
                "schedule.pause": schedule.pause(),
                "schedule.resume": schedule.resume(),
                "schedule.trigger": schedule.trigger(),
                "schedule.delete": gone.delete(),
                "submit_group": client.submit_group(noop, [{}]),
                "groups": client.groups(),
                "group.info": group.info(),
                "group.jobs": group.jobs(),
                "group.cancel": other.cancel(),
                "group.results": done.results(timeout=30),
                "job.info": ended.info(),
                "job.info by id alone": client.job(ended.id).info(),
                "job.result": ended.result(timeout=30),
                "job.result by id alone": client.job(ended.id).result(timeout=30),
                "job.watch": ended.watch(),
                "job.cancel": waits[0].cancel(),
                "job.set_priority": waits[1].set_priority(2),
                "job.run_now": waits[2].run_now(),
                "job.delete": client.job(gone_job.id, noop).delete(),
                "job.delete unbegun": waits[3].delete(unbegun=True),
                "job.logs": waits[4].logs(),
                "start": client.start(nothing.options(delay=3600)),
                "start with an id": client.start(nothing.options(id="mine", delay=3600)),
                "workflows": client.workflows(),
                "workflows limited": client.workflows(limit=3),
                "count_workflows": client.count_workflows(),
                "cancel_workflows": client.cancel_workflows(label="none"),
                "terminate_workflows": client.terminate_workflows(label="none"),
                "workflow.info": late.info(),
                "workflow.result": over.result(timeout=30),
                "workflow.watch": over.watch(),
                "workflow.history": late.history(),
                "workflow.signal": flows[0].signal("go"),
                "workflow.cancel": flows[1].cancel(),
                "workflow.terminate": flows[2].terminate(),
                "worker.start": worker.start(),
            }
            asked = [asyncio.ensure_future(_asked(question)) for question in questions.values()]
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)
            answers = await asyncio.gather(*asked, return_exceptions=True)
            await worker.stop(0)
            found = zip(questions, answers, strict=True)
            assert {name: answer for name, answer in found if isinstance(answer, BaseException)} == {}


async def test_so_is_a_query(tmp_path: Path) -> None:
    """It waits for as long as it waits for its answer; ServerUnavailable then."""
    with NatsServer(store_dir=tmp_path) as server:
        async with Client.connect(server.url) as client, Worker(client, workflows=[Asked]):
            handle = await client.start(Asked.run)
            assert await handle.query(Asked.answer) == 42
            await asyncio.to_thread(server.stop)
            while client.store.connection.up:
                await asyncio.sleep(0.01)
            with pytest.raises(ServerUnavailable):
                await handle.with_timeout(0.2).query(Asked.answer)
            asked = asyncio.ensure_future(handle.with_timeout(60).query(Asked.answer))
            await asyncio.to_thread(server.start)
            assert await asked == 42


async def test_a_connection_that_stays_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited long enough learns that the server is away; whatever has a limit of its own keeps that."""
    for module in (away, node):
        monkeypatch.setattr(module, "AWAY_S", 0.2)
    with NatsServer(store_dir=tmp_path) as server:
        async with Client.connect(server.url) as client:
            handle = await client.submit(noop)
            await asyncio.to_thread(server.stop)
            for question in (client.count(), client.jobs(), handle.info(), client.set_limit("api", 3)):
                with pytest.raises(ServerUnavailable):
                    await _asked(question)
            with pytest.raises(TimeoutError):
                await client.job(handle.id).result(timeout=0.1)
            worker = Worker(client, activities=[noop])
            starts = await asyncio.gather(worker.start(), worker.start(), return_exceptions=True)
            assert isinstance(starts[0], ServerUnavailable)
            assert isinstance(starts[1], DefinitionError)


@pytest.mark.parametrize("kind", [Client, JobHandle, WorkflowHandle, ScheduleHandle, GroupHandle])
def test_every_question_is_outwaited(kind: type) -> None:
    """Whatever a client or a handle can be asked waits for the connection; what waits for more does so by itself."""
    for name, method in inspect.getmembers(kind):
        asks = inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
        if asks and not name.startswith("_") and name not in WAITS_ANYWAY:
            assert hasattr(method, "__wrapped__"), name
