"""What the verbs of `turnout job` do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import click

from turnout.cli import exits, jobview, output, traceview
from turnout.cli import follow as following
from turnout.cli.exits import WaitedTooLong, complain
from turnout.cli.session import Session
from turnout.client.handle import AnyHandle
from turnout.client.info import JobInfo
from turnout.core.values import JobState
from turnout.errors import TurnoutError

EXITS = {JobState.completed: exits.OK, JobState.faulted: exits.FAILED, JobState.cancelled: exits.CANCELLED}


async def ls(s: Session, states: Sequence[str], filters: Mapping[str, Any], limit: int) -> int:
    """List the jobs that match; says so when there are more than `limit` (0: no limit)."""
    one = states[0] if len(states) == 1 else None
    asked = limit + 1 if limit and len(states) < 2 else None
    found: list[JobInfo] = []
    async for info in s.client.jobs(state=one, limit=asked, **filters):
        if (not states or info.state in states) and (not limit or len(found) <= limit):
            found.append(info)
    more = bool(limit) and len(found) > limit
    found = found[:limit] if more else found
    s.show(found, lambda: jobview.listing(found, s.now))
    if more:
        output.note(f"these are the newest {limit}: --limit 0 shows all")
    return 0


async def show(s: Session, job_id: str, activity: str | None) -> int:
    info = await s.client.job(job_id, activity).info()
    workless = False
    if not s.json and info.state in (JobState.queued, JobState.scheduled):
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


async def follow(s: Session, job_id: str, activity: str | None, timeout_s: float | None) -> int:
    return await wait_and_show(s, s.client.job(job_id, activity), timeout_s, follow=True)


async def result(s: Session, job_id: str, activity: str | None, timeout_s: float | None) -> int:
    """Print the result of a job that has completed; say how it ended otherwise."""
    info = await wait(s.client.job(job_id, activity), timeout_s)
    if info.state is JobState.completed:
        click.echo(output.dumps(info.result))
        return 0
    return _say_end(info)


async def cancel(s: Session, ids: Sequence[str], activity: str | None, reason: str) -> int:
    async def one(handle: AnyHandle) -> JobInfo:
        await handle.cancel(reason)
        return await handle.info()

    def line(info: JobInfo) -> str:
        return f"{info.id}  {info.state}" + ("  (asked to stop)" if info.state is JobState.running else "")

    return await each_job(s, ids, activity, one, line)


async def retry(s: Session, ids: Sequence[str], activity: str | None) -> int:
    async def one(handle: AnyHandle) -> JobInfo:
        await handle.retry()
        return await handle.info()

    return await each_job(s, ids, activity, one, lambda info: f"{info.id}  {info.state}")


async def delete(s: Session, ids: Sequence[str], activity: str | None) -> int:
    async def one(handle: AnyHandle) -> dict[str, Any]:
        await handle.delete()
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
    done: list[Any] = []
    code = 0
    for job_id in ids:
        try:
            done.append(await act(s.client.job(job_id, activity)))
        except TurnoutError as error:
            code = code or complain(error)
    if done or len(ids) > 1:
        s.show(done if len(ids) > 1 else done[0], lambda: [line(each) for each in done])
    return code


async def wait_and_show(s: Session, handle: AnyHandle, timeout_s: float | None, *, follow: bool) -> int:
    """Wait for the end, showing the progress if asked; print the result, or the whole job as JSON. By outcome."""
    if follow:
        with following.display(to_stderr=s.json) as seen:
            info = await wait(handle, timeout_s, seen)
    else:
        info = await wait(handle, timeout_s)
    if s.json:
        s.show(info, list)
        return EXITS[info.state]
    if info.state is JobState.completed:
        click.echo(output.dumps(info.result))
        return 0
    return _say_end(info)


async def wait(handle: AnyHandle, timeout_s: float | None, seen: Callable[[JobInfo], None] = lambda _: None) -> JobInfo:
    """The job as it ended. WaitedTooLong after `timeout_s`, but never before having looked once."""
    info = await handle.info()
    seen(info)
    if info.state.final:
        return info
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            async for info in handle.watch():
                seen(info)
    except TimeoutError:
        if not limit.expired():
            raise
    if not info.state.final:
        waited = f" after {timeout_s:g} s of waiting" if timeout_s else ""
        raise WaitedTooLong(f"job {handle.id} is {info.state}{waited}; it goes on")
    return info


def _say_end(info: JobInfo) -> int:
    """On stderr: how a job ended that has no result."""
    output.note("\n".join(jobview.end(info)))
    return EXITS[info.state]
