"""What the verbs of `turnout job` do."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import click

from turnout.cli import exits, jobview, output, session, several, traceview, waiting
from turnout.cli import follow as following
from turnout.cli.session import Session
from turnout.cli.waiting import Wait
from turnout.client.handle import AnyHandle
from turnout.client.info import JobInfo
from turnout.core.record import JobState

_PAGE = 100
_SOON_S = 0.3

EXITS = {JobState.completed: exits.OK, JobState.faulted: exits.FAILED, JobState.cancelled: exits.CANCELLED}


async def ls(s: Session, filters: Mapping[str, Any], limit: int) -> int:
    """List the jobs that match, as they are found; says so when there are more than `limit` (0: no limit).

    JSON is one document, printed when all of it is there; of all jobs there may be, it is printed as they are found.
    """
    asked = limit + 1 if limit else None
    shown = output.Array() if s.json else _Lines(s)
    left = limit or sys.maxsize
    async with (
        aclosing(s.client.jobs(limit=asked, **filters)) as jobs,
        aclosing(as_they_come(jobs, whole=s.json and limit > 0)) as parts,
    ):
        async for part in parts:
            shown.more(part[: max(left, 0)])
            left -= len(part)
    shown.end()
    if left < 0:
        output.note(f"these are the newest {limit}: --limit 0 shows all")
    return 0


class _Lines:
    """Jobs as lines of a table."""

    def __init__(self, s: Session) -> None:
        self._session = s
        self._listing = jobview.Listing()

    def more(self, jobs: Sequence[JobInfo]) -> None:
        lines = self._listing.lines(jobs, self._session.now)
        if lines:
            click.echo("\n".join(lines))  # in one write: many thousands may follow

    def end(self) -> None:
        pass


async def as_they_come(jobs: AsyncGenerator[JobInfo], *, whole: bool) -> AsyncGenerator[list[JobInfo]]:
    """The jobs in parts: what was found when the next one is long in coming, or when there is a page of them.

    At least one part, which is empty where there are no jobs. With `whole`: all in one.
    """
    part: list[JobInfo] = []
    full, taken = asyncio.Event(), asyncio.Event()

    async def collect() -> None:
        async for info in jobs:
            part.append(info)
            if len(part) >= _PAGE and not whole:
                taken.clear()
                full.set()
                await taken.wait()

    collecting = asyncio.create_task(collect())
    collecting.add_done_callback(lambda _: full.set())
    try:
        while not collecting.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if whole else _SOON_S):
                    await full.wait()
            if part and not whole and not collecting.done():
                yield part
                part = []
            full.clear()
            taken.set()
        await collecting
    finally:
        collecting.cancel()
        await asyncio.wait([collecting])
    yield part


async def show(s: Session, job_id: str, activity: str | None) -> int:
    info = await s.client.job(job_id, activity).info()
    workless = False
    if not s.json and info.state is JobState.scheduled:
        workless = not any(info.activity in node.activities for node in await s.client.nodes())
    s.show(info, lambda: jobview.job(info, s.now, workless=workless))
    return 0


async def trace(s: Session, job_id: str, activity: str | None, jaeger: str | None) -> int:
    info = await s.client.job(job_id, activity).info()
    found = traceview.trace_of(info, s.now, jaeger)
    if s.json:
        s.show(found, list)
    else:
        traceview.show(found, s.now)
    return 0


def follow(job_id: str, activity: str | None, timeout_s: float | None) -> int:
    with waiting.interruptible() as wait:
        wait.begins("job", job_id)
        return session.run(lambda s: wait_and_show(s, s.client.job(job_id, activity), timeout_s, wait, follow=True))


def result(job_id: str, activity: str | None, timeout_s: float | None) -> int:
    """Print the result of a job that has completed; say how it ended otherwise."""

    async def work(s: Session) -> int:
        info = await waiting.until_the_end("job", s.client.job(job_id, activity), timeout_s)
        wait.ends()
        return _print_end(info)

    with waiting.interruptible() as wait:
        wait.begins("job", job_id)
        return session.run(work)


async def cancel(s: Session, ids: Sequence[str], activity: str | None, reason: str) -> int:
    async def one(handle: AnyHandle) -> JobInfo:
        await handle.cancel(reason)
        return await handle.info()

    def line(info: JobInfo) -> str:
        return f"{info.id}  {info.state}" + ("  (asked to stop)" if info.state is JobState.running else "")

    return await each_job(s, ids, activity, one, line)


async def retry(s: Session, ids: Sequence[str], activity: str | None, *, checkpoint: bool = True) -> int:
    async def one(handle: AnyHandle) -> JobInfo:
        await handle.retry(checkpoint=checkpoint)
        return await handle.info()

    return await each_job(s, ids, activity, one, lambda info: f"{info.id}  {info.state}")


async def set_priority(s: Session, ids: Sequence[str], activity: str | None, priority: int) -> int:
    return await _hurried(s, ids, activity, lambda handle: handle.set_priority(priority))


async def run_now(s: Session, ids: Sequence[str], activity: str | None) -> int:
    return await _hurried(s, ids, activity, lambda handle: handle.run_now())


async def _hurried(
    s: Session, ids: Sequence[str], activity: str | None, hurry: Callable[[AnyHandle], Awaitable[None]]
) -> int:
    async def one(handle: AnyHandle) -> JobInfo:
        await hurry(handle)
        return await handle.info()

    return await each_job(s, ids, activity, one, lambda info: f"{info.id}  {info.state}, priority {info.priority}")


async def delete(s: Session, ids: Sequence[str], activity: str | None, *, unbegun: bool = False) -> int:
    async def one(handle: AnyHandle) -> dict[str, Any]:
        await handle.delete(unbegun=unbegun)
        return {"id": handle.id, "activity": handle.activity, "deleted": True}

    return await each_job(s, ids, activity, one, lambda deleted: f"{deleted['id']}  deleted")


async def each_job(
    s: Session,
    ids: Sequence[str],
    activity: str | None,
    act: Callable[[AnyHandle], Awaitable[Any]],
    line: Callable[[Any], str],
) -> int:
    """Act on each job; one that can't be acted on does not keep the others. The exit code is that of the first such."""
    return await several.each(s, [s.client.job(job_id, activity) for job_id in ids], act, line)


async def wait_and_show(s: Session, handle: AnyHandle, timeout_s: float | None, wait: Wait, *, follow: bool) -> int:
    """Wait for the end, showing the progress if asked; print the result, or the whole job as JSON. By outcome."""
    if follow:
        with following.display(to_stderr=s.json) as seen:
            info = await waiting.until_the_end("job", handle, timeout_s, seen)
    else:
        info = await waiting.until_the_end("job", handle, timeout_s)
    wait.ends()
    if s.json:
        s.show(info, list)
        return EXITS[info.state]
    return _print_end(info)


def _print_end(info: JobInfo) -> int:
    """The result; on stderr how a job ended that has none."""
    if info.state is JobState.completed:
        click.echo(output.dumps(info.result))
        return 0
    output.note("\n".join(jobview.end(info)))
    return EXITS[info.state]
