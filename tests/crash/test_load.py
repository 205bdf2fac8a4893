"""Thousands of jobs while workers and the server are killed at random times: each ends once, by the registry's word."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.crash.activities import doomed, flaky, stroll
from tests.crash.fleet import Fleet
from tests.support.waiting import until
from turnout import Client
from turnout.core.record import JobRecord, JobState, Outcome
from turnout.errors import TurnoutError
from turnout.testing import NatsServer

JOBS = 2400
WORKER_KILLS = 30
SERVER_KILLS = 3
WORKERS = 4
PAUSE_S = (1.0, 3.5)
"""Between two kills, at random within."""


@attrs.frozen
class Report:
    """What the registry and the streams say in the end; nothing in it was counted by a client."""

    states: dict[str, int]
    attempts: int
    outcomes: dict[str, int]
    letters: int
    messages_left: int

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        return (
            f"jobs: {states}; attempts: {self.attempts} ({outcomes}); "
            f"dead letters: {self.letters}; messages left in the stream: {self.messages_left}"
        )


@pytest.mark.timeout(420)
async def test_every_job_ends_once_whoever_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2,400 jobs, 30 SIGKILLs of workers and 3 of the server: each job ends once, and nothing is left behind."""
    seed = int(os.environ.get("TURNOUT_LOAD_SEED") or random.randrange(10**6))
    with capsys.disabled():
        print(f"\nTURNOUT_LOAD_SEED={seed}")
    chance = random.Random(seed)
    began = time.monotonic()
    with NatsServer() as server:
        async with Client.connect(server.url) as client, Fleet(server.url, "turnout", tmp_path) as fleet:
            for number in range(WORKERS):
                await fleet.start(f"w{number}", concurrency=25)
            submitting = asyncio.create_task(submit_all(client, chance))
            await kill_at_random(server, fleet, chance)
            await submitting
            await until(lambda: nothing_left(client), 120)
            scanned = client.store.registry.scan()
            records = [record async for loaded in scanned if (record := loaded.record) is not None]
            report = await look(client, records)
    with capsys.disabled():
        print(f"{report}; {time.monotonic() - began:.0f} s")
    unplanned = [record for record in records if not as_planned(record)]
    assert not [(record.id, record.reason, record.error, record.attempts) for record in unplanned]
    assert report.states == {"completed": JOBS * 19 // 20, "faulted": JOBS // 20}
    assert (report.letters, report.messages_left) == (JOBS // 20, 0)
    assert report.outcomes["completed"] == JOBS * 19 // 20
    assert not [record.id for record in records if not ended_once(record)]


async def submit_all(client: Client, chance: random.Random) -> None:
    """Submit for as long as it is being killed. Whoever gets no ack submits the same id again."""

    async def one(number: int) -> None:
        options: dict[str, Any] = {"id": f"job-{number:04}", "if_exists": "join"}
        while True:
            try:
                if number % 20 == 0:
                    await client.submit(doomed.options(**options), pause=0.1)
                elif number % 20 < 4:
                    await client.submit(stroll.options(**options), count=number % 40)
                else:
                    await client.submit(flaky.options(**options), number, pause=number % 7 / 10)
                return
            except TurnoutError:
                await asyncio.sleep(0.2)

    for first in range(0, JOBS, 40):
        await asyncio.gather(*(one(number) for number in range(first, first + 40)))
        await asyncio.sleep(chance.uniform(0.2, 1.5))


async def kill_at_random(server: NatsServer, fleet: Fleet, chance: random.Random) -> None:
    """SIGKILL a worker and start another in its place, again and again; the server too, now and then."""
    servers = set(chance.sample(range(3, WORKER_KILLS), SERVER_KILLS))
    for turn in range(WORKER_KILLS):
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        if turn in servers:
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(chance.uniform(0.0, 3.0))
            await asyncio.to_thread(server.start)
        victim = chance.choice([process for process in fleet.processes if process.alive])
        await victim.kill()
        await fleet.start(f"r{turn}", concurrency=25)


async def nothing_left(client: Client) -> bool:
    """Whether all has ended; False while the server does not say: it may have been killed just now."""
    with contextlib.suppress(TurnoutError):
        return (await left(client)) == 0
    return False


async def left(client: Client) -> int:
    info = await client.store.connection.api(f"STREAM.INFO.{client.store.names.work}")
    return int(info["state"]["messages"])


async def look(client: Client, records: list[JobRecord]) -> Report:
    faults = await client.store.connection.api(f"STREAM.INFO.{client.store.names.faults}")
    return Report(
        states=dict(Counter(record.state.value for record in records)),
        attempts=sum(record.attempt for record in records),
        outcomes=dict(Counter(attempt.outcome.value for record in records for attempt in record.attempts)),
        letters=int(faults["state"]["messages"]),
        messages_left=await left(client),
    )


def as_planned(record: JobRecord) -> bool:
    """It ended as its code does when nobody is killed: no loss is one too many here."""
    return record.state is (JobState.faulted if record.activity == "doomed" else JobState.completed)


def ended_once(record: JobRecord) -> bool:
    """One attempt ended it, the last one; its number is the count of all, and every loss is among them."""
    outcomes = [attempt.outcome for attempt in record.attempts]
    numbers = [attempt.number for attempt in record.attempts]
    end = Outcome(record.state.value)
    return (
        outcomes[-1:] == [end]
        and outcomes.count(Outcome.completed) == int(end is Outcome.completed)
        and numbers == list(range(1, record.attempt + 1))
        and outcomes.count(Outcome.lost) == record.losses
    )
