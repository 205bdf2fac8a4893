"""A job that fails, is lost, and succeeds: what a collector is told of it."""

from __future__ import annotations

from tests.support import story
from tests.support.otlp import OtlpReceiver
from turnout import Client
from turnout.testing import NatsServer


async def test_one_trace_tells_it_all(nats_server: NatsServer, turnout_client: Client) -> None:
    """One submit and three attempts in one trace, linked in order; the dead one has its span, too."""
    with OtlpReceiver() as collector:
        told = await story.tell(nats_server.url, turnout_client.namespace, collector)
        story.check(told, collector.of_trace(told.info.trace_id), collector.of_job(told.info.id))
