"""What a node was handed, and can't run any more, goes on elsewhere within the liveness TTL and two seconds: however
the node went, whoever supervises, and however long the lease is."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.crash.activities import fails_at, put_off, quick, steps
from tests.crash.fleet import TTL_S, Fleet, Process
from tests.crash.scene import leads
from tests.crash.test_nodes import info_is, quickest, sure_of_itself
from tests.support.proxy import Proxy
from tests.support.waiting import until
from turnout import Client, JobHandle, JobState
from turnout.testing import NatsServer

LIMIT_S = TTL_S + 2
DELAY_S = 2.0
"""Of `fails_at`, between its first attempt and the second."""


WAITING = 30_000


async def all_handed_over(client: Client, activity: str) -> None:
    """Wait until nothing of the activity waits in the queue."""
    consumer = f"CONSUMER.INFO.{client.namespace}_work.{activity}"

    async def none_pending() -> bool:
        return not (await client.store.connection.api(consumer))["num_pending"]

    await until(none_pending)


async def pair(
    client: Client, fleet: Fleet, victims_url: str, *, victim_leads: bool = False
) -> tuple[Process, Process]:
    """A node that will go and one that will stay, both sure of themselves; jobs were done before."""
    if victim_leads:
        victim = await fleet.start("victim", url=victims_url)
        await until(lambda: leads(client, victim))
        survivor = await fleet.start("survivor")
    else:
        survivor = await fleet.start("survivor")
        await until(lambda: leads(client, survivor))
        victim = await fleet.start("victim", url=victims_url)
    for handle in await client.submit_many(quick, [{"n": n} for n in range(20)]):
        await handle.result(timeout=30)  # an ack floor of 0 would make a NAK easier than it is
    await sure_of_itself(fleet)
    return victim, survivor


GOES: dict[str, Callable[[Process, Proxy], Awaitable[None]]] = {}


def goes(name: str) -> Callable[[Callable[[Process, Proxy], Awaitable[None]]], None]:
    def note(how: Callable[[Process, Proxy], Awaitable[None]]) -> None:
        GOES[name] = how

    return note


@goes("killed")
async def kill(victim: Process, proxy: Proxy) -> None:
    await victim.kill()


@goes("frozen")
async def freeze(victim: Process, proxy: Proxy) -> None:
    victim.send(signal.SIGSTOP)


@goes("cut-off")
async def cut_off(victim: Process, proxy: Proxy) -> None:
    proxy.block()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("leader", ["the-survivor-leads", "the-victim-leads"])
@pytest.mark.parametrize("how", GOES)
async def test_what_it_was_handed_and_has_not_begun(
    turnout_client: Client, nats_server: NatsServer, fleet: Fleet, how: str, leader: str
) -> None:
    """Jobs that a node was handed in its last moment, with a lease of ten minutes, run elsewhere in time."""

    async def repaired() -> float:
        async with Proxy(nats_server.port) as proxy:
            victim, survivor = await pair(turnout_client, fleet, proxy.url, victim_leads=leader == "the-victim-leads")
            went_at = time.monotonic()
            if how == "cut-off":
                proxy.block()
            else:
                victim.send(signal.SIGSTOP)
            handles = await turnout_client.submit_many(quick, [{"n": n} for n in range(20)])
            await all_handed_over(turnout_client, quick.name)
            await GOES[how](victim, proxy)
            await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
            took_s = time.monotonic() - went_at
            infos = [await handle.info() for handle in handles]
            assert {attempt.node for info in infos for attempt in info.attempts} == {survivor.node}
            return took_s

    assert await quickest(fleet, LIMIT_S, repaired) <= LIMIT_S


@pytest.mark.timeout(300)
async def test_what_is_submitted_while_a_frozen_node_swallows(turnout_client: Client, fleet: Fleet) -> None:
    """A node that freezes has pulls open for half a minute: whatever they swallow is run by another in time."""

    async def repaired() -> float:
        victim, _ = await pair(turnout_client, fleet, "")
        victim.send(signal.SIGSTOP)
        took: list[float] = []

        async def one() -> None:
            began = time.monotonic()
            handle = await turnout_client.submit(quick)
            await handle.result(timeout=60)
            took.append(time.monotonic() - began)

        async with asyncio.TaskGroup() as group:
            for _ in range(int(TTL_S * 5)):
                group.create_task(one())
                await asyncio.sleep(0.5)
        return max(took)

    assert await quickest(fleet, LIMIT_S, repaired) <= LIMIT_S


@pytest.mark.timeout(300)
async def test_what_a_frozen_node_ran_is_not_swallowed_by_it(
    turnout_client: Client, fleet: Fleet, tmp_path: Path
) -> None:
    """What it has run is given back when it is dead, and it may be the first to be handed it again: all of it runs
    elsewhere in time."""

    async def repaired() -> float:
        path = str(tmp_path / f"steps-{len(fleet.processes)}")
        victim = await fleet.start("victim")
        for handle in await turnout_client.submit_many(steps, [{"path": path, "count": 1}] * 20):
            await handle.result(timeout=30)  # an ack floor of 0 would make a NAK easier than it is
        held = await turnout_client.submit_many(steps, [{"path": path, "count": 100_000}] * 8)
        await until(all_are(held, "running"))
        await fleet.start("survivor")
        await sure_of_itself(fleet)
        went_at = time.monotonic()
        victim.send(signal.SIGSTOP)
        again = info_of(held)
        await until(again, within_s=60)
        took_s = time.monotonic() - went_at
        await asyncio.gather(*(handle.cancel() for handle in held))
        return took_s

    def info_of(held: list[JobHandle[Any]]) -> Callable[[], Awaitable[bool]]:
        async def all_again() -> bool:
            return all([(await handle.info()).attempt == 2 for handle in held])

        return all_again

    assert await quickest(fleet, LIMIT_S, repaired) <= LIMIT_S


@pytest.mark.timeout(300)
async def test_what_is_settled_while_the_lease_line_is_away(
    turnout_client: Client, nats_server: NatsServer, fleet: Fleet
) -> None:
    """Code ends while the one connection of its node is away over which it would be settled: its retry is in time."""

    async def repaired() -> float:
        async with Proxy(nats_server.port) as proxy:
            victim, _ = await pair(turnout_client, fleet, proxy.url)
            fails_at_s = time.time() + TTL_S + 2
            handles = await turnout_client.submit_many(fails_at, [{"instant": fails_at_s}] * 15)  # more than one holds
            await until(all_are(handles, "running"))
            assert [handle for handle in handles if (await handle.info()).node == victim.node]
            await asyncio.sleep(max(fails_at_s - time.time() - 1, 0))
            proxy.lose("turnout-leases")
            await asyncio.sleep(2)
            proxy.refuse.clear()
            assert [await handle.result(timeout=90) for handle in handles] == [2] * 15
            infos = [await handle.info() for handle in handles]
            return max(info.attempts[1].started_at.timestamp() for info in infos) - fails_at_s - DELAY_S

    assert await quickest(fleet, LIMIT_S, repaired) <= LIMIT_S


@pytest.mark.timeout(300)
async def test_what_comes_while_the_line_stalls(turnout_client: Client, nats_server: NatsServer, fleet: Fleet) -> None:
    """Retries are handed to a node whose line stalls at that moment, and is cut: they begin in time."""

    async def repaired() -> float:
        async with Proxy(nats_server.port) as proxy:
            await fleet.start("alone", url=proxy.url, concurrency=30)
            await sure_of_itself(fleet)
            failed_at = time.time()
            handles = await turnout_client.submit_many(fails_at, [{"instant": failed_at}] * 20)
            await until(all_are(handles, "retrying"))
            await asyncio.sleep(max(failed_at + DELAY_S - 0.5 - time.time(), 0))
            proxy.block(down=False)
            await asyncio.sleep(1.5)
            proxy.cut()
            proxy.unblock()
            assert [await handle.result(timeout=90) for handle in handles] == [2] * 20
            infos = [await handle.info() for handle in handles]
            return max(info.attempts[1].started_at.timestamp() for info in infos) - failed_at - DELAY_S

    assert await quickest(fleet, LIMIT_S, repaired) <= LIMIT_S


def all_are(handles: list[JobHandle[Any]], state: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return all([(await handle.info()).state == state for handle in handles])

    return check


@pytest.mark.timeout(300)
async def test_hundreds_of_jobs_of_a_frozen_node(turnout_client: Client, fleet: Fleet) -> None:
    """A frozen node is asked once, whatever it has run: the last of its five hundred jobs is free in time, to go on as
    fast as another node can begin them."""

    async def repaired() -> float:
        victim = await fleet.start("victim", concurrency=500)
        await until(lambda: leads(turnout_client, victim))
        handles = await turnout_client.submit_many(fails_at, [{"instant": time.time() + 600}] * 500)

        async def all_run() -> bool:
            return (await turnout_client.count())[JobState.running] == 500

        await until(all_run, within_s=60)
        survivor = await fleet.start("survivor", concurrency=500)
        await sure_of_itself(fleet)
        went_at = time.time()
        victim.send(signal.SIGSTOP)
        await asyncio.gather(*(handle.result(timeout=120) for handle in handles))
        infos = [info async for info in turnout_client.jobs(activity=fails_at.name)]
        mine = [info for info in infos if info.id in {handle.id for handle in handles}]
        assert {info.attempts[1].node for info in mine} == {survivor.node}
        lost_at = [info.attempts[0].ended_at for info in mine]
        return max(at.timestamp() for at in lost_at if at is not None) - went_at

    assert await quickest(fleet, LIMIT_S, repaired) <= LIMIT_S


@pytest.mark.timeout(400)
async def test_a_verdict_beside_thirty_thousand_jobs_that_wait(turnout_client: Client, fleet: Fleet) -> None:
    """An outage of a third party has 30,000 jobs wait for their retry, all of them handed over, with records: what a
    killed node has run, which was the one that supervised, is free as soon as anywhere."""
    await fleet.start("first", concurrency=200)
    for begin in range(0, WAITING, 5_000):
        await turnout_client.submit_many(put_off, [{"n": n} for n in range(begin, begin + 5_000)])
    consumer = f"CONSUMER.INFO.{turnout_client.namespace}_work.{put_off.name}"

    async def all_wait() -> bool:
        info = await turnout_client.store.connection.api(consumer)
        return not info["num_pending"] and (await turnout_client.count(activity=put_off))[JobState.retrying] == WAITING

    await until(all_wait, within_s=200)
    await fleet.processes[0].terminate()

    async def repaired() -> float:
        victim = await fleet.start("victim", concurrency=20)
        await until(lambda: leads(turnout_client, victim))
        handles = await turnout_client.submit_many(fails_at, [{"instant": time.time() + 600}] * 20)
        await until(all_are(handles, "running"))
        survivor = await fleet.start("survivor", concurrency=20)
        await sure_of_itself(fleet)
        went_at = time.time()
        await victim.kill()
        await asyncio.gather(*(handle.result(timeout=120) for handle in handles))
        infos = [await handle.info() for handle in handles]
        assert {info.attempts[1].node for info in infos} == {survivor.node}
        lost_at = [info.attempts[0].ended_at for info in infos]
        return max(at.timestamp() for at in lost_at if at is not None) - went_at

    assert await quickest(fleet, LIMIT_S, repaired) <= LIMIT_S
    assert (await turnout_client.count(activity=put_off))[JobState.retrying] == WAITING


@pytest.mark.timeout(180)
async def test_a_running_job_whose_message_is_gone_goes_on_from_its_record(
    turnout_client: Client, fleet: Fleet, tmp_path: Path
) -> None:
    """Somebody purges the stream, or a power cut takes its end, and the owner dies: within a minute the loss is
    counted, and the job goes on at its checkpoint. So does one that waits for its retry."""
    owner = await fleet.start("owner")
    running = await turnout_client.submit(steps, str(tmp_path / "steps"), count=100_000)
    waiting = await turnout_client.submit(fails_at, time.time())
    await until(info_is(running, lambda info: info.progress is not None and info.progress.done >= 5))
    await until(all_are([waiting], "retrying"))
    await fleet.start("other")
    await sure_of_itself(fleet)
    await turnout_client.store.connection.api(f"STREAM.PURGE.{turnout_client.store.names.work}")
    await owner.kill()
    info = await until(info_is(running, lambda info: info.attempt == 2), within_s=60)
    assert ([attempt.outcome for attempt in info.attempts], info.losses) == (["lost", "running"], 1)
    assert info.checkpoint is not None
    assert info.checkpoint >= 5
    assert await waiting.result(timeout=60) == 2
    await running.cancel()
