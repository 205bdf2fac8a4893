"""A job's trace as its record tells it: no collector is asked, so it is there for every job, traced or not."""

from __future__ import annotations

import datetime as dt
import itertools
import sys
from collections.abc import Iterator, Sequence

import attrs
import click

from turnout.cli import output
from turnout.client.info import AttemptInfo, JobInfo
from turnout.core.values import JobState, Outcome

_BAR = 28
_ROOM_FOR_BARS = 100
_SHORTEST_DELAY_S = 0.01
_MESSAGE = 200


@attrs.frozen(kw_only=True)
class Problem:
    """Why an attempt did not complete, in brief."""

    type: str
    message: str


@attrs.frozen(kw_only=True)
class AttemptTrace:
    """One attempt. `offset` is from the submission to its start, `delay` until it was due, `queue_wait` from then on.

    In seconds; the latter two are None where the attempt before is not on record any more. `duration`: until now if it
    runs. `linked_to`: the span of the attempt before.
    """

    number: int
    generation: int
    node: str
    outcome: Outcome
    span_id: str | None
    linked_to: str | None
    offset: float
    delay: float | None
    queue_wait: float | None
    duration: float
    due_at: dt.datetime | None
    started_at: dt.datetime
    ended_at: dt.datetime | None
    error: Problem | None


@attrs.frozen(kw_only=True)
class JobTrace:
    """A job from its submission on. `duration`: until its end, or until now. `url`: the trace's page in Jaeger."""

    id: str
    activity: str
    state: JobState
    suspect: bool
    trace_id: str
    url: str | None
    submitted_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    next_attempt_at: dt.datetime | None
    duration: float
    not_kept: int
    attempts: list[AttemptTrace]


def trace_of(info: JobInfo, now: float, jaeger: str | None) -> JobTrace:
    """The job's trace at the instant `now` (the server's); `jaeger` is the address of Jaeger's pages."""
    end = now if info.finished_at is None else info.finished_at.timestamp()
    befores: list[AttemptInfo | None] = [None, *info.attempts]
    return JobTrace(
        id=info.id,
        activity=info.activity,
        state=info.state,
        suspect=info.suspect,
        trace_id=info.trace_id,
        url=f"{jaeger.rstrip('/')}/trace/{info.trace_id}" if jaeger else None,
        submitted_at=info.submitted_at,
        started_at=info.started_at,
        finished_at=info.finished_at,
        next_attempt_at=None if info.state.final else info.next_attempt_at,
        duration=max(end - info.submitted_at.timestamp(), 0.0),
        not_kept=max(info.attempt - len(info.attempts), 0),
        attempts=[_attempt(info, *pair, now) for pair in zip(befores, info.attempts, strict=False)],
    )


def _attempt(info: JobInfo, before: AttemptInfo | None, tried: AttemptInfo, now: float) -> AttemptTrace:
    begun = tried.started_at.timestamp()
    delay = wait = None
    free = before.ended_at if before is not None else info.submitted_at if tried.number == 1 else None
    if free is not None:
        due = max(free, tried.due_at or free).timestamp()
        delay = due - free.timestamp()
        wait = max(begun - due, 0.0)
    ended = tried.ended_at.timestamp() if tried.ended_at is not None else max(now, begun)
    return AttemptTrace(
        number=tried.number,
        generation=tried.generation,
        node=tried.node,
        outcome=tried.outcome,
        span_id=tried.span_id,
        linked_to=before.span_id if before is not None else None,
        offset=max(begun - info.submitted_at.timestamp(), 0.0),
        delay=delay,
        queue_wait=wait,
        duration=max(ended - begun, 0.0),
        due_at=tried.due_at,
        started_at=tried.started_at,
        ended_at=tried.ended_at,
        error=Problem(type=tried.error.type, message=tried.error.message) if tried.error is not None else None,
    )


# --- for people ------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Row:
    """A line of the tree: when, what, how long, and a remark; `waits` and `lasts` are where its bar is (seconds)."""

    at: float
    what: str
    state: str = ""
    took: str = ""
    more: str = ""
    waits: tuple[float, float] | None = None
    lasts: tuple[float, float] | None = None
    below: str = ""


def show(trace: JobTrace, now: float) -> None:
    """Print the tree: in colours and with bars on a terminal, indented lines elsewhere."""
    rows = [_Row(at=0.0, what="submitted", more=f"{trace.submitted_at:%Y-%m-%d %H:%M:%S}Z"), *_rows(trace, now)]
    if sys.stdout.isatty():
        _show_tree(trace, rows)
        return
    click.echo(_headline(trace))
    for line in _about(trace):
        click.echo(f"  {line}")
    for row, text in zip(rows, _aligned(rows), strict=True):
        click.echo(f"  {text}".rstrip())
        if row.below:
            click.echo(f"      {row.below}")


def _rows(trace: JobTrace, now: float) -> Iterator[_Row]:
    """What came after the submission."""
    generation = 1
    for each in trace.attempts:
        if each.delay is not None and each.delay >= _SHORTEST_DELAY_S:
            due = each.offset - (each.queue_wait or 0.0)
            begun = due - each.delay
            what = "delay" if each.generation == generation else "retried"
            more = "" if what == "delay" else "by somebody, after that"
            span = (begun, due)
            yield _Row(at=begun, what=what, took=output.duration(each.delay), more=more, waits=span)
        generation = each.generation
        yield _attempt_row(trace, each)
    if trace.state.final:
        yield _Row(at=trace.duration, what=trace.state.value)
    elif trace.state is not JobState.running:
        yield _waiting_row(trace, now)


def _attempt_row(trace: JobTrace, each: AttemptTrace) -> _Row:
    running = each.outcome is Outcome.running
    waited = each.queue_wait or 0.0
    remarks = [f"on {each.node}"]
    if each.queue_wait is not None:
        remarks.append(f"waited {output.duration(waited)}")
    problem = output.one_line(f"{each.error.type}: {each.error.message}", _MESSAGE) if each.error is not None else ""
    return _Row(
        at=each.offset,
        what=f"attempt {each.number}",
        state="suspect" if running and trace.suspect else each.outcome.value,
        took=output.duration(each.duration) + (" so far" if running else ""),
        more=", ".join(remarks),
        waits=(each.offset - waited, each.offset),
        lasts=(each.offset, each.offset + each.duration),
        below=problem,
    )


def _waiting_row(trace: JobTrace, now: float) -> _Row:
    """What a job that does not run waits for."""
    submitted = trace.submitted_at.timestamp()
    since = trace.attempts[-1].ended_at if trace.attempts else trace.submitted_at
    begun = (since or trace.submitted_at).timestamp() - submitted
    span = (begun, trace.duration)
    due = trace.next_attempt_at
    if due is not None and due.timestamp() > now:
        more = f"until {due:%Y-%m-%d %H:%M:%S}Z, {output.ago(due, now)}"
        return _Row(at=begun, what="delay", state=trace.state.value, more=more, waits=span)
    waits = output.duration(max(trace.duration - begun, 0.0)) + " so far"
    return _Row(at=begun, what="waits", state=trace.state.value, took=waits, more="for a worker", waits=span)


def _headline(trace: JobTrace) -> str:
    took = output.duration(trace.duration)
    how = f"{trace.state.value} after {took}" if trace.state.final else f"{trace.state.value}, {took} so far"
    return f"{trace.id}  {trace.activity}  {how}"


def _about(trace: JobTrace) -> Iterator[str]:
    yield f"trace {trace.trace_id}"
    if trace.url is not None:
        yield trace.url
    if trace.not_kept:
        yield f"({trace.not_kept} earlier attempts are not kept)"


def _aligned(rows: Sequence[_Row]) -> list[str]:
    cells = [(f"+{output.duration(row.at)}", row.what, row.state, row.took, row.more) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]


def _show_tree(trace: JobTrace, rows: Sequence[_Row]) -> None:
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text
    from rich.tree import Tree

    console = Console(highlight=False)
    head = Text(_headline(trace), style="bold")
    head.highlight_words([trace.state.value], output.style_of(trace.state.value))
    tree = Tree(head, guide_style="bright_black")
    for line in _about(trace):
        tree.add(Text(line, style=Style(link=line) if line == trace.url else "bright_black"))
    for row, text in zip(rows, _aligned(rows), strict=True):
        label = Text(text, no_wrap=True, overflow="ellipsis")
        label.highlight_words([word for word in (row.state, trace.state.value) if word], _style(row, trace))
        if console.width >= _ROOM_FOR_BARS and trace.duration:
            label.append("  ")
            for part, style in _bar(row, trace.duration):
                label.append(part, style=style)
        branch = tree.add(label)
        if row.below:
            branch.add(Text(row.below, style="red"))
    console.print(tree)


def _style(row: _Row, trace: JobTrace) -> str:
    return output.style_of(row.state or trace.state.value)


def _bar(row: _Row, total: float) -> list[tuple[str, str]]:
    """Where in the job's time a row is: dots while it waits, a block while it runs."""
    cells = [(" ", "")] * _BAR
    for span, mark, style in ((row.waits, "·", "bright_black"), (row.lasts, "━", _bar_style(row))):
        if span is None:
            continue
        first = min(max(int(span[0] / total * _BAR), 0), _BAR - 1)
        last = min(max(round(span[1] / total * _BAR), first + (mark != "·")), _BAR)
        cells[first:last] = [(mark, style)] * (last - first)
    return [
        ("".join(mark for mark, _ in group), style) for style, group in itertools.groupby(cells, key=lambda c: c[1])
    ]


def _bar_style(row: _Row) -> str:
    return output.style_of(row.state) or "green"
