"""Nodes die, freeze and stop; their jobs go on elsewhere. Real processes, real signals."""

from __future__ import annotations

import asyncio
import functools
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.crash.activities import bystand, poison, steps, wait_for
from tests.crash.fleet import TTL_S, Fleet, Process
from tests.crash.scene import leads
from tests.support.waiting import letters, until
from turnout import Client, JobFaulted, JobInfo, JobState
from turnout.testing import NatsServer


def runs_on(node: str, info: JobInfo) -> bool:
    return info.node == node


def info_is(handle: Any, test: Callable[[JobInfo], object]) -> Callable[[], Awaitable[JobInfo | None]]:
    """A condition on a job's info."""

    async def check() -> JobInfo | None:
        info: JobInfo = await handle.info()
        return info if test(info) else None

    return check


def by_node(fleet: Fleet, node: str | None) -> Process:
    return next(process for process in fleet.processes if process.node == node)


async def sure_of_itself(fleet: Fleet) -> None:
    """Nobody calls another dead until it has been in order for one TTL."""
    await asyncio.sleep(TTL_S + 1)


async def quickest(fleet: Fleet, within_s: float, repaired: Callable[[], Awaitable[float]]) -> float:
    """How long a repair takes: the best of up to three, for a machine that stands still for a second costs one."""
    took_s = []
    for _ in range(3):
        took_s.append(await repaired())
        if took_s[-1] <= within_s:
            break
        for process in fleet.processes:
            await process.kill()
        await asyncio.sleep(TTL_S + 1)
    return min(took_s)


@pytest.mark.timeout(400)
async def test_a_killed_nodes_job_goes_on_elsewhere_within_the_ttl_and_two_seconds(
    turnout_client: Client, fleet: Fleet, tmp_path: Path
) -> None:
    """SIGKILL: the attempt is recorded as lost, the next begins at the checkpoint, in time, however long the lease."""

    async def repaired() -> float:
        for name in ("a", "b"):
            await fleet.start(name)
        await sure_of_itself(fleet)
        path = tmp_path / f"steps-{len(fleet.processes)}"
        handle = await turnout_client.submit(steps, str(path), count=30)
        info = await until(info_is(handle, lambda i: i.progress is not None and i.progress.done >= 5))
        victim = by_node(fleet, info.node or "nobody")
        await victim.kill()
        killed_at = time.monotonic()
        await until(info_is(handle, lambda i: i.attempt == 2), within_s=TTL_S + 10)
        took_s = time.monotonic() - killed_at
        assert await handle.result(timeout=30) == 2
        final = await handle.info()
        assert [a.outcome for a in final.attempts] == ["lost", "completed"]
        assert final.losses == 1
        done = [int(line.split()[0]) for line in path.read_text().splitlines()]
        assert sorted(set(done)) == list(range(30))
        assert len(done) <= 31  # at most the step between its line and its checkpoint was done twice
        assert victim.node not in {node.id for node in await turnout_client.nodes()}
        return took_s

    assert await quickest(fleet, TTL_S + 2, repaired) <= TTL_S + 2


async def test_a_job_shows_as_suspect_between_its_nodes_lapse_and_the_verdict(
    turnout_client: Client, fleet: Fleet, tmp_path: Path
) -> None:
    """With nobody there to take over, the job says that its node has not been heard of."""
    only = await fleet.start("only")
    handle = await turnout_client.submit(steps, str(tmp_path / "steps"), count=1000)
    await until(info_is(handle, lambda i: i.node == only.node))
    await only.kill()
    info = await until(info_is(handle, lambda i: i.suspect), within_s=TTL_S + 10)
    assert info.state == "running"


async def test_a_zombie_changes_nothing(turnout_client: Client, fleet: Fleet, tmp_path: Path) -> None:
    """A frozen node whose job another has finished wakes up: its code is stopped, and nothing it says counts."""
    for name in ("a", "b"):
        await fleet.start(name)
    await sure_of_itself(fleet)
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    handle = await turnout_client.submit(wait_for, str(gate), str(notes))
    info = await until(info_is(handle, lambda i: i.node is not None))
    zombie = by_node(fleet, info.node or "nobody")
    zombie.send(signal.SIGSTOP)
    await until(info_is(handle, lambda i: i.attempt == 2 and i.node is not None), within_s=TTL_S + 15)
    second = (await handle.info()).node
    zombie.send(signal.SIGCONT)

    async def told() -> bool:
        return notes.exists() and "lease_lost" in notes.read_text()

    await until(told, within_s=30)
    assert (await handle.info()).node == second
    gate.write_text("open")
    assert await handle.result(timeout=30) == second
    final = await handle.info()
    assert [a.outcome for a in final.attempts] == ["lost", "completed"]


async def test_poison_is_faulted_with_no_worker_left(turnout_client: Client, fleet: Fleet) -> None:
    """A job that kills every process that touches it ends in the hands of an operator, by a supervisor alone."""
    await fleet.supervisor()
    handle = await turnout_client.submit(poison)
    for _ in range(3):
        await (await fleet.start("victim")).wait()
    with pytest.raises(JobFaulted, match="loss 3"):
        await handle.result(timeout=60)
    info = await handle.info()
    assert [a.outcome for a in info.attempts] == ["lost"] * 3
    assert info.reason == "lost"
    [letter] = await letters(turnout_client, 1)
    assert (letter.id, len(letter.attempts)) == (handle.id, 3)
    state = await turnout_client.store.connection.api(f"STREAM.INFO.{turnout_client.namespace}_work")
    assert state["state"]["messages"] == 0


async def test_poison_does_not_fault_its_neighbours(turnout_client: Client, fleet: Fleet, tmp_path: Path) -> None:
    """A job kills its node again and again, which somebody restarts: it is faulted, and nothing that ran beside it."""
    gate = tmp_path / "gate"
    await fleet.supervisor()
    neighbours = await turnout_client.submit_many(bystand, [{"gate": str(gate)}] * 4)

    async def restart() -> None:
        while True:
            await (await fleet.start("victim")).wait()

    restarting = asyncio.create_task(restart())
    try:

        async def all_run() -> bool:
            return (await turnout_client.count())[JobState.running] == len(neighbours)

        await until(all_run, 60)
        culprit = await turnout_client.submit(poison)
        await until(info_is(culprit, lambda info: info.losses == 2), 90)
        gate.touch()
        with pytest.raises(JobFaulted, match="loss 3"):
            await culprit.result(timeout=90)
        for each in neighbours:
            assert await each.result(timeout=60) > 1
            assert (await each.info()).losses <= 2
    finally:
        restarting.cancel()
        await asyncio.wait({restarting})


async def test_twenty_rolling_restarts_cost_no_budget(turnout_client: Client, fleet: Fleet, tmp_path: Path) -> None:
    """Stopping in order hands a job over within seconds, twenty times over: no loss, no failure, no cancel."""
    current = await fleet.start("n0")
    handle = await turnout_client.submit(steps, str(tmp_path / "steps"), count=100_000)
    await until(info_is(handle, lambda i: i.node == current.node))
    for turn in range(1, 21):
        following = await fleet.start(f"n{turn}")
        stopped_at = time.monotonic()
        assert await current.terminate() == 0
        await until(info_is(handle, functools.partial(runs_on, following.node)))
        assert time.monotonic() - stopped_at < 10
        current = following
    info = await handle.info()
    assert (info.state, info.losses, info.failures, info.aborts) == ("running", 0, 0, 20)


@pytest.mark.timeout(400)
async def test_the_supervisor_and_its_jobs_are_taken_over_when_one_process_dies(
    turnout_client: Client, fleet: Fleet, tmp_path: Path
) -> None:
    """The process that holds the leader's key and runs the job dies: both are repaired within the TTL and 2 s."""

    async def repaired() -> float:
        first = await fleet.start("first")
        await until(lambda: leads(turnout_client, first))
        handle = await turnout_client.submit(steps, str(tmp_path / f"steps-{len(fleet.processes)}"), count=100)
        await until(info_is(handle, lambda i: i.node == first.node))
        await fleet.start("second")
        await sure_of_itself(fleet)
        await first.kill()
        killed_at = time.monotonic()
        await until(info_is(handle, lambda i: i.attempt == 2), within_s=TTL_S + 15)
        return time.monotonic() - killed_at

    assert await quickest(fleet, TTL_S + 2, repaired) <= TTL_S + 2


async def test_two_hundred_running_jobs_survive_a_killed_server(tmp_path: Path) -> None:
    """The server is killed, away for several leases and liveness TTLs, and back: every job goes on in its attempt."""
    with NatsServer() as server:
        async with Client.connect(server.url) as client, Fleet(server.url, "turnout", tmp_path) as fleet:
            for name in ("a", "b"):
                await fleet.start(name, concurrency=100, ttl_s=2.0)
            gate = tmp_path / "gate"
            payloads = [{"path": str(gate), "notes": str(tmp_path / "notes")}] * 200
            handles = await client.submit_many(wait_for, payloads)

            async def all_run() -> bool:
                return (await client.count())[JobState.running] == 200

            await until(all_run, within_s=60)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(8)
            await asyncio.to_thread(server.start)
            gate.write_text("open")
            await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
            infos = await asyncio.gather(*(handle.info() for handle in handles))
            assert {(len(i.attempts), i.attempts[0].outcome) for i in infos} == {(1, "completed")}
