"""Everything at once: nodes that freeze, die and are cut off, lines that are silent or carry one direction only, a
server that dies and hangs, many activities, many jobs that wait. What happens when is a plan.

The same seed gives the same plan: TURNOUT_CHAOS_SEED repeats it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.crash.activities import doomed, flaky, many, stroll
from tests.crash.fleet import TTL_S, Fleet, Process
from tests.crash.test_load import ended_once, look, nothing_left
from tests.support.proxy import Proxy
from tests.support.waiting import until
from turnout import Client, JobState, TurnoutError
from turnout.core.record import JobRecord
from turnout.testing import NatsServer

NODES = 4
ACTIVITIES = 40
JOBS = 1_200
WAITING = 800
"""So many jobs wait for their time while all of that happens."""

NODE_KINDS = ("kill", "freeze", "silent", "deaf", "mute", "reset", "lose leases")
SERVER_KINDS = ("kill server", "hang server")
STEPS = 24
WAIT_S = 40.0
"""For so long those wait: it takes about that long."""


@attrs.frozen
class Step:
    """`after_s` seconds after the step before, something happens to a node, or to the server, for `seconds`."""

    after_s: float
    kind: str
    node: int
    seconds: float


def planned(seed: int) -> list[Step]:
    """Every kind at least twice, in an order and at times that the seed tells."""
    chance = random.Random(seed)
    kinds = [*NODE_KINDS, *SERVER_KINDS] * 2
    kinds += chance.choices(NODE_KINDS, k=STEPS - len(kinds))
    chance.shuffle(kinds)
    steps = []
    for kind in kinds:
        longest = 3.0 if kind in SERVER_KINDS else 2.5 * TTL_S
        steps.append(Step(chance.uniform(0.5, 2.5), kind, chance.randrange(NODES), chance.uniform(0.3, 1.0) * longest))
    return steps


class Scene:
    """The nodes, each behind a line of its own, and the server."""

    def __init__(self, server: NatsServer, fleet: Fleet, proxies: list[Proxy]) -> None:
        self._server = server
        self._fleet = fleet
        self._proxies = proxies
        self._nodes: dict[int, Process] = {}
        self._started = 0

    async def start(self, number: int) -> None:
        """Another process in the node's place; again when there is no server that it could begin with."""
        name = ""
        for _ in range(20):
            self._started += 1
            name = f"n{number}-{self._started}"
            with contextlib.suppress(AssertionError):
                self._nodes[number] = await self._fleet.start(
                    name, concurrency=10, url=self._proxies[number].url, many=ACTIVITIES
                )
                return
            await asyncio.sleep(1)
        raise AssertionError(f"node {number} did not start, see {name}")

    async def happen(self, step: Step) -> None:
        proxy, node = self._proxies[step.node], self._nodes[step.node]
        match step.kind:
            case "kill":
                await node.kill()
                await self.start(step.node)
            case "freeze":
                node.send(signal.SIGSTOP)
                await asyncio.sleep(step.seconds)
                node.send(signal.SIGCONT)
            case "reset":
                proxy.cut()
            case "lose leases":
                proxy.lose("turnout-leases")
                await asyncio.sleep(step.seconds)
                proxy.refuse.clear()
            case "kill server":
                await asyncio.to_thread(self._server.kill)
                await asyncio.sleep(step.seconds)
                await asyncio.to_thread(self._server.start)
            case "hang server":
                await asyncio.to_thread(self._server.pause)
                await asyncio.sleep(step.seconds)
                await asyncio.to_thread(self._server.resume)
            case _:
                proxy.block(up=step.kind != "deaf", down=step.kind != "mute")
                await asyncio.sleep(step.seconds)
                proxy.unblock()

    async def play(self, plan: list[Step]) -> None:
        """All of it, each step when its time has come, whatever goes on still of those before it."""
        server = asyncio.Lock()

        async def one(step: Step) -> None:
            async with server if step.kind in SERVER_KINDS else contextlib.nullcontext():
                await self.happen(step)

        async with asyncio.TaskGroup() as tasks:
            for step in plan:
                await asyncio.sleep(step.after_s)
                tasks.create_task(one(step))


Kind = tuple[Any, tuple[Any, ...], dict[str, Any], object]


def job_of(number: int) -> Kind:
    """What the job of this number is: activity, arguments, and its result; None for one that faults."""
    manifold = many(ACTIVITIES)
    if number % 20 == 0:
        return doomed, (), {"pause": 0.1}, None
    if number % 20 < 3:
        return stroll, (), {"count": 5 + number % 20}, 5 + number % 20
    if number % 20 < 6:
        return flaky, (number,), {"pause": number % 7 / 10}, number
    return manifold[number % ACTIVITIES], (number,), {}, number


async def persist(submit: Callable[[], Any]) -> None:
    """Whoever gets no answer submits the same id again."""
    while True:
        try:
            await submit()
            return
        except TurnoutError:
            await asyncio.sleep(0.2)


async def submit_all(client: Client) -> None:
    async def one(number: int, **more: Any) -> None:
        activity, args, kwargs, _ = job_of(number)
        ref = activity.options(id=f"job-{number:04}", if_exists="join", **more)
        await persist(lambda: client.submit(ref, *args, **kwargs))

    at_once = asyncio.Semaphore(40)

    async def bounded(number: int, **more: Any) -> None:
        async with at_once:
            await one(number, **more)

    await asyncio.gather(*(bounded(number, delay=WAIT_S) for number in range(JOBS, JOBS + WAITING)))
    for first in range(0, JOBS, 40):
        await asyncio.gather(*(one(number) for number in range(first, first + 40)))
        await asyncio.sleep(0.5)


def wrong(record: JobRecord) -> bool:
    """Whether it ended otherwise than its code does when nothing happens to anybody."""
    *_, result = job_of(int(record.id.removeprefix("job-")))
    if result is None:
        return record.state is not JobState.faulted or record.reason != "failed"
    return record.state is not JobState.completed or record.result is None or record.result.text != str(result)


def test_the_same_seed_gives_the_same_plan() -> None:
    """And every kind of accident is in it, with different seeds in another order."""
    assert planned(7) == planned(7) != planned(8)
    for seed in range(20):
        found = Counter(step.kind for step in planned(seed))
        assert min(found[kind] for kind in (*NODE_KINDS, *SERVER_KINDS)) >= 2
        assert found.total() == STEPS


@pytest.mark.timeout(600)
async def test_all_of_it_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of 2,000 jobs of forty activities ends once, as its code says, and nothing is left behind."""
    seed = int(os.environ.get("TURNOUT_CHAOS_SEED") or random.randrange(10**6))
    with capsys.disabled():
        print(f"\nTURNOUT_CHAOS_SEED={seed}")
    began = time.monotonic()
    with NatsServer() as server:
        async with AsyncExitStack() as entered:
            client = await entered.enter_async_context(Client.connect(server.url))
            fleet = await entered.enter_async_context(Fleet(server.url, "turnout", tmp_path))
            proxies = [await entered.enter_async_context(Proxy(server.port)) for _ in range(NODES)]
            scene = Scene(server, fleet, proxies)
            await asyncio.gather(*(scene.start(number) for number in range(NODES)))
            submitting = asyncio.create_task(submit_all(client))
            await scene.play(planned(seed))
            await submitting
            await until(lambda: nothing_left(client), 240)
            records = [r async for loaded in client.store.registry.scan() if (r := loaded.record) is not None]
            report = await look(client, records)
    with capsys.disabled():
        print(f"{report}; {time.monotonic() - began:.0f} s")
    assert len(records) == JOBS + WAITING
    unplanned = [record for record in records if wrong(record)]
    assert not [(r.id, r.activity, r.state, r.reason, r.error, r.result, r.attempts) for r in unplanned]
    assert not [(r.id, r.attempts) for r in records if not ended_once(r)]
    assert (report.letters, report.messages_left) == ((JOBS + WAITING) // 20, 0)
