"""What the verbs of `turnout job` do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from textwrap import indent
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

_PAGE = 100
_PATIENCE_S = 0.3

EXITS = {JobState.completed: exits.OK, JobState.faulted: exits.FAILED, JobState.cancelled: exits.CANCELLED}


async def ls(s: Session, states: Sequence[str], filters: Mapping[str, Any], limit: int) -> int:
    """List the jobs that match, as they are found; says so when there are more than `limit` (0: no limit).

    JSON is one document, printed when all of it is there; of all jobs there may be, it is printed as they are found.
    """
    asked = limit + 1 if limit else None
    shown = _Json() if s.json else _Lines(s)
    left = limit or sys.maxsize
    async with (
        aclosing(s.client.jobs(state=states or None, limit=asked, **filters)) as jobs,
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
        for line in self._listing.lines(jobs, self._session.now):
            click.echo(line)

    def end(self) -> None:
        pass


class _Json:
    """Jobs as a JSON array, spelt as if it were written in one go."""

    def __init__(self) -> None:
        self._empty = True

    def more(self, jobs: Sequence[JobInfo]) -> None:
        for info in jobs:
            click.echo(("[" if self._empty else ",") + "\n" + indent(output.dumps(info), "  "), nl=False)
            self._empty = False

    def end(self) -> None:
        click.echo("[]" if self._empty else "\n]")


async def as_they_come(jobs: AsyncGenerator[JobInfo], *, whole: bool) -> AsyncGenerator[list[JobInfo]]:
    """The jobs in parts: what was found when the next one is long in coming, or when there is a page of them.

    At least one part, which is empty where there are no jobs. With `whole`: all in one.
    """
    part: list[JobInfo] = []
    coming: asyncio.Future[JobInfo | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(jobs, None))
            done, _ = await asyncio.wait([coming], timeout=_PATIENCE_S if part and not whole else None)
            if part and not whole and (not done or len(part) == _PAGE):
                yield part
                part = []
            info = await coming
            if info is None:
                break
            part.append(info)
    finally:
        if coming is not None and not coming.done():
            coming.cancel()
            await asyncio.wait([coming])
    yield part


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
