"""Stuck workflows are tried again in time, and what kills the processes of workers is stopped."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import double
from tests.workflows.test_trouble import bad, good, stuck
from turnout import Client, Worker, WorkflowState, current_workflow, workflow
from turnout.core.workflows.caution import POISON, trying_record
from turnout.core.workflows.standing import stand
from turnout.core.workflows.task import Author
from turnout.store.topology import workflow_consumer_config

LOADED: list[str] = []


@workflow(name="deadly")
async def deadly(kill: bool) -> str:
    LOADED.append(current_workflow().id)
    if kill:
        os._exit(3)
    return "alive"


async def hold(client: Client, name: str) -> None:
    """Take the wake-ups of this workflow's name and keep them: nobody else is handed them for ten seconds."""
    store = client.store
    inbox = store.connection.new_inbox()
    taken: asyncio.Queue[Any] = asyncio.Queue()
    subscription = await store.connection.subscribe(inbox, taken.put_nowait)
    asked = b'{"batch": 1, "expires": 60000000000}'
    store.connection.send(f"$JS.API.CONSUMER.MSG.NEXT.{store.names.inbox}.{name}", asked, reply=inbox)
    async with asyncio.timeout(30):
        await taken.get()
    await subscription.close()


async def break_and_hold(client: Client) -> None:
    """A workflow `w` that is stuck in the build `one`, and whose input nobody is handed for a while."""
    handle = await client.start(bad().options(id="w"))
    async with Worker(client, activities=[double], workflows=[bad()], build="one"):
        await handle.signal("go", "a")
        await handle.signal("go", "b")
        await stuck(client, "w")
    await hold(client, "thing")


async def test_a_new_build_tries_what_is_stuck_at_once(client: Client) -> None:
    """A starting worker wakes the stuck workflows of its names that another build could not go on with."""
    await break_and_hold(client)
    async with Worker(client, activities=[double], workflows=[good()], build="two"):
        assert await client.workflow("w").result(timeout=30) == "a b"


async def test_a_person_has_a_stuck_one_tried(client: Client) -> None:
    """resume() wakes a stuck workflow, whatever the build; nothing is recorded where it fails again."""
    await break_and_hold(client)
    handle = client.workflow("w")
    async with Worker(client, activities=[double], workflows=[good()], build="one"):
        await handle.resume()
        assert await handle.result(timeout=30) == "a b"
    again = await client.start(bad().options(id="v"))
    async with Worker(client, activities=[double], workflows=[bad()], build="one"):
        await again.signal("go", "a")
        await again.signal("go", "b")
        await stuck(client, "v")
        before = len(await again.history())
        await again.resume()
        assert await until(lambda: _inbox_has(client, "v", 1))
        assert len(await again.history()) == before


async def _inbox_has(client: Client, workflow_id: str, count: int) -> bool:
    lying = await client.store.inbox.read("thing", workflow_id, set(), whole=True)
    return len(lying) >= count


async def died_over(client: Client, workflow_id: str, nodes: int) -> None:
    """Records of so many nodes that were about to try the workflow, and are no more."""
    histories = client.store.histories
    for number in range(nodes):
        newest = await histories.newest(workflow_id)
        assert newest is not None
        records = await histories.read(workflow_id, newest)
        standing = stand([(each.record, each.seq) for each in records])
        author = Author(f"dead-{number}", "one", f"nonce{number}")
        await histories.append(trying_record(standing, author, client.store.connection.now()), newest.seq)


async def test_what_has_killed_three_nodes_is_not_loaded(client: Client) -> None:
    """It is stuck and says who died; other workflows go on; a person, or another build, has it tried."""
    handle = await client.start(deadly.options(id="poison"), False)
    await died_over(client, "poison", 3)
    async with Worker(client, workflows=[deadly], build="one"):
        info = await stuck(client, "poison")
        assert info.reason == POISON
        assert info.error is not None
        assert "dead-0, dead-1, dead-2" in info.error.message
        assert await (await client.start(deadly, False)).result(timeout=30) == "alive"
        assert "poison" not in LOADED
        await handle.resume()
        assert await handle.result(timeout=30) == "alive"
    other = await client.start(deadly.options(id="poison2"), False)
    await died_over(client, "poison2", 3)
    async with Worker(client, workflows=[deadly], build="one"):
        await stuck(client, "poison2")
    async with Worker(client, workflows=[deadly], build="two"):
        assert await other.result(timeout=30) == "alive"


async def test_two_dead_nodes_are_no_proof(client: Client) -> None:
    """With fewer deaths it is tried, and goes on."""
    handle = await client.start(deadly.options(id="unlucky"), False)
    await died_over(client, "unlucky", 2)
    async with Worker(client, workflows=[deadly]):
        assert await handle.result(timeout=30) == "alive"


WORKER = """
import asyncio, sys, turnout
from tests.workflows.test_caution import deadly
async def main():
    async with turnout.Client.connect(sys.argv[1], namespace=sys.argv[2]) as client:
        async with turnout.Worker(client, workflows=[deadly], build="one", liveness_ttl=1):
            await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.long
async def test_a_workflow_that_kills_its_process(client: Client, server: Any) -> None:
    """Process after process dies, until it is stuck before its code is loaded: the next worker lives and works."""
    config = {**workflow_consumer_config(client.store.names, "deadly"), "ack_wait": 1_000_000_000}
    stream = client.store.names.inbox
    body = {"stream_name": stream, "config": config, "action": ""}
    await client.store.connection.api(f"CONSUMER.CREATE.{stream}.deadly", body)
    handle = await client.start(deadly.options(id="killer"), True)
    deaths = 0
    while True:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, server.url, client.namespace)
        ended = asyncio.ensure_future(process.wait())
        settled = asyncio.ensure_future(until(lambda: _is_stuck(client, "killer"), within_s=60))
        await asyncio.wait([ended, settled], return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        if not ended.done():
            break
        deaths += 1
        assert deaths <= 8
    assert deaths >= 3
    assert await (await client.start(deadly, False)).result(timeout=30) == "alive"
    assert (await handle.info()).reason == POISON
    process.terminate()
    await ended


async def _is_stuck(client: Client, workflow_id: str) -> bool:
    return (await client.workflow(workflow_id).info()).state is WorkflowState.stuck
