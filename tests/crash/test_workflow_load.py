"""Hundreds of workflows while workers and the server are killed, stopped or away: each ends once, with its result."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from tests.crash.fleet import Fleet
from tests.crash.flows import due_later, five_steps, long_one, outlasts
from tests.crash.test_load import ended_once
from tests.support.waiting import until
from turnout import Client, WorkflowEnded, WorkflowState
from turnout.client.workflows.handle import AnyWorkflowHandle
from turnout.core.record import JobRecord, JobState
from turnout.errors import TurnoutError
from turnout.testing import NatsServer

WORKFLOWS = 200
STEPS = 5
WORKER_KILLS = 15
SERVER_KILLS = 3
WORKERS = 3
PAUSE_S = (0.5, 2.0)
"""Between two kills, at random within."""

LONG_ONES = 50
ROUNDS = 40
RESTARTS = 20
AWAY_S = 60


async def started(client: Client, path: Path, number: int) -> int:
    """Start one, though the server be killed meanwhile, and wait for its result."""
    asked = five_steps.options(id=f"five-{number:03}", if_exists="join")
    while True:
        with contextlib.suppress(TurnoutError):
            handle = await client.start(asked, str(path), number)
            return await handle.result(timeout=200)
        await asyncio.sleep(0.2)


Begin = Callable[[int], Awaitable[int]]
"""Starts the workflow of a number, and waits for its result."""


async def start_and_kill(
    server: NatsServer, fleet: Fleet, chance: random.Random, begin: Begin
) -> list[asyncio.Future[int]]:
    """Start some, SIGKILL a worker under them and start another in its place, again and again; the server too."""
    waiting: list[asyncio.Future[int]] = []
    servers = set(chance.sample(range(2, WORKER_KILLS), SERVER_KILLS))
    for turn in range(WORKER_KILLS):
        upto = WORKFLOWS * (turn + 1) // WORKER_KILLS
        waiting += [asyncio.ensure_future(begin(number)) for number in range(len(waiting), upto)]
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        if turn in servers:
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(chance.uniform(0.0, 2.0))
            await asyncio.to_thread(server.start)
        victim = chance.choice([process for process in fleet.processes if process.alive])
        await victim.kill()
        await fleet.start(f"r{turn}", concurrency=25)
    return waiting


async def messages(client: Client, stream: str) -> int:
    info = await client.store.connection.api(f"STREAM.INFO.{stream}")
    return int(info["state"]["messages"])


async def steps_on_record(client: Client) -> list[JobRecord]:
    return [loaded.record async for loaded in client.store.registry.scan() if loaded.record is not None]


@pytest.mark.timeout(400)
async def test_every_workflow_ends_once_whoever_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """200 workflows of five steps, 15 SIGKILLs of workers and 3 of the server: each ends with the right result, each
    step has one job that completed once, and when their retention is over nothing of them is left in any stream."""
    seed = int(os.environ.get("TURNOUT_LOAD_SEED") or random.randrange(10**6))
    with capsys.disabled():
        print(f"\nTURNOUT_LOAD_SEED={seed}")
    chance, began, lines = random.Random(seed), time.monotonic(), tmp_path / "lines"
    with NatsServer() as server:
        async with Client.connect(server.url) as client, Fleet(server.url, "turnout", tmp_path) as fleet:
            for number in range(WORKERS):
                await fleet.start(f"w{number}", concurrency=25)
            waiting = await start_and_kill(server, fleet, chance, lambda number: started(client, lines, number))
            results = await asyncio.gather(*waiting)
            with capsys.disabled():
                print(f"all have ended after {time.monotonic() - began:.0f} s")
            records = await steps_on_record(client)
            names = client.store.names

            async def gone() -> bool:
                left = [await messages(client, name) for name in (names.inbox, names.history, names.work)]
                return left == [0, 0, 0]

            await until(gone, 120)
    assert results == [50 * number + sum(range(STEPS)) for number in range(WORKFLOWS)]
    assert len(records) == WORKFLOWS * STEPS
    assert {record.state for record in records} == {JobState.completed}
    assert not [record.id for record in records if not ended_once(record)]
    done = Counter(lines.read_text().splitlines())
    assert done.keys() == {f"{number} {which}" for number in range(WORKFLOWS) for which in range(STEPS)}
    assert done.total() <= sum(record.attempt for record in records)
    with capsys.disabled():
        print(f"{done.total()} effects of {len(records)} steps; {time.monotonic() - began:.0f} s")


@pytest.mark.timeout(500)
async def test_rolling_restarts_under_long_workflows(fleet: Fleet, turnout_client: Client, tmp_path: Path) -> None:
    """Workers that are stopped in order, one after the other, hand over what they have: no step is lost or delayed."""
    lines = tmp_path / "lines"
    workers = [await fleet.start(f"w{number}") for number in range(2)]
    handles = [await turnout_client.start(long_one, str(lines), number, ROUNDS) for number in range(LONG_ONES)]
    for turn in range(RESTARTS):
        workers.append(await fleet.start(f"r{turn}"))
        assert await workers.pop(0).terminate() == 0
    results = await asyncio.gather(*(handle.result(timeout=300) for handle in handles))
    assert results == [10 * number * ROUNDS + sum(range(ROUNDS)) for number in range(LONG_ONES)]
    records = await steps_on_record(turnout_client)
    assert len(records) == LONG_ONES * ROUNDS
    assert not [record.attempts for record in records if not ended_once(record) or record.losses or record.failures]
    assert set(Counter(lines.read_text().splitlines()).values()) == {1}


@pytest.mark.timeout(120)
async def test_timers_that_are_due_while_nothing_lives(fleet: Fleet, turnout_client: Client) -> None:
    """The timers of many workflows fall due while there is no worker: each goes on when one comes, never early."""
    first = await fleet.start("first")
    handles = [await turnout_client.start(due_later, 2.0 + number / 10) for number in range(20)]

    async def asleep() -> bool:
        infos = await asyncio.gather(*(handle.info() for handle in handles))
        return all([each.kind for each in info.waiting] == ["timer"] for info in infos)

    await until(asleep)
    await first.kill()
    await asyncio.sleep(5.0)  # the last timer is due by now
    assert (await turnout_client.count_workflows())[WorkflowState.running] == len(handles)
    await fleet.start("second")
    slept = await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
    assert all(2.0 + number / 10 <= seconds for number, seconds in enumerate(slept))


@pytest.mark.timeout(400)
async def test_workflows_outlast_a_server_that_is_away(tmp_path: Path) -> None:
    """The server is away for a minute. Meanwhile timers fall due, activities end, words are sent by a client that tries
    again, and of one namespace the only worker is killed: each workflow ends once, with the right result."""
    gate, lines = tmp_path / "gate", tmp_path / "lines"
    with NatsServer() as server:
        async with (
            Client.connect(server.url) as client,
            Client.connect(server.url, namespace="lonely") as lonely,
            Fleet(server.url, client.namespace, tmp_path) as fleet,
            Fleet(server.url, lonely.namespace, tmp_path) as others,
        ):
            for name in ("a", "b"):
                await fleet.start(name, ttl_s=2.0, concurrency=WORKFLOWS)
            victim = await others.start("victim", ttl_s=2.0)
            handles = [
                await client.start(outlasts.options(id=f"away-{number}"), str(gate), str(lines), float(number))
                for number in range(AWAY_S)
            ]
            orphans = [await lonely.start(due_later, float(number)) for number in range(1, AWAY_S)]
            await until(lambda: all_wait(handles, {"activity", "signal"}), 60)
            await until(lambda: all_wait(orphans[-1:], {"timer"}), 60)
            await asyncio.to_thread(server.stop)
            await victim.kill()
            said = [asyncio.ensure_future(say(handle)) for handle in handles]
            await asyncio.sleep(2)
            gate.touch()
            await asyncio.sleep(AWAY_S - 2)
            await asyncio.to_thread(server.start)
            await others.start("heir", ttl_s=2.0)
            await asyncio.gather(*said)
            results = await asyncio.gather(*(handle.result(timeout=90) for handle in handles))
            slept = await asyncio.gather(*(handle.result(timeout=90) for handle in orphans))
            everyone: list[AnyWorkflowHandle] = [*handles, *orphans]
            kinds = [[event.kind for event in await handle.history()] for handle in everyone]
    assert [(word, attempt) for word, attempt, _ in results] == [(handle.id, 1) for handle in handles]
    assert all(seconds >= number for number, (_, _, seconds) in enumerate(results))
    assert all(seconds >= number for number, seconds in enumerate(slept, 1))
    assert {each.count("completed") for each in kinds} == {1}
    assert Counter(lines.read_text().splitlines()) == {handle.id: 1 for handle in handles}


async def all_wait(handles: Sequence[AnyWorkflowHandle], kinds: set[str]) -> bool:
    """Whether each waits for these, whatever else it waits for."""
    infos = await asyncio.gather(*(handle.info() for handle in handles))
    return all(kinds <= {each.kind for each in info.waiting} or info.state.final for info in infos)


async def say(handle: AnyWorkflowHandle) -> None:
    """Say its own name to it, and again as long as it is not sure that this was stored."""
    while True:
        try:
            return await handle.signal("say", handle.id)
        except WorkflowEnded:
            return None  # by a word whose acknowledgement was lost
        except TurnoutError:
            await asyncio.sleep(0.5)
