"""The network between a worker and the server: slow, half open, cut one way, cut for long, and healed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.crash.activities import flaky, stroll, wait_for
from tests.crash.fleet import TTL_S, Fleet, Process
from tests.support.proxy import Proxy
from tests.support.waiting import until
from turnout import Client, JobInfo
from turnout.testing import NatsServer

BLOCKS: dict[str, Callable[[Proxy], None]] = {
    "both-ways": lambda proxy: proxy.block(),
    "to-the-server": lambda proxy: proxy.block(down=False),
    "from-the-server": lambda proxy: proxy.block(up=False),
}


@pytest_asyncio.fixture
async def proxy(nats_server: NatsServer) -> AsyncIterator[Proxy]:
    async with Proxy(nats_server.port) as proxy:
        yield proxy


async def reaches(handle: Any, test: Callable[[JobInfo], object], within_s: float = 60) -> JobInfo:
    async def check() -> JobInfo | None:
        info: JobInfo = await handle.info()
        return info if test(info) else None

    return await until(check, within_s)


async def told(notes: Path, what: str) -> None:
    """Wait until the code has noted why it was stopped."""

    async def check() -> bool:
        return notes.exists() and what in notes.read_text()

    await until(check, 60)


async def far_and_near(fleet: Fleet, proxy: Proxy, client: Client, gate: Path, notes: Path) -> tuple[Any, Process]:
    """A job that runs on a node behind the proxy, and another node that is sure of itself."""
    far = await fleet.start("far", url=proxy.url)
    handle = await client.submit(wait_for, str(gate), str(notes))
    await reaches(handle, lambda info: info.node == far.node)
    await fleet.start("near")
    await asyncio.sleep(TTL_S + 1)
    return handle, far


async def test_latency_costs_no_attempt(turnout_client: Client, fleet: Fleet, proxy: Proxy) -> None:
    """With 150 ms each way every job runs in one attempt, and checkpoints are durable."""
    proxy.latency_s = 0.15
    await fleet.start("far", url=proxy.url)
    handles: list[Any] = await turnout_client.submit_many(flaky, [{"n": n} for n in range(1, 5)])
    handles.append(await turnout_client.submit(stroll, 5))
    await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
    infos = [await handle.info() for handle in handles]
    assert {(info.state, info.attempt, info.losses) for info in infos} == {("completed", 1, 0)}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
async def test_who_is_cut_off_for_long_is_overtaken_and_changes_nothing(
    turnout_client: Client, fleet: Fleet, proxy: Proxy, tmp_path: Path, block: Callable[[Proxy], None]
) -> None:
    """Cut off for longer than the TTL, the job ends elsewhere; back again, the first node is told so, and what it says
    counts for nothing."""
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    handle, far = await far_and_near(fleet, proxy, turnout_client, gate, notes)
    block(proxy)
    info = await reaches(handle, lambda info: info.attempt == 2)
    assert info.node != far.node
    proxy.unblock()
    await told(notes, f"1 {far.node} lease_lost")
    gate.touch()
    assert await handle.result(timeout=30) != far.node
    final = await handle.info()
    assert [a.outcome for a in final.attempts] == ["lost", "completed"]
    await nothing_is_left(turnout_client)


async def test_a_result_that_comes_too_late_changes_nothing(
    turnout_client: Client, fleet: Fleet, proxy: Proxy, tmp_path: Path
) -> None:
    """The code of the cut-off node ends while it is cut off, and so does the other's: the other's result stays."""
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    handle, far = await far_and_near(fleet, proxy, turnout_client, gate, notes)
    proxy.block()
    await reaches(handle, lambda info: info.attempt == 2)
    gate.touch()
    near = await handle.result(timeout=30)
    before = await handle.info()
    assert before.node is None or near != far.node
    proxy.unblock()

    async def back() -> bool:
        return far.node in {node.id for node in await turnout_client.nodes()}

    await until(back, 60)
    late = await turnout_client.submit(flaky, 1)
    await late.result(timeout=30)
    assert await handle.info() == before
    assert [a.outcome for a in before.attempts] == ["lost", "completed"]
    await nothing_is_left(turnout_client)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
async def test_a_short_cut_costs_no_attempt(
    turnout_client: Client, fleet: Fleet, proxy: Proxy, tmp_path: Path, block: Callable[[Proxy], None]
) -> None:
    """Cut off for less than the TTL, the node goes on in its attempt."""
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    handle, far = await far_and_near(fleet, proxy, turnout_client, gate, notes)
    block(proxy)
    await asyncio.sleep(TTL_S * 0.4)
    proxy.unblock()
    await asyncio.sleep(TTL_S * 2)
    gate.touch()
    assert await handle.result(timeout=30) == far.node
    assert (await handle.info()).attempt == 1


async def test_with_nobody_to_take_over_a_cut_off_node_goes_on(
    turnout_client: Client, fleet: Fleet, proxy: Proxy, tmp_path: Path
) -> None:
    """Cut off for much longer than TTL and lease, a node alone finishes its attempt, with late checkpoints."""
    await fleet.start("far", url=proxy.url)
    handle = await turnout_client.submit(stroll, 40)
    await reaches(handle, lambda info: info.checkpoint is not None)
    proxy.block()
    await asyncio.sleep(TTL_S * 3)
    proxy.unblock()
    assert await handle.result(timeout=60) == 40
    info = await handle.info()
    assert [a.outcome for a in info.attempts] == ["completed"]
    await nothing_is_left(turnout_client)


async def test_cuts_again_and_again_lose_nothing(turnout_client: Client, fleet: Fleet, proxy: Proxy) -> None:
    """Connections that are reset every second while two hundred jobs run: each of them ends once."""
    await fleet.start("far", url=proxy.url)
    await fleet.start("near")
    handles = await turnout_client.submit_many(flaky, [{"n": n, "pause": 0.3} for n in range(200)])
    for _ in range(8):
        await asyncio.sleep(1)
        proxy.cut()
    assert [await handle.result(timeout=60) for handle in handles] == list(range(200))
    infos = [await handle.info() for handle in handles]
    assert {sum(a.outcome == "completed" for a in info.attempts) for info in infos} == {1}
    await nothing_is_left(turnout_client)


async def nothing_is_left(client: Client) -> None:
    async def check() -> bool:
        info = await client.store.connection.api(f"STREAM.INFO.{client.store.names.work}")
        return bool(info["state"]["messages"] == 0)

    await until(check, 30)
