"""Builds side by side: runs that are pinned to one stay with its workers, and what is seen when none of them lives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import double
from turnout import (
    Client,
    Fatal,
    QueryFailed,
    Worker,
    WorkflowEnded,
    WorkflowFaulted,
    WorkflowState,
    activity,
    current_workflow,
    workflow,
    workflow_ref,
)
from turnout.errors import InvalidValue
from turnout.testing import NatsServer

ran: Counter[str] = Counter()


@activity
async def note(build: str) -> str:
    ran[build] += 1
    return build


def counter(build: str) -> Any:
    """A workflow that does something else in each build: no build can do another one's runs."""

    @workflow(name="counter")
    class Counting:
        def __init__(self, rounds: int) -> None:
            self.heard: list[str] = []

        @workflow.run
        async def run(self, rounds: int) -> list[str]:
            wf = current_workflow()
            for _ in range(2):
                self.heard.append(await note(build))
                await note(f"{build} alone") if build == "two" else None
                await wf.receive("go")
            if rounds > 1:
                wf.continue_as_new(rounds - 1)
            return self.heard

        @workflow.query
        def said(self) -> str:
            return build

    return Counting


def worker(client: Client, build: str, **options: Any) -> Worker:
    return Worker(client, activities=[note], workflows=[counter(build)], build=build, **{"pin": True, **options})


async def waits(client: Client, workflow_id: str) -> None:
    """Returns when the workflow waits for a signal."""

    async def so() -> bool:
        return [each.kind for each in (await client.workflow(workflow_id).info()).waiting] == ["signal"]

    await until(so)


async def test_each_run_stays_with_its_build(client: Client, server: NatsServer) -> None:
    """Begun by one build, a run goes on there beside the newer one, which has what begins; so do its queries."""
    async with Client.connect(server.url, namespace=client.namespace) as other, worker(client, "one"):
        old = [await client.start("counter", {"rounds": 1}) for _ in range(5)]
        for each in old:
            await waits(client, each.id)
        async with worker(other, "two"):
            new = [await client.start("counter", {"rounds": 1}) for _ in range(5)]
            for handle in (*old, *new):
                await handle.signal("go")
                await handle.signal("go")
            for build, handles in (("one", old), ("two", new)):
                for handle in handles:
                    assert await handle.result(timeout=30) == [build, build]
                    info = await handle.info()
                    assert (info.build, info.pinned) == (build, True)
                    assert await handle.query("said") == build


async def test_the_next_run_is_the_newest_builds(client: Client, server: NatsServer) -> None:
    """At continue-as-new a pinned workflow moves on to the newest build that lives."""
    async with Client.connect(server.url, namespace=client.namespace) as other, worker(client, "one"):
        handle = await client.start("counter", {"rounds": 2})
        await waits(client, handle.id)
        assert await handle.query("said") == "one"
        async with worker(other, "two"):
            for _ in range(4):
                await handle.signal("go")
            assert await handle.result(timeout=30) == ["two", "two"]
            assert await handle.query("said") == "two"
            assert (await handle.info()).build == "two"


async def test_a_fork_is_the_newest_builds(client: Client, server: NatsServer) -> None:
    """So a retry is done by the repaired code, also while the broken build goes on beside it."""

    def build(name: str) -> Any:
        @workflow(name="repaired")
        async def repaired() -> str:
            await note("step")
            if name == "broken":
                raise Fatal("a bug")
            return name

        return repaired

    def of_build(client: Client, name: str) -> Worker:
        return Worker(client, activities=[note], workflows=[build(name)], build=name, pin=True)

    async with Client.connect(server.url, namespace=client.namespace) as other, of_build(client, "broken"):
        handles = [await client.start("repaired", {}) for _ in range(6)]
        for each in handles:
            with pytest.raises(WorkflowFaulted, match="a bug"):
                await each.result(timeout=30)
        async with of_build(other, "mended"):
            forks = [await each.retry() for each in handles]
            assert [await each.result(timeout=30) for each in forks] == ["mended"] * 6


async def test_without_a_worker_of_its_build(client: Client) -> None:
    """It waits and says so, whoever else works; a worker of its build goes on, or a person lets another one."""
    fitting: Any = counter("one")
    async with worker(client, "one"):
        handles = [await client.start("counter", {"rounds": 1}) for _ in range(2)]
        for each in handles:
            await waits(client, each.id)
    async with Worker(client, activities=[note], workflows=[fitting], build="three"):
        for handle in handles:
            await handle.signal("go")
            info = await handle.info()
            assert info.reason == "waits for a worker of build one"
        with pytest.raises(QueryFailed, match="no worker of workflow counter of build one is alive"):
            await handles[0].with_timeout(0.5).query("said")
        await handles[0].resume()
        await handles[0].signal("go")
        assert await handles[0].result(timeout=30) == ["one", "one"]
        assert (await handles[1].info()).state is WorkflowState.running
        await handles[1].signal("go")
    async with worker(client, "one"):
        assert await handles[1].result(timeout=30) == ["one", "one"]
        assert (await handles[1].info()).reason is None
        with pytest.raises(WorkflowEnded):
            await handles[1].resume()


async def test_what_nobody_can_begin_says_so(client: Client) -> None:
    """Where no living worker has the workflow it waits, and says for whom, alone and in a list, delayed or not."""
    waiting = "waits for a worker of workflow counter"
    handle = await client.start("counter", {"rounds": 1})
    delayed = await client.start(workflow_ref("counter").options(delay=3600), {"rounds": 1})
    assert [(await each.info()).reason for each in (handle, delayed)] == [waiting, waiting]
    assert [info.reason async for info in client.workflows()] == [waiting, waiting]
    async with worker(client, "one"):
        await waits(client, handle.id)
        assert (await handle.info()).reason is None
    await delayed.terminate("enough")
    assert (await delayed.info()).reason == "enough"


async def test_a_stuck_run_is_moved_to_another_build(client: Client, server: NatsServer) -> None:
    """A bug in the build that a run is pinned to is mended by a resume, where the repaired build lives beside it."""

    def code(repaired: bool) -> Any:
        @workflow(name="fragile")
        async def fragile() -> str:
            await current_workflow().receive("go")
            if not repaired:
                raise KeyError("a bug")
            return "mended"

        return fragile

    async with (
        Client.connect(server.url, namespace=client.namespace) as other,
        Worker(client, workflows=[code(False)], build="one", pin=True),
    ):
        handle = await client.start("fragile")
        await waits(client, handle.id)
        await handle.signal("go")

        async def stuck() -> bool:
            return (await handle.info()).state is WorkflowState.stuck

        await until(stuck)
        async with Worker(other, workflows=[code(True)], build="two", pin=True):
            await handle.resume()
            assert await handle.result(timeout=60) == "mended"
            assert (await handle.info()).build == "two"


async def test_a_terminate_needs_no_build(client: Client) -> None:
    """A pinned run without a worker of its build is ended like any other, by the client or by a bare message."""
    async with worker(client, "one"):
        handles = [await client.start("counter", {"rounds": 1}) for _ in range(2)]
        for each in handles:
            await waits(client, each.id)
    async with worker(client, "two"):
        await handles[0].terminate()
        subject = f"{client.namespace}.workflows.counter.{handles[1].id}.terminate"
        await client.store.connection.store(subject, b"", {})

        async def ended() -> bool:
            return (await handles[1].info()).state is WorkflowState.terminated

        assert (await handles[0].info()).state is WorkflowState.terminated
        await until(ended)


async def test_the_build_is_a_hash_of_the_code(client: Client) -> None:
    """The same code is the same build, other code another; a name of one's own is checked where it is given."""

    async def build_of(*workflows: Any, **options: Any) -> str:
        async with Worker(client, activities=[double], workflows=workflows, **options) as started:
            (node,) = [each for each in await client.nodes() if each.id == started.id]
            return node.build

    @workflow(name="thing")
    async def one() -> int:
        return await double(1)

    @workflow(name="thing")
    async def two() -> int:
        return await double(2)

    assert await build_of(one) == await build_of(one)
    assert await build_of(one) != await build_of(two)
    assert await build_of(one, build="v1.2 (blue)", pin=True) == "v1.2 (blue)"
    for wrong in ("", "a\nb", "x" * 101, 7):
        with pytest.raises(InvalidValue, match="build must be"):
            Worker(client, workflows=[one], build=wrong)  # type: ignore[arg-type]
