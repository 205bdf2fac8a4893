"""A workflow's story with real processes: a worker begins it and stops, another one replays it and leads it to its end.

`tell()` makes it happen; `check()` says what every collector must know of it afterwards, be it one in the test or a
Jaeger.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.otlp import Span
from tests.support.waiting import until
from turnout import Client, WorkflowInfo
from turnout.client.workflows.handle import AnyWorkflowHandle
from turnout.core.workflows.values import WorkflowState

ROOT = Path(__file__).parents[2]
ROUNDED_S = 1e-5
"""By how much a collector may round an instant."""

SPANS = {"start trip": 1, "workflow trip": 2, "workflow leg": 2, "run walk": 5, "timer": 1, "local walk": 1}
"""How many there are of each name; one of the five attempts follows one that has failed."""

TURNOUT = (sys.executable, "-m", "turnout")


def environment(url: str, namespace: str, collector: Mapping[str, str]) -> dict[str, str]:
    """That of a program at this server, whose spans go where the variables of the collector say."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "TURNOUT_", "OTEL_"))}
    return kept | {"NATS_URL": url, "TURNOUT_NAMESPACE": namespace} | dict(collector)


@contextlib.contextmanager
def working(env: dict[str, str], lines: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, whose log goes to this file."""
    command = (*TURNOUT, "worker", "tests.telemetry.workflow_code", "--log-format", "json")
    with lines.open("ab") as log:
        process = subprocess.Popen(command, env=env, stderr=log, cwd=ROOT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


async def waits_for_the_word(handle: AnyWorkflowHandle) -> bool:
    """Whether the trip has come as far as it comes by itself."""
    return [each.kind for each in (await handle.info()).waiting] == ["signal"]


async def tell(client: Client, env: dict[str, str], logs: Path) -> WorkflowInfo:
    """Make it happen; how it has ended. The second worker has nothing in its cache, and replays."""
    handle = client.workflow("t-1")
    with working(env, logs / "first"):
        subprocess.run(
            [*TURNOUT, "workflow", "start", "trip", "--id", "t-1"], env=env, check=True, timeout=30, cwd=ROOT
        )
        await until(lambda: waits_for_the_word(handle), within_s=30)
    with working(env, logs / "second"):
        await handle.signal("go", "now")
        assert await handle.result(timeout=30) == 7
    return await handle.info()


def named(spans: Sequence[Span], name: str) -> list[Span]:
    """The spans of this name, in the order of their begins."""
    return sorted((span for span in spans if span.name == name), key=lambda span: span.start)


def told(spans: Sequence[Span]) -> Counter[str]:
    """How many there are of each name; on a busy machine an attempt may last so long that it shows with two."""
    return Counter(span.name for span in spans if span.name != "start walk")


def check(info: WorkflowInfo, spans: Sequence[Span]) -> None:
    """All hang together in one trace, and nothing is told twice."""
    assert told(spans) == SPANS
    assert info.state is WorkflowState.completed
    assert {span.trace_id for span in spans} == {info.trace_id}
    assert Counter(span.span_id for span in spans).most_common(1)[0][1] == 1
    [start] = named(spans, "start trip")
    first, second = named(spans, "workflow trip")
    legs = named(spans, "workflow leg")
    walks = named(spans, "run walk")
    [rest] = named(spans, "timer")
    [stroll] = named(spans, "local walk")
    assert (start.kind, start.attributes["turnout.workflow.id"]) == ("PRODUCER", "t-1")
    assert [first.parent_id, second.parent_id] == [start.span_id, start.span_id]
    assert [link.span_id for link in second.links] == [first.span_id]
    assert [each.attributes["turnout.workflow.run"] for each in (first, second)] == [1, 2]
    assert [each.attributes["turnout.workflow.state"] for each in (first, second)] == ["continued", "completed"]
    assert {each.parent_id for each in legs} == {second.span_id}
    assert len(legs) == 2
    assert (rest.parent_id, rest.end - rest.start > 0.3 - 1e-6) == (first.span_id, True)
    assert (stroll.parent_id, stroll.error) == (first.span_id, False)
    assert Counter(each.parent_id for each in walks) == {
        first.span_id: 3,  # one of them fails and is tried again
        **{each.span_id: 1 for each in legs},
    }
    assert [each.error for each in walks] == [False, True, False, False, False]
    order = [first.start, walks[0].start, walks[2].end, first.end, second.start, second.end]
    assert all(one <= two + ROUNDED_S for one, two in itertools.pairwise(order))
    assert [each.attributes["turnout.workflow.run"] for each in walks] == [1, 1, 1, 1, 1]  # a leg has but one
    of = [each.attributes["turnout.workflow.id"] for each in walks]
    assert of[:3] == ["t-1"] * 3
    assert set(of[3:]) == {each.attributes["turnout.workflow.id"] for each in legs}
    assert all({"turnout.workflow.id", "turnout.workflow.name"} <= set(each.attributes) for each in spans)
