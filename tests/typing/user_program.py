"""A program of a user, without casts or ignores: `test_typing.py` has mypy --strict and pyright strict read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_type

import attrs

from turnout import (
    Bounds,
    Client,
    Fatal,
    GroupHandle,
    JobCancelled,
    JobFaulted,
    JobHandle,
    JobInfo,
    JobState,
    LogLine,
    Retention,
    RetryPolicy,
    UpdateHandle,
    WorkflowHandle,
    activity,
    activity_ref,
    current_job,
    update_ref,
    workflow,
)
from turnout.testing import WorkflowEnvironment


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
    retention=Retention(completed=3600, faulted=timedelta(days=90)),
    bounds=Bounds(attempts=5, timeout=timedelta(hours=1), labels=4),
)
def count(text: str, *, words: Sequence[str] = ()) -> int:
    current_job().checkpoint_sync({"words": len(words)})
    return len(text.split())


@activity(lease=60)
async def tidy(self: int) -> None: ...


@activity
async def total_of(ended: list[dict[str, object]]) -> int:
    return len(ended)


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
    quiet = convert.options(debounce=5.0, debounce_key="customer-7")
    assert_type(await client.submit(quiet, "a.mp4"), JobHandle[Converted])
    assert_type(await client.submit(convert.options(id="a", if_exists="replace"), "a.mp4"), JobHandle[Converted])
    assert_type(await client.submit(tidy, self=3), JobHandle[None])
    assert_type(await client.submit(nothing), JobHandle[None])

    handles = await client.submit_many(convert, [{"path": "a"}, {"path": "b"}], ids=["a", "b"])
    assert_type(handles, list[JobHandle[Converted]])
    assert_type([await each.result() for each in handles], list[Converted])
    assert_type(client.job("a", convert), JobHandle[Converted])


async def submit_together(client: Client) -> None:
    group = await client.submit_group(convert, [{"path": "a"}], id="g", then=total_of, then_on="completed")
    assert_type(group, GroupHandle[Converted])
    assert_type(await group.results(timeout=5), list[Converted | JobFaulted | JobCancelled])
    assert_type(await client.submit_group(count, [{"text": "a"}]), GroupHandle[int])
    mixed = await client.submit_group([(convert.options(timeout=5), {"path": "a"}), ("other", {})])
    info = await mixed.info()
    print(info.counts[JobState.completed], info.total, info.finished_at, info.then)
    async for job in client.group("g").jobs():
        print(job.group)
    await mixed.cancel("no longer needed")


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


@workflow
class Cart:
    def __init__(self, customer: str) -> None:
        self.items: list[float] = []

    @workflow.run
    async def run(self, customer: str) -> Converted:
        return Converted(customer, sum(self.items))

    @workflow.signal
    def add(self, price: float) -> None:
        self.items.append(price)

    @workflow.query
    def total(self, factor: int = 1) -> float:
        return factor * sum(self.items)

    @workflow.update
    async def checkout(self, card: str) -> Converted:
        return Converted(card, self.total())

    @checkout.validator
    def check(self, card: str) -> None: ...

    @workflow.update(name="drop")
    def remove(self, price: float) -> int:
        self.items.remove(price)
        return len(self.items)


async def talk(client: Client) -> None:
    cart = await client.start(Cart.run.options(id="c").with_update(Cart.remove, 2.5), "ann")
    assert_type(cart, WorkflowHandle[Converted])
    await cart.first_update.result()
    await cart.signal(Cart.add, 2.5)
    assert_type(await cart.query(Cart.total), float)
    assert_type(await cart.with_timeout(timedelta(seconds=30)).query(Cart.total, factor=2), float)
    assert_type(await cart.update(Cart.checkout, "4242"), Converted)
    assert_type(await cart.update(Cart.checkout.options(id="u1"), card="4242"), Converted)
    update = await cart.start_update(Cart.checkout, "4242")
    assert_type(update, UpdateHandle[Converted])
    assert_type(await update.result(timeout=5), Converted)
    await cart.update("drop", {"price": 2.5})
    await cart.update(update_ref("drop").options(id="u2"), price=2.5)
    assert_type(await client.workflow("c", Cart.run).result(), Converted)


async def rehearse() -> None:
    """Fakes of several kinds in one mapping, real activities in a list."""
    tidied: list[int] = []

    def converted(path: str, format: str = "webm") -> Converted:
        raise OSError(path)

    fakes = WorkflowEnvironment(workflows=[Cart], activities={convert: converted, tidy: tidied.append})
    async with fakes as env, WorkflowEnvironment(workflows=[Cart], activities=[convert, tidy]):
        assert_type(await (await env.start(Cart.run, "ann")).result(), Converted)
