"""A job that fails, is lost, and succeeds: what a real Jaeger answers about it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import gobuild, story
from tests.support import jaeger as real
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
