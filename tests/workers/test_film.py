"""workers.media's workflow with the real ffmpeg: a film that is converted in pieces on two nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.processes import named
from tests.support.waiting import until
from turnout import Activity, Client, Worker, WorkflowCancelled, WorkflowFaulted
from turnout.client.workflows.handle import AnyWorkflowHandle
from turnout.testing import NatsServer
from workers import ffmpeg, media
from workers.media import convert_film

ACTIVITIES: list[Activity[..., Any]] = [
    *(media.split_film, media.convert_piece_of, media.join_film),
    *(media.publish_film, media.discard_film),
]


@pytest_asyncio.fixture
async def nodes(nats_server: NatsServer, turnout_client: Client) -> AsyncIterator[list[Worker]]:
    """Two nodes of one slot each."""
    async with Client.connect(nats_server.url, namespace=turnout_client.namespace) as second:
        workers = [
            Worker(client, activities=ACTIVITIES, workflows=[convert_film], concurrency=1)
            for client in (turnout_client, second)
        ]
        for worker in workers:
            await worker.start()
        yield workers
        await asyncio.gather(*(worker.stop(grace=0) for worker in workers))


def left_over(clip: Path) -> list[str]:
    return sorted(path.name for path in clip.parent.iterdir() if path != clip)


async def converting(handle: AnyWorkflowHandle, pieces: int) -> None:
    """Returns when so many pieces are done."""

    async def far_enough() -> bool:
        details = (await handle.info()).details
        return bool(details) and int(details.split()[0]) >= pieces

    await until(far_enough, 30)


async def test_a_film_is_converted_on_all_nodes(turnout_client: Client, nodes: list[Worker], clip: Path) -> None:
    """Each segment is a job of its own, on whichever node is free; the film is whole, and nothing else is left."""
    handle = await turnout_client.start(convert_film, str(clip), "mp4", segment_seconds=2.0)
    result = await handle.result(timeout=60)
    found = await ffmpeg.probe(Path(result.path))
    assert found.duration == pytest.approx(12, abs=0.1)
    assert found.audio is not None
    assert (result.segments, result.size) == (6, Path(result.path).stat().st_size)
    assert left_over(clip) == [Path(result.path).name]
    jobs = [job async for job in turnout_client.jobs(workflow=handle.id, activity="convert_piece_of")]
    assert len(jobs) == 7
    assert {job.attempts[-1].node for job in jobs} == {worker.id for worker in nodes}


@pytest.mark.usefixtures("nodes")
async def test_a_film_that_is_cancelled_leaves_nothing(turnout_client: Client, clip: Path) -> None:
    """Its segments are stopped, and waited for, before the work directory goes."""
    handle = await turnout_client.start(convert_film, str(clip), segment_seconds=2.0, max_speed=4.0)
    await converting(handle, 2)
    await handle.cancel("enough")
    with pytest.raises(WorkflowCancelled):
        await handle.result(timeout=30)
    assert left_over(clip) == []
    assert not named("ffmpeg")


@pytest.mark.usefixtures("nodes")
async def test_a_film_that_is_hopeless_faults(turnout_client: Client, clip: Path) -> None:
    """What is no video faults the workflow at once, and says why."""
    text = clip.with_name("text.mp4")
    text.write_text("no film")
    handle = await turnout_client.start(convert_film, str(text))
    with pytest.raises(WorkflowFaulted, match=r"text\.mp4"):
        await handle.result(timeout=30)
    text.unlink()
    assert left_over(clip) == []
