"""`turnout job logs`: what a job's code has logged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from turnout.cli import jobs, output, session, waiting
from turnout.cli.session import Session
from turnout.client.info import LogLine


async def logs(s: Session, job_id: str, activity: str | None, limit: int | None, attempt: int | None) -> int:
    """The last lines; a job that has logged nothing is no error."""
    lines = await s.client.job(job_id, activity).logs(limit, attempt=attempt)
    s.show(lines, lambda: (text for line in lines for text in shown(line)))
    if not lines:
        output.note(f"nothing is kept of what job {job_id} has logged: job.log of an activity keeps its lines")
    return 0


def follow(job_id: str, activity: str | None, limit: int | None, attempt: int | None) -> int:
    """The last lines, then the new ones until the job's end. As JSON they are one array, a line each as they come. The
    exit code is the job's."""

    async def work(s: Session) -> int:
        handle = s.client.job(job_id, activity)
        array = output.Array()
        async with contextlib.aclosing(handle.follow_logs(limit, attempt=attempt)) as coming:
            async for line in coming:
                if s.json:
                    array.more([line])
                else:
                    click.echo("\n".join(shown(line)))
        wait.ends()
        if s.json:
            array.end()
        return jobs.EXITS[(await handle.info()).state]

    with waiting.interruptible() as wait:
        wait.begins("job", job_id)
        return session.run(work)


def shown(line: LogLine) -> Iterator[str]:
    """A line for people: when, how bad, which attempt on which node, what. Lines within it are set in."""
    first, *rest = output.clean(line.message).splitlines() or [""]
    yield f"{output.instant(line.time, milliseconds=True)} {line.level:<7} {line.attempt} {line.node}: {first}"
    yield from (f"    {each}" for each in rest)
