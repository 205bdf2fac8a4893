"""Showing a job's progress while it runs: a bar on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
from collections.abc import Callable, Iterator

import click

from turnout.cli import jobview, output, terminal
from turnout.client.info import JobInfo

Seen = Callable[[JobInfo], None]


@contextlib.contextmanager
def display(*, to_stderr: bool) -> Iterator[Seen]:
    """Call what this gives with the job whenever it has changed."""
    stream = sys.stderr if to_stderr else sys.stdout
    if stream.isatty() and not terminal.dumb():
        with _bar(to_stderr=to_stderr) as seen:
            yield seen
    else:
        yield _lines(to_stderr=to_stderr)


def _lines(*, to_stderr: bool) -> Seen:
    last = ""

    def seen(info: JobInfo) -> None:
        nonlocal last
        text = _line(info)
        if text != last:
            click.echo(f"{dt.datetime.now(dt.UTC):%H:%M:%S}Z {text}", err=to_stderr)
            last = text

    return seen


def _line(info: JobInfo) -> str:
    state = jobview.state(info)
    where = f"on {info.node}" if info.node else ""
    attempt = f"attempt {info.attempt}" if info.attempt else ""
    error = ""
    if info.error is not None and info.state.value in ("retrying", "faulted"):
        error = output.one_line(str(info.error), 100)
    return " ".join(part for part in (state, attempt, where, jobview.progress(info.progress), error) if part)


@contextlib.contextmanager
def _bar(*, to_stderr: bool) -> Iterator[Seen]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[message]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=to_stderr)) as progress:
        task = progress.add_task("", total=None, message="")
        last = ""

        def seen(info: JobInfo) -> None:
            nonlocal last
            found = info.progress
            head = f"{info.activity} {jobview.state(info)}"
            progress.update(
                task,
                description=head if info.attempt < 2 else f"{head} (attempt {info.attempt})",
                completed=found.done if found else 0,
                total=found.total if found and found.total else None,
                message=escape(output.one_line(found.message, 60)) if found else "",
            )
            text = f"{info.attempt} {info.state.value}"
            if info.state.value == "retrying" and text != last:
                progress.console.print(escape(_line(info)))
            last = text

        yield seen
