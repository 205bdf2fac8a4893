"""What goes wrong around a job without being its fault; all on a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import nats
import pytest

from tests.support.values import job_record
from tests.support.waiting import running, until
from turnout import Client, JobState, Outcome, RetryPolicy, Worker, activity
from turnout.core.lifecycle import record_of
from turnout.core.record import AttemptRecord, Token
from turnout.errors import OutcomeUnknown, ServerUnavailable
from turnout.nats import once
from turnout.nats.stream import kv_stream
from turnout.once import _said as once_said
from turnout.store.topology import ConsumerOptions, Topology
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions
from turnout.testing import NatsServer
from turnout.worker import attempt, runner

ONCE = RetryPolicy.none()
gates: dict[str, asyncio.Event] = {}
runs: list[str] = []
unstoppable = threading.Event()


@activity(retry=ONCE, lease=2)
async def gated(gate: str) -> str:
    runs.append(gate)
    await gates.setdefault(gate, asyncio.Event()).wait()
    return gate


@activity(retry=ONCE, timeout=0.2)
def stubborn() -> None:
    unstoppable.wait()


@activity
def quick() -> str:
    return "done"


async def rename(client: Client, stream: str, subjects: list[str]) -> list[str]:
    """Change what a stream listens to; what it listened to before."""
    connection = client.store.connection
    config = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
    before: list[str] = config["subjects"]
    await connection.api(f"STREAM.UPDATE.{stream}", {**config, "subjects": subjects})
    return before


async def test_a_result_outwaits_a_registry_that_does_not_respond(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """While the registry has no leader nothing responds on its subjects: the result is kept, the code runs once."""
    caplog.set_level(logging.INFO, "turnout")
    async with turnout_worker(gated):
        handle = await turnout_client.submit(gated, turnout_client.namespace)
        await running(handle)
        stream = kv_stream(turnout_client.store.names.jobs_bucket)
        subjects = await rename(turnout_client, stream, [f"elsewhere.{turnout_client.namespace}.>"])
        gates[turnout_client.namespace].set()

        async def met() -> bool:
            return "nothing answers" in caplog.text

        await until(met)
        await rename(turnout_client, stream, subjects)
        assert await handle.result(timeout=30) == turnout_client.namespace
    assert runs.count(turnout_client.namespace) == 1
    assert (await handle.info()).losses == 0


async def test_what_is_refused_again_and_again_is_told_once(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that can't have it stored that it lives tries twice a second or so, and says so once a minute."""
    monkeypatch.delitem(once_said, "liveness", raising=False)
    caplog.set_level(logging.DEBUG, "turnout.worker.leases")
    async with turnout_worker(quick, liveness_ttl=2.0):
        connection = turnout_client.store.connection
        stream = kv_stream(turnout_client.store.names.nodes_bucket)
        config = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
        await connection.api(f"STREAM.UPDATE.{stream}", {**config, "max_bytes": 1, "discard": "new"})
        await connection.api(f"STREAM.PURGE.{stream}")  # what takes the place of another would have room

        async def refused() -> list[int] | None:
            levels = [each.levelno for each in caplog.records if "liveness could not be written" in each.message]
            return levels if len(levels) > 5 else None

        assert (await until(refused)).count(logging.WARNING) == 1
        await connection.api(f"STREAM.UPDATE.{stream}", config)


async def test_an_outage_is_told_as_what_it_is(
    nats_server: NatsServer, turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submit that no server answers raises one of the documented errors."""
    monkeypatch.setattr(once, "_RETRY_S", 0.2)
    nats_server.stop()
    with pytest.raises((ServerUnavailable, OutcomeUnknown)):
        await turnout_client.submit(quick)


async def test_one_unreadable_record_does_not_end_supervision(nats_server: NatsServer, turnout_client: Client) -> None:
    """A record of a newer version and a message that makes no sense are left alone; the other jobs are looked after."""
    store, names = turnout_client.store, turnout_client.store.names
    connection = store.connection
    await Topology(connection, names).ensure_consumer("gated", ConsumerOptions(lease=60, max_attempts=1, max_lost=3))
    for job_id, headers in (("newer", {}), ("odd", {"Turnout-Replaced": "\u00b2"}), ("orphan", {})):
        await connection.store(names.jobs("gated", job_id), b"{}", headers)
    raw = await nats.connect(nats_server.url)
    try:
        inbox = await raw.subscribe("pulled")
        await raw.publish(f"$JS.API.CONSUMER.MSG.NEXT.{names.work}.gated", b'{"batch": 3}', reply="pulled")
        for _ in range(3):
            await inbox.next_msg(5)
    finally:
        await raw.close()
    await connection.store(names.record("gated", "newer"), b'{"v": 999}')
    found = await store.queue.find("gated", "orphan")
    assert found is not None
    token = Token("dead-000000", 1, 1, "n")
    record = record_of(found)
    await store.registry.save(
        job_record(
            id="orphan",
            activity="gated",
            state=JobState.running,
            message=record.message,
            token=token,
            attempt=1,
            attempts=(AttemptRecord(1, 1, token.node, 0.0),),
        ),
        0,
    )
    options = SupervisorOptions(liveness_ttl=1.0, look_every=0.1, sweep_every=0.2, registry_every=0.2)
    supervisor = Supervisor(turnout_client.connect_options, names, name="alone", options=options)
    task = asyncio.create_task(supervisor.run())
    try:

        async def lost() -> bool:
            job = (await store.registry.load("gated", "orphan")).record
            return job is not None and job.losses == 1

        await until(lost)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_an_alarm_does_not_make_a_standby_run_hot(nats_server: NatsServer, turnout_client: Client) -> None:
    """A supervisor that does not act looks as seldom after an alarm as before it."""
    names = turnout_client.store.names
    options = SupervisorOptions(liveness_ttl=5.0, look_every=0.2)
    first, second = (
        Supervisor(turnout_client.connect_options, names, name=name, options=options) for name in ("one", "two")
    )
    tasks = [asyncio.create_task(first.run())]
    looks = 0

    def look(_: object) -> None:
        nonlocal looks
        looks += 1

    try:

        async def acting() -> bool:
            return first.acting

        await until(acting)
        tasks.append(asyncio.create_task(second.run()))
        connection = turnout_client.store.connection
        listening = await connection.subscribe(f"$JS.API.STREAM.MSG.GET.{kv_stream(names.nodes_bucket)}", look)

        async def looked() -> bool:
            return looks > 0

        await until(looked)
        alarm = {"consumer": "quick", "stream_seq": 12345}
        connection.send(f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{names.work}.quick", json.dumps(alarm).encode())
        looks = 0
        await asyncio.sleep(1.0)  # the time in which it is counted
        assert looks <= 15
        await listening.close()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_second_stop_does_not_wait_for_a_server_that_is_away(
    nats_server: NatsServer, turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop without grace ends the worker within seconds of it, also when a job's end can't be written."""
    monkeypatch.setattr(runner, "CLEANUP_S", 0.0)  # the code here needs no time for cleaning up
    worker = Worker(turnout_client, activities=[gated])
    await worker.start()
    handle = await turnout_client.submit(gated, "away")
    await running(handle)
    nats_server.stop()
    async with asyncio.timeout(30):
        patient = asyncio.create_task(worker.stop(grace=600))
        await asyncio.sleep(0)
        await worker.stop(grace=0)
        await patient


async def test_threads_left_behind_do_not_take_the_place_of_jobs(
    turnout_client: Client, turnout_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sync code that never stops costs its thread, and not the slot of the jobs that come after it."""
    monkeypatch.setattr(attempt, "CLEANUP_S", 0.1)
    try:
        async with turnout_worker(stubborn, quick, concurrency=1):
            stuck = await turnout_client.submit(stubborn)

            async def timed_out() -> bool:
                attempts = (await stuck.info()).attempts
                return bool(attempts) and attempts[0].outcome is Outcome.timed_out

            await until(timed_out)
            assert await (await turnout_client.submit(quick)).result(timeout=30) == "done"
    finally:
        unstoppable.set()


async def test_a_worker_follows_the_servers_clock(
    turnout_client: Client, turnout_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is set while a worker runs is measured again."""
    monkeypatch.setattr(runner, "CLOCK_EVERY_S", 0.1)
    async with turnout_worker(quick):
        clock = turnout_client.store.connection.clock
        clock.offset_s = 3600.0

        async def right() -> bool:
            return abs(clock.offset_s) < 60

        await until(right)


async def test_many_submits_survive_a_lost_link(nats_server: NatsServer, turnout_client: Client) -> None:
    """A link that is lost in the middle of submit_many costs time: every job is there, once."""
    connection = turnout_client.store.connection
    submitting = asyncio.create_task(turnout_client.submit_many(quick, [{}] * 3000))
    await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    link = connection._link
    assert link is not None
    link.lose("the test has cut it")
    handles = await submitting
    assert len({handle.id for handle in handles}) == 3000
    assert (await turnout_client.count())[JobState.queued] == 3000
