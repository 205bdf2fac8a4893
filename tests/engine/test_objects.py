"""Large bodies in the object store: they stay while anything refers to them, and go when nothing does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.waiting import letters, until
from turnout import Client, JobFaulted, RetryPolicy, activity, current_job
from turnout.core.group import GroupRecord, Roster
from turnout.core.spec import Body
from turnout.supervisor.objects import ObjectCollector
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions

BIG = "x" * 100_000
ONCE = RetryPolicy.none()


@activity(retry=ONCE)
async def echo(text: str) -> str:
    await current_job().checkpoint(text)
    return text


@activity(retry=ONCE)
async def fail(text: str) -> None:
    await current_job().checkpoint(text)
    raise ValueError(f"{len(text)} are too many")


async def names(client: Client) -> list[str]:
    return sorted([each.name async for each in client.store.payloads.objects()])


async def subjects(client: Client) -> int:
    info = await client.store.connection.api(f"STREAM.INFO.OBJ_{client.store.names.payloads_bucket}")
    return int(info["state"]["num_subjects"]) if info["state"]["messages"] else 0


async def collect(client: Client, walks: int = 2) -> int:
    """So many walks in which every object is old enough; how many objects they removed."""
    collector = ObjectCollector(client.store, 0.0)
    return sum([await collector.collect() for _ in range(walks)])


async def forget_record(client: Client, activity_name: str, job_id: str) -> None:
    """As if the record had expired."""
    of = client.store.names
    await client.store.connection.api(f"STREAM.PURGE.KV_{of.jobs_bucket}", {"filter": of.record(activity_name, job_id)})


async def test_what_a_record_refers_to_stays_and_goes_with_it(turnout_client: Client, turnout_worker: Any) -> None:
    """Payload, checkpoint and result of a completed job are there until its record has expired."""
    async with turnout_worker(echo):
        handle = await turnout_client.submit(echo, BIG)
        assert await handle.result(timeout=30) == BIG
    kept = await names(turnout_client)
    assert len(kept) == 3
    assert await collect(turnout_client, 3) == 0
    assert await names(turnout_client) == kept
    await forget_record(turnout_client, "echo", handle.id)
    assert await collect(turnout_client, 1) == 0  # once is not enough: a reference may have been on its way
    assert await collect(turnout_client) == 3
    assert await subjects(turnout_client) == 0


@pytest.mark.parametrize(
    "options", [{}, {"delay": 3600}, {"expires_in": 3600}], ids=["queued", "scheduled", "recorded"]
)
async def test_what_a_waiting_job_refers_to_stays(turnout_client: Client, turnout_worker: Any, options: Any) -> None:
    """The payload of a job that nobody has begun is referred to by its message, its timer or its record."""
    handle = await turnout_client.submit(echo.options(**options), BIG)
    assert await collect(turnout_client, 3) == 0
    assert await names(turnout_client) != []
    await handle.cancel()
    await forget_record(turnout_client, "echo", handle.id)
    assert await collect(turnout_client) == 1


async def test_what_a_letter_refers_to_stays_and_can_be_replayed(turnout_client: Client, turnout_worker: Any) -> None:
    """A dead letter keeps payload and checkpoint for a replay after its record has gone; dropped, it lets them go."""
    async with turnout_worker(fail):
        handle = await turnout_client.submit(fail, BIG)
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        (letter,) = await letters(turnout_client, 1)
        await forget_record(turnout_client, "fail", handle.id)
        assert await collect(turnout_client, 3) == 0
        assert letter.payload == {"text": BIG}
        await turnout_client.replay(handle.id)
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        assert (await handle.info()).checkpoint == BIG
    await handle.delete()
    assert await collect(turnout_client, 3) == 0
    await turnout_client.drop_fault(handle.id)
    assert await collect(turnout_client) > 0
    assert await subjects(turnout_client) == 0


async def test_the_body_of_a_bare_message_stays_while_the_message_does(turnout_client: Client) -> None:
    """What was stowed of a bare message before its first record was stored is found again under the message's name."""
    connection, of = turnout_client.store.connection, turnout_client.store.names
    ack = await connection.store(of.bare("echo"), BIG.encode(), {})
    stored = await connection.get_message(of.work, seq=ack.seq)
    assert stored is not None
    await turnout_client.store.payloads.put(BIG, "payload", "bare-1", key=f"{stored.seq}-{stored.time_ns:x}")
    assert await collect(turnout_client, 3) == 0
    await connection.api(f"STREAM.MSG.DELETE.{of.work}", {"seq": ack.seq})
    assert await collect(turnout_client) == 1


async def test_a_roster_stays_while_its_group_does(turnout_client: Client) -> None:
    """Also one whose group is of a newer version; that of a group which was never made goes."""
    store = turnout_client.store
    await turnout_client.submit_group(echo, [{"text": f"{n:100}"} for n in range(1000)], id="kept")
    newer = GroupRecord("newer", 1000)
    await store.groups.put_roster(newer, Roster((), (BIG,)))
    await store.connection.store(store.names.group("newer"), b'{"v": 99}', {})
    await store.groups.put_roster(GroupRecord("never", 1000), Roster((), (BIG,)))
    assert await collect(turnout_client) == 1
    assert sorted(name.partition("-")[0] for name in await names(turnout_client)) == ["group.kept", "group.newer"]


async def test_young_and_foreign_objects_are_left_alone(turnout_client: Client) -> None:
    """What is younger than the limit may be about to be referred to; what is not named by us is not ours."""
    store = turnout_client.store
    await store.payloads.put(BIG, "result", "orphan")
    collector = ObjectCollector(store, 3600.0)
    assert [await collector.collect() for _ in range(3)] == [0, 0, 0]
    await store.payloads._write("holiday.png", BIG.encode())
    assert await collect(turnout_client) == 1
    assert await names(turnout_client) == ["holiday.png"]


async def test_chunks_of_an_object_that_was_never_finished_go(turnout_client: Client) -> None:
    """A process that died while it wrote an object leaves chunks without a name; those of others stay."""
    store = turnout_client.store
    kept = await store.payloads.put(BIG, "result", "kept-1")
    await store.connection.store(f"$O.{store.names.payloads_bucket}.C.abandoned", b"half", {})
    collector = ObjectCollector(store, 3600.0)
    await collector.collect()
    assert await subjects(turnout_client) == 3
    await ObjectCollector(store, 0.0).collect()
    assert await subjects(turnout_client) == 2
    assert await store.payloads.get(kept) == BIG


async def test_a_reference_of_any_version_counts(turnout_client: Client) -> None:
    """A record that this version can't read keeps its objects."""
    store = turnout_client.store
    body = await store.payloads.put(BIG, "result", "newer-1")
    data = b'{"v": 99, "outcome": {"ref": "%s"}}' % (body.ref or "").encode()
    await store.connection.store(store.names.record("echo", "another"), data, {})
    assert await collect(turnout_client, 3) == 0


@asynccontextmanager
async def supervised(client: Client) -> AsyncIterator[None]:
    options = SupervisorOptions(look_every=0.1, objects_every=0.2, object_age=1.0)
    supervisor = Supervisor(client.connect_options, client.store.names, name="collector", options=options)
    task = asyncio.create_task(supervisor.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_the_acting_supervisor_collects(turnout_client: Client) -> None:
    """Nobody has to ask for it."""
    store = turnout_client.store
    await store.payloads.put(BIG, "result", "orphan")
    kept = await turnout_client.submit(echo, BIG)

    async def only_kept() -> bool:
        return [name.startswith(kept.id) for name in await names(turnout_client)] == [True]

    async with supervised(turnout_client):
        await until(only_kept)
        await asyncio.sleep(1.5)
        assert await only_kept()
    found = await store.queue.find("echo", kept.id)
    assert found is not None
    assert len(await store.payloads.get(Body(ref=found.spec.payload.ref))) > len(BIG)
