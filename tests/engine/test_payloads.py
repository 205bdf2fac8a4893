"""Payloads, results and checkpoints: of every model, of any size, and what is over the limit."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import nats
import pydantic
import pytest

from tests.support.waiting import until
from turnout import (
    Client,
    JobCancelled,
    JobFaulted,
    JobHandle,
    JobInfo,
    PayloadTooLarge,
    RetryPolicy,
    activity,
    current_job,
)
from turnout.store import payloads
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

LARGE = 3_000_000  # three times what one NATS message may hold
ODD = "ü渡し😀\n\"\\\x00'"


class Colour(Enum):
    red = "red"
    blue = "blue"


@dataclasses.dataclass
class Wheel:
    size: int
    colour: Colour = Colour.red


@attrs.frozen
class Axle:
    wheels: list[Wheel]
    label: str | None = None


class Car(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)  # pydantic's own way to let an attrs class in

    axles: list[Axle]
    built: date
    extra: dict[str, float] = {}


@attrs.frozen
class Fleet:
    cars: list[Car]


@activity
async def drive(car: Car) -> Car:
    return car.model_copy(update={"extra": {"km": 1.5}})


@activity
async def mount(axle: Axle) -> Wheel:
    return axle.wheels[0]


@activity
async def spin(wheel: Wheel) -> Fleet:
    return Fleet([Car(axles=[Axle([wheel], "front")], built=date(2026, 1, 2))])


@activity
async def mixed(car: Car, when: datetime, ident: UUID, path: Path, *, wheels: list[Wheel]) -> dict[str, Any]:
    return {"axles": len(car.axles), "year": when.year, "id": str(ident), "path": str(path), "n": len(wheels)}


@activity
async def later_named(thing: LaterNamed) -> LaterNamed:
    return LaterNamed(thing.n + 1)


@attrs.frozen
class LaterNamed:
    n: int


@activity
async def echo(value: Any = None) -> Any:
    return value


@activity
async def repeat(text: str, times: int) -> str:
    return text * times


@activity
async def wrong_result() -> int:
    return "not a number"  # type: ignore[return-value]


@activity(retry=RetryPolicy(max_attempts=2, delay=0))
async def unsendable() -> Any:
    return object()


@activity(retry=RetryPolicy(max_attempts=3, delay=0))
async def remember(size: int) -> int:
    job = current_job()
    before = job.restored(str)
    if before is not None:
        return len(before)
    await job.checkpoint("a" * 10)
    await job.checkpoint("b" * size)
    raise ValueError("once more")


@activity(retry=RetryPolicy.none())
async def checkpoint_too_much(size: int) -> str:
    try:
        await current_job().checkpoint("c" * size)
    except ValueError as error:
        return f"refused: {type(error).__name__}"
    return "stored"


async def test_models_of_every_kind(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """pydantic models, attrs classes and dataclasses nest in each other, and come back typed."""
    wheel = Wheel(17, Colour.blue)
    car = Car(axles=[Axle([wheel])], built=date(2025, 5, 6))
    async with turnout_worker(drive, mount, spin, later_named):
        driven = await turnout_client.submit(drive, car)
        assert await driven.result(timeout=30) == car.model_copy(update={"extra": {"km": 1.5}})
        assert (await driven.info()).payload == {
            "axles": [{"wheels": [{"size": 17, "colour": "blue"}], "label": None}],
            "built": "2025-05-06",
            "extra": {},
        }
        assert await (await turnout_client.submit(mount, Axle([wheel]))).result(timeout=30) == wheel
        fleet = await (await turnout_client.submit(spin, wheel)).result(timeout=30)
        assert fleet == Fleet([Car(axles=[Axle([wheel], "front")], built=date(2026, 1, 2))])
        assert await (await turnout_client.submit(later_named, LaterNamed(1))).result(timeout=30) == LaterNamed(2)
        by_name = await turnout_client.submit("mount", {"wheels": [{"size": 3}]})
        assert await by_name.result(timeout=30) == {"size": 3, "colour": "red"}
        assert await turnout_client.job(by_name.id, mount).result(timeout=30) == Wheel(3)


async def test_models_among_parameters(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Several parameters make an object of them, models and the standard library's types among them."""
    async with turnout_worker(mixed):
        handle = await turnout_client.submit(
            mixed,
            Car(axles=[], built=date(2025, 1, 1)),
            datetime(2026, 3, 4, tzinfo=UTC),
            UUID(int=7),
            Path("a/b.mp4"),
            wheels=[Wheel(1), Wheel(2)],
        )
        result = await handle.result(timeout=30)
    assert result == {"axles": 0, "year": 2026, "id": str(UUID(int=7)), "path": "a/b.mp4", "n": 2}


@pytest.mark.parametrize(
    "value", [None, True, 0, -1, 2**53, 2**70, 1.5, 1e300, "", ODD, [], {}, {"": [None, {"a": []}]}, "x" * 40_000]
)
async def test_any_json_value(turnout_client: Client, turnout_worker: WorkerFactory, value: Any) -> None:
    """Whatever JSON can say arrives, comes back, and shows as it is."""
    async with turnout_worker(echo):
        handle = await turnout_client.submit(echo, value)
        assert await handle.result(timeout=30) == value
        info = await handle.info()
    assert info.result == value
    assert info.payload == {"value": value}


async def test_results_that_cannot_be(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A result that JSON can't carry, or that isn't what was promised, faults the job at once; it isn't retried."""
    async with turnout_worker(wrong_result, unsendable):
        for name in ("wrong_result", "unsendable"):
            with pytest.raises(JobFaulted, match="result") as caught:
                await (await turnout_client.submit(name)).result(timeout=30)
            assert caught.value.info.attempt == 1


# --- large -----------------------------------------------------------------------------------------------------------


async def objects(server: NatsServer, client: Client) -> list[str]:
    """The names in the bucket, as any NATS client lists them."""
    connection = await nats.connect(server.url)
    try:
        store = await connection.jetstream().object_store(f"{client.namespace}_payloads")
        return sorted(info.name for info in await store.list(ignore_deletes=True))
    except nats.js.errors.NotFoundError:
        return []
    finally:
        await connection.close()


async def chunks(server: NatsServer, client: Client) -> int:
    connection = await nats.connect(server.url)
    try:
        return (await connection.jetstream().stream_info(f"OBJ_{client.namespace}_payloads")).state.messages
    finally:
        await connection.close()


@pytest.mark.parametrize("text", ["x", ODD], ids=["ascii", "odd"])
async def test_large_ones_go_unnoticed(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory, text: str
) -> None:
    """A payload and a result far over what a message may hold are submitted, run, shown and listed like small ones."""
    large = text * (LARGE // len(text))
    handle = await turnout_client.submit(echo, large)
    assert (await handle.info()).payload == {"value": large}
    async with turnout_worker(echo, repeat):
        assert await handle.result(timeout=30) == large
        assert await (await turnout_client.submit(repeat, text, 200_000)).result(timeout=30) == text * 200_000
    info = await handle.info()
    assert (info.payload, info.result) == ({"value": large}, large)
    assert {len(info.result) async for info in turnout_client.jobs()} == {len(large), len(text * 200_000)}
    assert len(await objects(nats_server, turnout_client)) == 3


async def test_large_ones_of_submit_many(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Large and small payloads mix in one submit_many."""
    sizes = [10, 100_000, 0, 1_500_000, 33_000]
    async with turnout_worker(echo):
        handles = await turnout_client.submit_many(echo, [{"value": "m" * size} for size in sizes])
        assert [len(await handle.result(timeout=30)) for handle in handles] == sizes


async def test_a_large_checkpoint(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """The next attempt gets a large checkpoint whole; one that was replaced leaves nothing behind."""
    async with turnout_worker(remember):
        handle = await turnout_client.submit(remember, LARGE)
        assert await handle.result(timeout=30) == LARGE
    info = await handle.info()
    assert info.checkpoint == "b" * LARGE
    assert len(await objects(nats_server, turnout_client)) == 1


async def test_large_payloads_wait_and_retry(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A large payload is there for a delayed job, and for a retry long after its message has gone."""
    delayed = await turnout_client.submit(echo.options(delay=0.2), "d" * LARGE)
    cancelled = await turnout_client.submit(echo, "c" * LARGE)
    await cancelled.cancel()
    await cancelled.retry()
    async with turnout_worker(echo):
        assert len(await delayed.result(timeout=30)) == LARGE
        assert len(await cancelled.result(timeout=30)) == LARGE


async def test_others_can_read_the_objects(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """What is stored is an object of NATS's object store: another client reads it, its digest included."""
    handle = await turnout_client.submit(echo, ODD * 20_000)
    (name,) = await objects(nats_server, turnout_client)
    assert handle.id in name
    connection = await nats.connect(nats_server.url)
    try:
        store = await connection.jetstream().object_store(f"{turnout_client.namespace}_payloads")
        found = await store.get(name)
    finally:
        await connection.close()
    assert found.data is not None
    assert json.loads(found.data) == {"value": ODD * 20_000}


async def test_deletion_removes_the_objects(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Deleting a job takes its payload, checkpoint and result with it, and nobody else's."""
    async with turnout_worker(echo, remember):
        keep = await turnout_client.submit(echo, "k" * 100_000)
        gone = await turnout_client.submit(echo, "g" * 100_000)
        with_checkpoint = await turnout_client.submit(remember, 100_000)
        for handle in (keep, gone, with_checkpoint):
            await handle.result(timeout=30)
    assert len(await objects(nats_server, turnout_client)) == 5
    for handle in (gone, with_checkpoint):
        await handle.delete()
    left = await objects(nats_server, turnout_client)
    assert len(left) == 2
    assert all(keep.id in name for name in left)
    assert len(await keep.result(timeout=30)) == 100_000
    await keep.delete()
    assert await chunks(nats_server, turnout_client) == 0


async def test_a_refused_submit_leaves_no_object(nats_server: NatsServer, turnout_client: Client) -> None:
    """A large payload under an id that is taken isn't kept, also when two submits race for it."""
    first = await turnout_client.submit(echo.options(id="one"), "f" * 100_000)
    submits = [turnout_client.submit(echo.options(id="one"), "s" * 100_000)]
    submits += [turnout_client.submit(echo.options(id="two"), "t" * 100_000) for _ in range(5)]
    submits += [turnout_client.submit(echo.options(id="three", delay=60), "u" * 100_000) for _ in range(5)]
    outcomes = await asyncio.gather(*submits, return_exceptions=True)
    assert len([outcome for outcome in outcomes if isinstance(outcome, JobHandle)]) == 2
    assert (await first.info()).payload == {"value": "f" * 100_000}
    assert len(await objects(nats_server, turnout_client)) == 3


async def test_a_listing_survives_a_missing_object(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Somebody removed an object by hand: listings and info go on without it, and running it faults with its name."""
    handle = await turnout_client.submit(echo, "x" * 100_000)
    (name,) = await objects(nats_server, turnout_client)
    connection = await nats.connect(nats_server.url)
    try:
        store = await connection.jetstream().object_store(f"{turnout_client.namespace}_payloads")
        await store.delete(name)
    finally:
        await connection.close()
    assert [info.id async for info in turnout_client.jobs()] == [handle.id]
    assert (await handle.info()).payload is None
    policy = RetryPolicy.none()
    async with turnout_worker(echo):
        other = await turnout_client.submit(echo.options(retry=policy), 1)
        assert await other.result(timeout=30) == 1
        await handle.cancel("never mind")
        info = await until(lambda: ended(handle))
    assert info.state in ("faulted", "cancelled")
    if info.error is not None:
        assert name in info.error.message
    assert len([info async for info in turnout_client.jobs()]) == 2
    _ = [fault async for fault in turnout_client.faults()]


async def ended(handle: JobHandle[Any]) -> JobInfo | None:
    info = await handle.info()
    return info if info.state.final else None


# --- too large -------------------------------------------------------------------------------------------------------


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """The limit is 256 MiB; nobody wants to wait for that here."""
    monkeypatch.setattr(payloads, "LIMIT_BYTES", 100_000)
    return 100_000


async def test_over_the_limit(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory, low_limit: int
) -> None:
    """A payload over the limit is refused and stored nowhere; a result faults its job; a checkpoint raises."""
    for submit in (
        turnout_client.submit(echo, "x" * low_limit),
        turnout_client.submit("echo", {"value": "ü" * (low_limit // 2)}),
        turnout_client.submit_many(echo, [{"value": 1}, {"value": "x" * low_limit}]),
    ):
        with pytest.raises(PayloadTooLarge, match="payload"):
            await submit
    assert sum((await turnout_client.count()).values()) == 0
    async with turnout_worker(repeat, checkpoint_too_much):
        with pytest.raises(JobFaulted, match="100,000") as caught:
            await (await turnout_client.submit(repeat, "x", low_limit)).result(timeout=30)
        assert (caught.value.info.attempt, caught.value.info.error.type) == (1, "PayloadTooLarge")
        handle = await turnout_client.submit(checkpoint_too_much, low_limit)
        assert await handle.result(timeout=30) == "refused: PayloadTooLarge"
    assert await objects(nats_server, turnout_client) == []


async def test_the_limit_is_the_documented_one() -> None:
    """256 MiB, for each of the three."""
    assert payloads.LIMIT_BYTES == 256 * 1024 * 1024


async def test_a_large_payload_of_a_cancelled_job_is_removed_with_it(
    nats_server: NatsServer, turnout_client: Client
) -> None:
    """A job that never ran is deleted with its payload."""
    handle = await turnout_client.submit(echo, "x" * 100_000)
    await handle.cancel()
    with pytest.raises(JobCancelled):
        await handle.result(timeout=30)
    await handle.delete()
    assert await objects(nats_server, turnout_client) == []
