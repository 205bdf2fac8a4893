"""A job that fails, is lost, and succeeds, and a workflow that is replayed: what a real Jaeger answers about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import gobuild, story, trip
from tests.support import jaeger as real
from tests.support.waiting import until
from turnout import Client
from turnout.testing import NatsServer


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.Jaeger]:
    gobuild.need_go("Jaeger")
    with real.Jaeger(real.build(), tmp_path_factory.mktemp("jaeger") / "log") as jaeger:
        yield jaeger


async def test_jaeger_tells_it_all(jaeger: real.Jaeger, nats_server: NatsServer, turnout_client: Client) -> None:
    """The same as any collector is told: one trace, three attempts, links, the loss; found by the job's id."""
    told = await story.tell(nats_server.url, turnout_client.namespace, jaeger)
    story.check(told, jaeger.of_trace(told.info.trace_id), jaeger.of_job(told.info.id))
    assert {"turnout-cli", "turnout-worker"} <= set(jaeger.services())
    for tags in ('{"error.type": "lost"}', '{"error": "true"}'):  # as the guide searches for what went wrong
        assert len(jaeger.get("/api/traces", service="turnout-worker", operation="run render", tags=tags)) == 1


async def test_jaeger_tells_a_workflow_once(
    jaeger: real.Jaeger, nats_server: NatsServer, turnout_client: Client, tmp_path: Path
) -> None:
    """One trace of both runs, children and attempts, told once though another worker replays; found by its id."""
    env = trip.environment(nats_server.url, turnout_client.namespace, jaeger.environment)
    info = await trip.tell(turnout_client, env, tmp_path)

    async def all_told() -> bool:
        return trip.told(jaeger.of_trace(info.trace_id)).total() >= sum(trip.SPANS.values())

    await until(all_told, within_s=30)
    trip.check(info, jaeger.of_trace(info.trace_id))
    tags = '{"turnout.workflow.id": "t-1"}'
    [found] = jaeger.get("/api/traces", service="turnout-worker", tags=tags)
    assert found["traceID"] == info.trace_id
