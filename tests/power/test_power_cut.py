"""The power goes: with a server that syncs all that was acknowledged is there, without one what is left works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.power.disk import Disk, disk_or_skip
from tests.support.waiting import until
from turnout import Client, JobInfo, JobNotFound, Worker, activity, current_job
from turnout.testing import NatsServer

ALWAYS = "jetstream { sync_interval: always }"
QUICK, WAITING = 200, 200


@activity(lease=5)
async def quick(n: int) -> int:
    """Ends at once."""
    return n


@activity(lease=5)
async def lengthy(steps: int) -> int:
    """Checkpoints without end; goes on from the last one that was acknowledged."""
    job = current_job()
    done = job.restored(int) or 0
    while done < steps:
        await asyncio.sleep(0.02)
        done += 1
        await job.checkpoint(done)
        job.progress(done, steps)
    return done


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[list[Disk]]:
    """The disk, and room for what becomes of it."""
    made = [disk_or_skip(tmp_path)]
    yield made
    for disk in made:
        disk.unmount()


@asynccontextmanager
async def power_cut(
    disks: list[Disk], config: str | None
) -> AsyncIterator[tuple[NatsServer, list[str], list[str], int]]:
    """Submit, run and checkpoint until the power goes, then start a server on what is left of its disk.

    Gives that server, the ids of the jobs whose result was told, of those whose submission was acknowledged, and the
    checkpoint that was acknowledged last.
    """
    with ExitStack() as stack:
        server = stack.enter_context(NatsServer(store_dir=disks[0].path / "nats", config=config))
        async with Client.connect(server.url) as client:
            worker = Worker(client, activities=[quick, lengthy], concurrency=50, name="before", liveness_ttl=2)
            await worker.start()
            handles = await client.submit_many(quick, [{"n": n} for n in range(QUICK)])
            await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
            long = await client.submit(lengthy.options(id="long"), 100_000)

            async def well_on_its_way() -> int:
                info: JobInfo = await long.info()
                return (info.checkpoint or 0) if (info.checkpoint or 0) > 20 else 0

            checkpoint = await until(well_on_its_way, 60)
            waiting = await asyncio.gather(*(client.submit("later", {"n": n}) for n in range(WAITING)))
            await asyncio.to_thread(server.pause)
            disks.append(disks[0].after_a_power_cut("after"))
            await asyncio.to_thread(server.kill)
            await worker.stop(grace=0)
        disks[0].unmount()
        after = stack.enter_context(NatsServer(store_dir=disks[1].path / "nats", config=config))
        yield after, [handle.id for handle in handles], [handle.id for handle in waiting], checkpoint


async def states(client: Client, activity_name: str, ids: list[str]) -> list[str]:
    """The state of each job; `lost` when nobody knows it."""
    found = []
    for job_id in ids:
        try:
            found.append((await client.job(job_id, activity_name).info()).state.value)
        except JobNotFound:
            found.append("lost")
    return found


async def test_with_sync_always_a_power_cut_loses_nothing_that_was_acknowledged(disks: list[Disk]) -> None:
    """Every acknowledged job is there, every told result still stands, the last acknowledged checkpoint is the start of
    the next attempt."""
    async with power_cut(disks, ALWAYS) as (server, ended, waiting, checkpoint), Client.connect(server.url) as client:
        assert set(await states(client, "quick", ended)) == {"completed"}
        assert set(await states(client, "later", waiting)) == {"queued"}
        before = await client.job("long").info()
        assert before.checkpoint >= checkpoint
        async with Worker(client, activities=[quick, lengthy], name="after", liveness_ttl=2):

            async def goes_on() -> bool:
                info = await client.job("long").info()
                return info.attempt == 2 and info.checkpoint > before.checkpoint

            await until(goes_on, 60)
            assert [a.outcome for a in (await client.job("long").info()).attempts] == ["lost", "running"]
            await client.job("long").cancel()


async def test_without_it_acknowledged_jobs_are_lost_and_what_is_left_works(
    disks: list[Disk], capsys: pytest.CaptureFixture[str]
) -> None:
    """The server's default loses what it has acknowledged (so the cut is one); turnout goes on with what is left."""
    async with power_cut(disks, None) as (server, ended, waiting, _), Client.connect(server.url) as client:
        told, stored = await states(client, "quick", ended), await states(client, "later", waiting)
        lost = told.count("lost") + stored.count("lost")
        with capsys.disabled():
            print(f"\nwithout sync_interval: always {lost} of {len(ended) + len(waiting)} acknowledged jobs were lost")
        assert lost > 0
        async with Worker(client, activities=[quick, lengthy], name="after", liveness_ttl=2):
            handles = await client.submit_many(quick, [{"n": n} for n in range(20)])
            assert [await handle.result(timeout=60) for handle in handles] == list(range(20))
