"""A program of a user, without casts or ignores: `test_typing.py` has mypy --strict and pyright strict read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_type

import attrs

from turnout import (
    Client,
    Fatal,
    JobHandle,
    JobInfo,
    JobState,
    LogLine,
    RetryPolicy,
    activity,
    activity_ref,
    current_job,
)


@attrs.frozen
class Converted:
    path: str
    seconds: float


@activity
async def convert(path: str, format: str = "webm") -> Converted:
    job = current_job()
    done = job.restored(int) or 0
    assert_type(done, int)
    job.progress(done, 10, "converting")
    job.log.info("converting %s", path, extra={"format": format})
    await job.checkpoint(done + 1)
    if not path:
        raise Fatal("no path")
    return Converted(f"{path}.{format}", 1.5)


@activity(
    name="count_words",
    timeout=timedelta(minutes=15),
    retry=RetryPolicy(max_attempts=5, delay=2, retry_on=(OSError,)),
    max_lost=2,
    lease=30,
    heartbeat_timeout=None,
    concurrency=10,
    global_concurrency=100,
    run_in="process",
)
def count(text: str, *, words: Sequence[str] = ()) -> int:
    current_job().checkpoint_sync({"words": len(words)})
    return len(text.split())


@activity(lease=60)
async def tidy(self: int) -> None: ...


@activity
def nothing() -> None: ...


async def call_directly() -> None:
    assert_type(await convert("a", format="mp4"), Converted)
    assert_type(count("a b", words=["a"]), int)
    await tidy(3)
    nothing()


async def submit(client: Client) -> None:
    handle = await client.submit(convert, path="a.mp4")
    assert_type(handle, JobHandle[Converted])
    assert_type(await handle.result(timeout=timedelta(seconds=5)), Converted)
    assert_type((await handle.result()).seconds, float)

    special = convert.options(id="a", if_exists="join", delay=60, labels={"k": "v"}, expires_in=timedelta(hours=1))
    assert_type(await client.submit(special, "a.mp4", "webm"), JobHandle[Converted])
    later = count.options(at=datetime.now(UTC), timeout=3, retry=RetryPolicy.none())
    assert_type(await client.submit(later, "a b", words=("a",)), JobHandle[int])
    assert_type(await client.submit(tidy, self=3), JobHandle[None])
    assert_type(await client.submit(nothing), JobHandle[None])

    handles = await client.submit_many(convert, [{"path": "a"}, {"path": "b"}], ids=["a", "b"])
    assert_type(handles, list[JobHandle[Converted]])
    assert_type([await each.result() for each in handles], list[Converted])
    assert_type(client.job("a", convert), JobHandle[Converted])


async def submit_by_name(client: Client) -> str:
    handle = await client.submit("convert", {"path": "a.mp4"})
    other = await client.submit(activity_ref("convert").options(id="a", delay=timedelta(minutes=1)), {"path": "a"})
    print(await handle.result(), (await other.info()).state)
    return client.job("a").id


async def ask(client: Client) -> JobInfo | None:
    handle = client.job("a", convert)
    async for info in handle.watch():
        if info.state is JobState.completed or info.state == "faulted":
            return info
    assert_type(await handle.logs(limit=10), list[LogLine])
    async for line in handle.follow_logs():
        print(line.time, line.level, line.attempt, line.node, line.message)
    await handle.cancel("no longer needed")
    async for info in client.jobs(state="running", activity="convert", limit=10):
        print(info.id, info.progress.done if info.progress else 0)
    return None


async def main() -> None:
    async with Client.connect("nats://127.0.0.1:4222", namespace="turnout") as client:
        await submit(client)
        await submit_by_name(client)
        await ask(client)
