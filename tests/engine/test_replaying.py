"""Dead letters: replaying jobs from them, one or many, and dropping them; all on a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.waiting import until
from turnout import (
    Client,
    InvalidState,
    JobFaulted,
    JobHandle,
    JobNotFound,
    JobState,
    RetryPolicy,
    activity,
    current_job,
)
from turnout.core.events import RetryRequested
from turnout.definition.retention import DEAD_LETTERS_KEPT_S, Retention
from turnout.store.perform import Performer

LARGE = 100_000
fixed = asyncio.Event()


@activity(retry=RetryPolicy(max_attempts=2, delay=0.05))
async def broken(text: str = "x", error: str = "ValueError") -> dict[str, Any]:
    job = current_job()
    before = job.restored(list[int]) or []
    await job.checkpoint([*before, job.attempt])
    if not fixed.is_set():
        raise {"ValueError": ValueError, "KeyError": KeyError}[error]("not yet")
    return {"length": len(text), "before": before, "attempt": job.attempt}


@activity(retry=RetryPolicy(max_attempts=2, delay=0.01))
async def older_code(tolerant: bool = False) -> Any:
    """Its checkpoint is one that it can't read itself."""
    job = current_job()
    before = job.restored(dict[str, int], default={"page": 1}) if tolerant else job.restored(dict[str, int])
    if before is None or (tolerant and job.attempt == 1):
        await job.checkpoint("page 7")
        raise OSError("away")
    return before


@activity(retry=RetryPolicy.none())
async def other() -> None:
    if not fixed.is_set():
        raise ValueError("not yet")


@pytest.fixture(autouse=True)
def unfixed() -> None:
    fixed.clear()


async def faulted(client: Client, *submissions: Any) -> list[JobHandle[Any]]:
    """These jobs, faulted, with their dead letters: those are written behind the records that tell of the end."""
    handles = [await client.submit(each, *args) for each, args in submissions]
    for handle in handles:
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        await until(lambda handle=handle: has_letter(client, handle, 1))  # type: ignore[misc]
    return handles


async def has_letter(client: Client, handle: JobHandle[Any], generation: int) -> bool:
    return (handle.id, generation) in [(letter.id, letter.generation) async for letter in client.faults()]


async def forget_record(client: Client, activity_name: str, job_id: str) -> None:
    """As if the record had expired: its key is gone without a trace."""
    names = client.store.names
    await client.store.connection.api(
        f"STREAM.PURGE.KV_{names.jobs_bucket}", {"filter": names.record(activity_name, job_id)}
    )


@pytest.mark.parametrize("size", [1, LARGE], ids=["small", "claim check"])
@pytest.mark.parametrize("gone", ["kept", "expired", "deleted"])
async def test_a_replayed_job_goes_on_with_or_without_its_record(
    turnout_client: Client, turnout_worker: Any, gone: str, size: int
) -> None:
    """A letter is enough to run a job again: its id and payload, its checkpoint, and attempt numbers that go on."""
    async with turnout_worker(broken):
        (handle,) = await faulted(turnout_client, (broken.options(labels={"k": "v"}), ("x" * size,)))
        if gone == "expired":
            await forget_record(turnout_client, "broken", handle.id)
        elif gone == "deleted":
            await handle.delete()
        assert await unmended(turnout_client) == [handle.id]
        fixed.set()
        again = await turnout_client.replay(handle.id)
        assert again.id == handle.id
        assert await unmended(turnout_client) == []
        assert await again.result(timeout=30) == {"length": size, "before": [1, 2], "attempt": 3}
        info = await again.info()
    assert (info.generation, info.failures, info.labels) == (2, 0, {"k": "v"})
    assert [(a.number, a.generation, a.outcome) for a in info.attempts] == [
        (1, 1, "faulted"),
        (2, 1, "faulted"),
        (3, 2, "completed"),
    ]
    assert [letter.generation async for letter in turnout_client.faults()] == [1]
    assert await unmended(turnout_client) == []


async def test_what_was_mended_leaves_the_list_of_dead_letters(turnout_client: Client, turnout_worker: Any) -> None:
    """A letter waits while its job is faulted: a retry takes it off, before any worker comes; the next fault is on."""
    async with turnout_worker(broken):
        one, two = await faulted(turnout_client, (broken, ()), (broken, ()))
        assert sorted(await unmended(turnout_client)) == sorted([one.id, two.id])
        await two.retry()
        await until(lambda: has_letter(turnout_client, two, 2))
        letters = [letter async for letter in turnout_client.faults(mended=False)]
        assert [(letter.id, letter.generation) for letter in letters] == [(one.id, 1), (two.id, 2)]
    await one.retry()
    assert await unmended(turnout_client) == [two.id]
    await one.cancel("leave it")
    assert await unmended(turnout_client) == [two.id]


async def unmended(client: Client) -> list[str]:
    return [letter.id async for letter in client.faults(mended=False)]


async def test_a_replay_is_in_the_trace_of_the_job(
    turnout_client: Client, turnout_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All attempts of all generations are in one trace, and the first of a replay links to the last one before."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    async with turnout_worker(broken):
        (handle,) = await faulted(turnout_client, (broken, ()))
        trace_id = (await handle.info()).trace_id
        await forget_record(turnout_client, "broken", handle.id)
        fixed.set()
        await (await turnout_client.replay(handle.id)).result(timeout=30)
    runs = sorted(
        (span for span in exporter.get_finished_spans() if span.kind is trace.SpanKind.CONSUMER),
        key=lambda span: span.start_time or 0,
    )
    assert {f"{span.context.trace_id:032x}" for span in runs} == {trace_id}
    assert [span.attributes["turnout.job.attempt"] for span in runs if span.attributes] == [1, 2, 3]
    assert [link.context.span_id for link in runs[2].links] == [runs[1].context.span_id]


async def test_replay_by_filter_takes_what_matches_and_has_not_gone_on(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """Activity, time and error type choose; each job is replayed once, and one that has gone on is left alone."""
    async with turnout_worker(broken, other):
        values = await faulted(turnout_client, (broken, ()), (broken, ()))
        keys = await faulted(turnout_client, (broken, ("x", "KeyError")))
        others = await faulted(turnout_client, (other, ()))
        await forget_record(turnout_client, "broken", values[0].id)
        assert await turnout_client.replay_faults(since=0.0) == 0
        assert await turnout_client.replay_faults(activity="other", error_type="KeyError") == 0
        assert await turnout_client.count_faults(activity="other", error_type="KeyError") == 0
        fixed.set()
        assert await turnout_client.count_faults(activity=broken, error_type=ValueError) == 2
        assert await turnout_client.replay_faults(activity=broken, error_type=ValueError) == 2
        assert await turnout_client.count_faults(activity=broken, error_type=ValueError) == 0
        for handle in values:
            assert (await handle.result(timeout=30))["attempt"] == 3
        assert [(await handle.info()).state for handle in (*keys, *others)] == ["faulted", "faulted"]
        assert await turnout_client.replay_faults(since=3600) == 2
        for handle in (*keys, *others):
            await handle.result(timeout=30)
        assert await turnout_client.replay_faults() == 0


async def test_a_job_that_was_replayed_and_has_not_begun_is_not_replayed_again(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """Neither where its record has expired and only the message tells of it; it is not counted either."""
    async with turnout_worker(broken):
        handles = await faulted(turnout_client, (broken, ()), (broken, ()))
    await forget_record(turnout_client, "broken", handles[0].id)
    assert await turnout_client.replay_faults() == 2
    assert await turnout_client.count_faults() == 0
    assert await turnout_client.replay_faults() == 0


async def test_what_cannot_be_replayed_is_told(turnout_client: Client, turnout_worker: Any) -> None:
    """An unknown job, one that has not faulted and one whose payload is gone are three different answers."""
    with pytest.raises(JobNotFound, match="nobody"):
        await turnout_client.replay("nobody")
    queued = await turnout_client.submit("nobody_works_on_it", {})
    with pytest.raises(InvalidState, match="queued"):
        await turnout_client.replay(queued.id)
    async with turnout_worker(broken):
        (handle,) = await faulted(turnout_client, (broken, ("x" * LARGE,)))
        record = (await turnout_client.store.registry.load("broken", handle.id)).record
        assert record is not None
        await forget_record(turnout_client, "broken", handle.id)
        await turnout_client.store.payloads.delete(record.spec.payload)
        with pytest.raises(InvalidState, match="is gone"):
            await turnout_client.replay(handle.id)
        assert await turnout_client.replay_faults() == 0


async def test_an_id_that_was_taken_anew_is_not_replayed(turnout_client: Client, turnout_worker: Any) -> None:
    """With the record gone the id is free; a letter does not replace the job that has it now."""
    async with turnout_worker(broken):
        (handle,) = await faulted(turnout_client, (broken, ()))
    await forget_record(turnout_client, "broken", handle.id)
    await turnout_client.submit(broken.options(id=handle.id), "new")
    with pytest.raises(InvalidState, match="queued"):
        await turnout_client.replay(handle.id)
    store = turnout_client.store
    (letter,) = [letter async for letter in store.dead_letters.scan()]
    await Performer(store).apply("broken", handle.id, RetryRequested(now=0.0, dead_letter=letter.record))
    assert (await handle.info()).payload == {"text": "new"}


async def test_replaying_twice_at_once_replays_once(turnout_client: Client, turnout_worker: Any) -> None:
    """Of two operators who replay a letter at the same time one succeeds, and there is one next generation."""
    async with turnout_worker(broken):
        (handle,) = await faulted(turnout_client, (broken, ()))
    await forget_record(turnout_client, "broken", handle.id)
    await asyncio.gather(*(turnout_client.replay(handle.id) for _ in range(8)), return_exceptions=True)
    info = await handle.info()
    assert (info.state, info.generation) == ("queued", 2)


async def test_a_dropped_letter_is_gone_and_the_record_stays(turnout_client: Client, turnout_worker: Any) -> None:
    """drop_fault removes the job's letters, and nothing else; several at once are not in each other's way."""
    async with turnout_worker(broken):
        handle, kept = await faulted(turnout_client, (broken, ()), (broken, ()))
    drops = await asyncio.gather(*(turnout_client.drop_fault(handle.id) for _ in range(3)), return_exceptions=True)
    assert 1 in drops
    assert all(drop == 1 or isinstance(drop, JobNotFound) for drop in drops)
    assert [letter.id async for letter in turnout_client.faults()] == [kept.id]
    assert (await handle.info()).state == "faulted"
    with pytest.raises(JobNotFound, match="no dead letter"):
        await turnout_client.drop_fault(handle.id)


async def test_deleting_a_replayed_job_leaves_nothing_to_replay(turnout_client: Client, turnout_worker: Any) -> None:
    """A job that completed in a later life takes the letters of its earlier ones with it when it is deleted."""
    async with turnout_worker(broken):
        (handle,) = await faulted(turnout_client, (broken, ("x" * LARGE,)))
        fixed.set()
        await (await turnout_client.replay(handle.id)).result(timeout=30)
        await handle.delete()
    assert [letter.id async for letter in turnout_client.faults()] == []
    with pytest.raises(JobNotFound):
        await turnout_client.replay(handle.id)


def test_a_retried_job_is_remembered_for_as_long_as_its_letter() -> None:
    """However short the retention, the record of a later generation outlives the letter of the earlier one."""
    retention = Retention(completed=3600, faulted=3600, cancelled=3600)
    assert retention.of(JobState.completed, 2) >= DEAD_LETTERS_KEPT_S
    assert retention.of(JobState.completed) < DEAD_LETTERS_KEPT_S


async def test_a_checkpoint_that_newer_code_cannot_read_has_a_way_out(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """It is a failure like another, told as the checkpoint's; a default or a retry without it goes on."""
    async with turnout_worker(older_code):
        handle = await turnout_client.submit(older_code)
        with pytest.raises(JobFaulted, match=r"checkpoint.*default.*without the checkpoint") as caught:
            await handle.result(timeout=30)
        assert (caught.value.info.reason, caught.value.info.attempt) == ("failed", 2)
        await handle.retry(checkpoint=False)
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        info = await handle.info()
        third = info.attempts[2].error
        assert third is not None
        assert (info.attempt, third.type) == (4, "OSError")
        tolerant = await turnout_client.submit(older_code, tolerant=True)
        assert await tolerant.result(timeout=30) == {"page": 1}
        assert (await tolerant.info()).attempt == 2
