"""What the code of a workflow may not do, what it sees of time and chance, and what holds its thread."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import arithmetic, double, increment
from tests.workflows.test_trouble import stuck
from turnout import Client, Worker, current_workflow, workflow
from turnout.flow.thread import HeldTooLong, Limits
from turnout.worker.workflows.code import CodeThread

REACHING: dict[str, Callable[[], Any]] = {
    "open": lambda: Path("/etc/hostname").read_text(),
    "sleep": lambda: time.sleep(0.01),
    "thread": lambda: threading.Thread(target=print).start(),
    "socket": lambda: __import__("socket").create_connection(("127.0.0.1", 9)),
    "process": lambda: __import__("subprocess").run(["true"], check=False),
}


@workflow
async def reaching(what: str) -> None:
    REACHING[what]()


@workflow
async def chance() -> list[list[Any]]:
    """Twice what the modules say, with a wait between, which other workers replay."""
    seen = []
    for _ in range(2):
        seen.append([time.time(), random.random(), random.randint(0, 10**9), str(uuid.uuid4())])
        await current_workflow().receive("go")
    return seen


@workflow
async def endless(spin: bool) -> str:
    while spin:
        pass
    return "done"


@workflow
async def leaving() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("what", list(REACHING))
async def test_reaching_out_is_refused(client: Client, what: str) -> None:
    """Files, sleeps, threads, sockets and processes raise NotDurable at the call, which says what to do instead."""
    async with Worker(client, workflows=[reaching]):
        handle = await client.start(reaching, what)
        info = await stuck(client, handle.id)
        assert info.error is not None
        assert info.error.type == "NotDurable"
        assert "activity" in info.error.message or "asyncio" in info.error.message


async def test_time_and_chance_are_the_workflows_own(client: Client) -> None:
    """The modules time, random and uuid give values that a replay gives again."""
    handle = await client.start(chance)
    for _ in range(2):  # each worker replays what the one before it has done
        async with Worker(client, workflows=[chance]):
            await until(lambda: _waits(client, handle.id))
            await handle.signal("go")
    async with Worker(client, workflows=[chance]):
        first, second = await handle.result(timeout=30)
    started = (await handle.info()).started_at.timestamp()
    assert started <= first[0] <= second[0] < started + 60
    assert first[1:] != second[1:]
    history = await handle.history()
    assert [event.kind for event in history].count("signal") == 2


async def _waits(client: Client, workflow_id: str) -> bool:
    return [each.kind for each in (await client.workflow(workflow_id).info()).waiting] == ["signal"]


async def test_code_that_would_end_the_process(client: Client) -> None:
    """SystemExit leaves its workflow stuck and the worker alive."""
    async with Worker(client, activities=[double, increment], workflows=[leaving, arithmetic]):
        handle = await client.start(leaving)
        info = await stuck(client, handle.id)
        assert info.error is not None
        assert "SystemExit" in info.error.message
        assert await (await client.start(arithmetic, 1)).result(timeout=30) == 7


@pytest.mark.long
async def test_code_that_never_yields(client: Client) -> None:
    """It is ended after ten seconds, its workflow is stuck with the line it was at, and the others go on."""
    async with Worker(client, activities=[double, increment], workflows=[endless, arithmetic], build="one"):
        handle = await client.start(endless, True)
        info = await until(lambda: _stuck_or_none(client, handle.id), within_s=40)
        assert info.reason == "held_too_long"
        assert info.error is not None
        assert "in endless" in info.error.message
        assert await (await client.start(arithmetic, 1)).result(timeout=30) == 7


async def _stuck_or_none(client: Client, workflow_id: str) -> Any:
    info = await client.workflow(workflow_id).info()
    return info if info.state == "stuck" else None


async def test_code_that_cannot_be_ended() -> None:
    """What waits in C keeps its thread; what comes after it gets another, that is watched too, and is told."""
    locks = [threading.Lock(), threading.Lock()]
    for lock in locks:
        lock.acquire()
    code = CodeThread(Limits(warn_after=0.05, fail_after=0.1, stuck_after=0.1))
    waiting = [asyncio.ensure_future(code.run(lock.acquire)) for lock in locks]
    behind = [asyncio.ensure_future(code.run(lambda: "next")) for _ in range(20)]
    for each in waiting:
        with pytest.raises(HeldTooLong) as caught:
            await each
        assert caught.value.stuck
    assert await asyncio.gather(*behind) == ["next"] * 20
    assert "holds 2 threads" in str(code.trouble)
    for lock in locks:
        lock.release()
    await code.close()
