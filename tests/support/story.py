"""One job's story with real processes: its first attempt fails, its second is lost, its third succeeds on another node.

`tell()` makes it happen; `check()` says what every collector must know of it afterwards, be it one in the test or a
Jaeger.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import attrs

from tests.support.otlp import Span
from tests.support.waiting import until
from turnout import Client, JobInfo

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULE = "troubled"
ACTIVITY = "render"
T = TypeVar("T")
PATIENCE_S = 60.0
"""A node is dead ten seconds after its last sign of life; a busy machine takes its time besides."""


class Collector(Protocol):
    """Where the spans of the story end up."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The OTEL_ variables of a program that shall send its spans there."""
        ...

    def of_job(self, job_id: str) -> Sequence[Span]:
        """The spans that a search by the job's id finds."""
        ...

    def of_trace(self, trace_id: str) -> Sequence[Span]: ...


@attrs.frozen(kw_only=True)
class Story:
    """What happened, by the job's record and by whoever made it happen."""

    info: JobInfo
    dead: str
    survivor: str
    killed_at: float
    seen_before_the_end: Sequence[Span]
    """The job's spans that were there while its second attempt still ran."""


async def tell(url: str, namespace: str, collector: Collector, job_id: str = "holiday") -> Story:
    """Make it happen on the server at `url`, and return when the job has ended."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "TURNOUT_", "OTEL_"))}
    env |= {"NATS_URL": url, "TURNOUT_NAMESPACE": namespace, "PYTHONUNBUFFERED": "1"} | dict(collector.environment)
    async with Client.connect(url, namespace=namespace) as client:
        with _worker("ann", env) as ann, _worker("ben", env) as ben:
            workers = {await _node(ann): ann, await _node(ben): ben}
            await asyncio.to_thread(_submit, env, job_id)
            handle = client.job(job_id)
            hangs = await _hanging(handle.info)
            dead = hangs.node or ""
            before = await _retry_while_away(
                lambda: _shown(collector, job_id), lambda: collector.of_trace(hangs.trace_id)
            )
            killed_at = client.store.connection.now()
            workers[dead].send_signal(signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_S):
                await handle.result()
            info = await handle.info()
            (survivor,) = set(workers) - {dead}
            workers[survivor].send_signal(signal.SIGTERM)  # its last spans leave with it
            await asyncio.to_thread(workers[survivor].wait, PATIENCE_S)
    await _retry_while_away(lambda: _complete(collector, info), lambda: collector.of_trace(info.trace_id))
    return Story(info=info, dead=dead, survivor=survivor, killed_at=killed_at, seen_before_the_end=before)


def check(story: Story, spans: Sequence[Span], found: Sequence[Span]) -> None:
    """What must hold for the `spans` of the job's trace, and for what a search by its id has `found`."""
    info = story.info
    outcomes = [(each.outcome.value, each.node) for each in info.attempts]
    assert [outcome for outcome, _ in outcomes] == ["faulted", "lost", "completed"], outcomes
    assert outcomes[1:] == [("lost", story.dead), ("completed", story.survivor)]

    assert {span.trace_id for span in [*spans, *found]} == {info.trace_id}, "one trace"
    assert len({span.span_id for span in spans}) == len(spans), "no span comes twice"
    (submit,) = [span for span in spans if span.kind == "PRODUCER"]
    attempts = sorted(_attempts(spans), key=lambda span: int(span.attributes["turnout.job.attempt"]))
    _check_messaging(story, submit, attempts)
    assert submit.parent_id == ""
    assert [span.attributes["turnout.job.attempt"] for span in attempts] == [1, 2, 3]
    assert [span.parent_id for span in attempts] == [submit.span_id] * 3, "each attempt is the submit's child"
    first, lost, last = attempts
    linked = [[link.span_id for link in span.links if link.span_id != submit.span_id] for span in attempts]
    assert linked == [[], [first.span_id], [lost.span_id]], "each attempt is linked to the one before"
    assert [span.span_id for span in attempts] == [each.span_id for each in info.attempts], "and is on record"

    _check_failure(first)
    _check_loss(story, lost, last)
    assert not last.error
    assert "error.type" not in last.attributes
    _check_inside(spans, attempts)
    assert {span.span_id for span in found} == {span.span_id for span in spans}, "a search by the job's id finds all"

    shown = [span for span in story.seen_before_the_end if span.attributes.get("turnout.job.attempt") == 2]
    assert {span.kind for span in shown} == {"INTERNAL"}, "a long attempt shows before its end"
    assert lost.span_id not in {span.span_id for span in shown}


def _check_messaging(story: Story, submit: Span, attempts: Sequence[Span]) -> None:
    """The conventions of messaging spans, and ours."""
    for span in (submit, *attempts):
        assert span.attributes["messaging.system"] == "nats"
        assert span.attributes["messaging.destination.name"]
        assert span.attributes["messaging.message.id"] == story.info.id
        assert span.attributes["turnout.job.id"] == story.info.id
        assert span.attributes["turnout.job.activity"] == ACTIVITY
    assert submit.attributes["messaging.operation.type"] == "send"
    for span, attempt in zip(attempts, story.info.attempts, strict=True):
        assert span.attributes["messaging.operation.type"] == "process"
        assert span.attributes["messaging.consumer.group.name"]
        assert span.attributes["turnout.node.id"] == attempt.node
        assert abs(span.start - attempt.started_at.timestamp()) < 0.5
        assert attempt.ended_at is not None
        # The span ends when the end has been written; a busy machine takes its time for that.
        assert -0.05 <= span.end - attempt.ended_at.timestamp() < 10
    states = [span.attributes["turnout.job.state"] for span in attempts]
    assert states == ["retrying", "queued", "completed"]


def _check_failure(span: Span) -> None:
    """An attempt whose code raised is an error, with the exception as an event."""
    assert span.error
    assert span.attributes["error.type"] == "ConnectionError"
    (raised,) = [event for event in span.events if event.name == "exception"]
    assert raised.attributes["exception.type"] == "ConnectionError"
    assert raised.attributes["exception.message"] == "the archive does not answer"
    assert "Traceback" in raised.attributes["exception.stacktrace"]


def _check_loss(story: Story, lost: Span, last: Span) -> None:
    """The dead attempt has its span, emitted by the survivor: an error, from its start until the loss was counted."""
    assert lost.error
    assert lost.attributes["error.type"] == "lost"
    assert story.dead in lost.message
    assert lost.start < story.killed_at < lost.end < last.start + 0.5


def _check_inside(spans: Sequence[Span], attempts: Sequence[Span]) -> None:
    """The spans of the code are children of its attempt, whatever became of it, and carry the job's id."""
    of_code = [span for span in spans if span.name in ("fetch", "encode")]
    told = sorted((span.parent_id, span.name) for span in of_code)
    first, lost, last = (span.span_id for span in attempts)
    # The "encode" of the dead attempt died with it.
    expected = [(first, "fetch"), (lost, "fetch"), (last, "fetch"), (last, "encode")]
    assert told == sorted(expected)
    assert all(span.attributes["turnout.job.id"] == attempts[0].attributes["turnout.job.id"] for span in of_code)
    assert [span.error for span in sorted(of_code, key=lambda span: span.start)] == [True, False, False, False]


def _attempts(spans: Sequence[Span]) -> list[Span]:
    return [span for span in spans if span.kind == "CONSUMER"]


async def _hanging(info: Callable[[], Awaitable[JobInfo]]) -> JobInfo:
    """The job while its second attempt hangs: it has reported how far it is."""

    async def looks() -> JobInfo | None:
        now = await info()
        return now if now.attempt == 2 and now.state == "running" and now.progress and now.progress.done == 3 else None

    found = await until(looks, PATIENCE_S)
    assert found is not None
    return found


async def _retry_while_away(condition: Callable[[], Awaitable[T]], spans: Callable[[], Sequence[Span]]) -> T:
    """Wait until the condition holds; TimeoutError tells which spans there are instead."""
    try:
        return await until(condition, PATIENCE_S)
    except TimeoutError as error:
        there = "\n".join(f"  {span.kind:9}{span.name} {span.attributes}" for span in spans())
        raise TimeoutError(f"{error}; there are\n{there}") from None


async def _shown(collector: Collector, job_id: str) -> Sequence[Span]:
    """What is there of the job, once the start of its second attempt is, and the span inside that has ended."""
    spans = await asyncio.to_thread(collector.of_job, job_id)
    told = {(span.kind, span.attributes.get("turnout.job.attempt")) for span in spans}
    fetched = [span for span in spans if span.name == "fetch"]
    return spans if ("INTERNAL", 2) in told and ("CONSUMER", 1) in told and len(fetched) == 2 else []


async def _complete(collector: Collector, info: JobInfo) -> bool:
    """Whether all spans have arrived, the submitter's included."""
    spans = await asyncio.to_thread(collector.of_trace, info.trace_id)
    found = await asyncio.to_thread(collector.of_job, info.id)
    kinds = [span.kind for span in spans]
    inside = [span for span in spans if span.name == "encode"]
    return kinds.count("CONSUMER") >= 3 and "PRODUCER" in kinds and bool(inside) and len(found) >= len(spans)


@contextlib.contextmanager
def _worker(name: str, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "turnout", "worker", MODULE, "--name", name, "--grace", "0", "-o", "json"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=EXAMPLES, env=dict(env)
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def _node(worker: subprocess.Popen[str]) -> str:
    """The worker's node id, which it prints when it pulls."""

    def first_document() -> str:
        text = ""
        for line in worker.stdout or ():
            text += line
            with contextlib.suppress(ValueError):
                return str(json.loads(text)["id"])
        raise AssertionError(f"the worker ended and had said only:\n{text}")

    return await asyncio.to_thread(first_document)


def _submit(env: Mapping[str, str], job_id: str) -> None:
    command = [sys.executable, "-m", "turnout", "job", "submit", ACTIVITY, '{"film": "holiday"}', "--id", job_id]
    subprocess.run(command, check=True, env=dict(env), capture_output=True, timeout=PATIENCE_S)
