"""Jobs from people who have no turnout: `nats pub`, and the same bytes over a plain socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support.natscli import NatsCli
from tests.support.rawsocket import raw_publish
from turnout import Client, JobFaulted, JobInfo, activity
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

Publish = Callable[..., None]


@activity
async def greet(name: str, greeting: str = "hello") -> str:
    return f"{greeting} {name}"


@activity
async def ping() -> str:
    return "pong"


@pytest.fixture(params=["nats pub", "raw socket"])
def publish(request: pytest.FixtureRequest, nats_server: NatsServer) -> Publish:
    """publish(subject, body, headers=None), by the program and by the socket in turn."""
    if request.param == "raw socket":
        return lambda subject, body, headers=None: raw_publish(nats_server.url, subject, body, headers)
    nats_cli: NatsCli = request.getfixturevalue("nats_cli")

    def by_program(subject: str, body: str, headers: dict[str, str] | None = None) -> None:
        options = [part for name, value in (headers or {}).items() for part in ("-H", f"{name}:{value}")]
        nats_cli(nats_server.url, "pub", *options, subject, body)

    return by_program


async def the_job(client: Client) -> JobInfo:
    """The only job of the namespace, as soon as it is stored: a bare publish is not acknowledged."""
    async with asyncio.timeout(20):
        while True:
            found = [info async for info in client.jobs()]
            if found:
                assert len(found) == 1
                return found[0]
            await asyncio.sleep(0.02)


async def test_a_bare_publish_runs(publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A subject and a body are enough: the job runs, is found, and keeps its payload as it was typed."""
    async with turnout_worker(greet):
        publish(f"{turnout_client.namespace}.jobs.greet", '{"name": "ann"}')
        job = await the_job(turnout_client)
        assert await turnout_client.job(job.id).result(timeout=30) == "hello ann"
        info = await turnout_client.job(job.id).info()
        assert (info.activity, info.attempt, info.payload) == ("greet", 1, {"name": "ann"})


async def test_a_bare_publish_waits_for_its_worker(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Published before any worker has ever been there, the job shows as queued and runs under the same id later."""
    publish(f"{turnout_client.namespace}.jobs.greet", '{"name": "ann", "greeting": "good day"}')
    queued = await the_job(turnout_client)
    assert queued.state == "queued"
    async with turnout_worker(greet):
        assert await turnout_client.job(queued.id).result(timeout=30) == "good day ann"


async def test_an_empty_body_means_no_arguments(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """An empty body is the empty object."""
    async with turnout_worker(ping):
        publish(f"{turnout_client.namespace}.jobs.ping", "")
        job = await the_job(turnout_client)
        assert await turnout_client.job(job.id).result(timeout=30) == "pong"


async def test_headers_name_the_job_and_its_trace(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Nats-Msg-Id is the job's id, and traceparent says which trace it belongs to."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"Nats-Msg-Id": "ferry-7", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    async with turnout_worker(greet):
        publish(f"{turnout_client.namespace}.jobs.greet", '{"name": "ann"}', headers)
        await the_job(turnout_client)
        handle = turnout_client.job("ferry-7")
        assert await handle.result(timeout=30) == "hello ann"
        assert (await handle.info()).trace_id == trace


@pytest.mark.parametrize(("body", "named"), [('{"nam": "ann"}', "name"), ('{"name": 7}', "name"), ("ann", "JSON")])
async def test_an_invalid_body_faults_at_once(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory, body: str, named: str
) -> None:
    """What the activity cannot take ends the job after one attempt at most, with the field's name in the error."""
    async with turnout_worker(greet):
        publish(f"{turnout_client.namespace}.jobs.greet", body)
        job = await the_job(turnout_client)
        with pytest.raises(JobFaulted):
            await turnout_client.job(job.id).result(timeout=30)
        info = await turnout_client.job(job.id).info()
        assert info.attempt <= 1
        assert info.error is not None
        assert named in info.error.message


async def test_templates_are_a_matter_of_the_program(
    nats_cli: NatsCli, nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """`nats pub` fills templates such as {{Count}} in a body; with --no-templates the body arrives as typed."""
    subject = f"{turnout_client.namespace}.jobs.greet"
    async with turnout_worker(greet):
        nats_cli(nats_server.url, "pub", "--no-templates", subject, '{"name": "{{Count}}"}')
        job = await the_job(turnout_client)
        assert await turnout_client.job(job.id).result(timeout=30) == "hello {{Count}}"
