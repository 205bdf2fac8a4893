"""The floor: what bare nats-py can do on this machine, as its documentation shows it.

Each job is published, pulled, has a result put into a key-value bucket, and is acknowledged; nothing guards it against
a crash in between. The tighter floor is the limit to go for: one inbox, overlapping pulls, nothing waits for its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from bench.processes import cpu_s

STREAM = "floor_work"
BUCKET = "floor_jobs"
SUBJECT = "floor.jobs.noop"
WARM_UP = 200
RESULT = b'{"v":1,"state":"completed","result":{"text":"1","size":1}}'


class Meter:
    """From its making to its reading: the rate, and the CPU of this process and of the servers per job."""

    def __init__(self, servers: list[int]) -> None:
        self._servers = servers
        self._begun = cpu_s(servers), time.process_time(), time.perf_counter()

    def read(self, jobs: int) -> dict[str, Any]:
        server_s, worker_s, started = self._begun
        return {
            "rate": jobs / (time.perf_counter() - started),
            "worker_us": (time.process_time() - worker_s) / jobs * 1e6,
            "server_us": (cpu_s(self._servers) - server_s) / jobs * 1e6,
        }


async def _fresh(nc: Client, replicas: int = 1) -> JetStreamContext:
    js = nc.jetstream(publish_async_max_pending=20_000)
    with contextlib.suppress(nats.js.errors.NotFoundError):
        await js.delete_stream(STREAM)
    with contextlib.suppress(nats.js.errors.NotFoundError):
        await js.delete_key_value(BUCKET)
    subjects = ["floor.jobs.*", "floor.jobs.*.*"]
    await js.add_stream(
        StreamConfig(
            name=STREAM,
            subjects=subjects,
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            num_replicas=replicas,
        )
    )
    await js.create_key_value(bucket=BUCKET, storage=StorageType.FILE, replicas=replicas)
    await js.add_consumer(
        STREAM, ConsumerConfig(durable_name="noop", ack_policy=AckPolicy.EXPLICIT, ack_wait=30, max_ack_pending=-1)
    )
    return js


def _headers() -> dict[str, str]:
    """What turnout sends with a job as well."""
    return {"Nats-Msg-Id": secrets.token_hex(13), "Nats-Expected-Last-Subject-Sequence": "0"}


async def _publish(js: JetStreamContext, jobs: int) -> None:
    futures = [await js.publish_async(f"{SUBJECT}.{number}", b'{"n":1}', headers=_headers()) for number in range(jobs)]
    await asyncio.gather(*futures)


async def led(url: str) -> dict[str, Any]:
    """Wait until the servers of a cluster have found each other and chosen a leader."""
    nc = await nats.connect(url)
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await _fresh(nc, replicas=3)
                break
            await asyncio.sleep(0.1)
    await nc.close()
    return {}


async def publish_pipelined(url: str, jobs: int, replicas: int = 1) -> dict[str, Any]:
    nc = await nats.connect(url)
    js = await _fresh(nc, replicas)
    started = time.perf_counter()
    await _publish(js, jobs)
    took = time.perf_counter() - started
    await nc.close()
    return {"rate": jobs / took}


async def publish_one_by_one(url: str, jobs: int) -> dict[str, Any]:
    nc = await nats.connect(url)
    js = await _fresh(nc)
    started = time.perf_counter()
    for number in range(jobs):
        await js.publish(f"{SUBJECT}.{number}", b'{"n":1}', headers=_headers())
    took = time.perf_counter() - started
    await nc.close()
    return {"rate": jobs / took}


async def prepare(url: str, jobs: int) -> dict[str, Any]:
    """Queue the jobs of a drain."""
    nc = await nats.connect(url)
    await _publish(await _fresh(nc), jobs)
    await nc.close()
    return {}


async def drain(url: str, jobs: int, servers: list[int]) -> dict[str, Any]:
    """Pull by the hundred; one awaited put and an ack per job."""
    nc = await nats.connect(url)
    js = nc.jetstream()
    kv = await js.key_value(BUCKET)
    pull = await js.pull_subscribe_bind(consumer="noop", stream=STREAM)

    async def one(message: Msg) -> None:
        await kv.put(message.subject, RESULT)
        await message.ack()

    meter, done = Meter(servers), 0
    while done < jobs:
        messages = await pull.fetch(100, timeout=5)
        await asyncio.gather(*(one(message) for message in messages))
        done += len(messages)
    await nc.flush()
    found = meter.read(jobs)
    await nc.close()
    return found


async def drain_tight(url: str, jobs: int, servers: list[int]) -> dict[str, Any]:
    """One inbox, three pulls in flight, puts answered into the same loop, acks sent when the put is stored."""
    nc = await nats.connect(url)
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    inbox, results = nc.new_inbox(), nc.new_inbox()
    waiting: dict[str, str] = {}
    left, received = jobs, 0
    ask = json.dumps({"batch": 200, "expires": 30_000_000_000}).encode()

    async def job(message: Msg) -> None:
        nonlocal received
        if not message.reply:
            return
        received += 1
        if received % 200 == 0:
            await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.noop", ask, reply=inbox)
        waiting[str(received)] = message.reply
        await nc.publish(f"$KV.{BUCKET}.{message.subject}", RESULT, reply=f"{results}.{received}")

    async def stored(message: Msg) -> None:
        nonlocal left
        await nc.publish(waiting.pop(message.subject.rpartition(".")[2]), b"+ACK")
        left -= 1
        if left == 0:
            finished.set_result(None)

    await nc.subscribe(inbox, cb=job)
    await nc.subscribe(f"{results}.*", cb=stored)
    meter = Meter(servers)
    for _ in range(3):
        await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.noop", ask, reply=inbox)
    await finished
    await nc.flush()
    found = meter.read(jobs)
    await nc.close()
    return found


async def serve(url: str, seconds: float) -> dict[str, Any]:
    """A worker that answers each job at once with a put and an ack."""
    nc = await nats.connect(url)
    js = await _fresh(nc)
    kv = await js.key_value(BUCKET)
    inbox = nc.new_inbox()
    ask = json.dumps({"batch": 1, "expires": 30_000_000_000}).encode()

    async def job(message: Msg) -> None:
        if message.reply:
            await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.noop", ask, reply=inbox)
            await kv.put(message.subject, RESULT)
            await message.ack()

    await nc.subscribe(inbox, cb=job)
    await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.noop", ask, reply=inbox)
    stop = await nc.subscribe("floor.stop")
    await nc.flush()
    print("serving", flush=True)
    await stop.next_msg(timeout=seconds)
    await nc.drain()
    return {}


async def latency(url: str, jobs: int, rest_s: float) -> dict[str, Any]:
    """From the publish to the put that is pushed to whoever waits. A `serve` runs in another process."""
    nc = await nats.connect(url)
    js = nc.jetstream()
    arrived: dict[str, asyncio.Future[None]] = {}

    async def put(message: Msg) -> None:
        arrived.pop(message.subject.rpartition(".")[2]).set_result(None)

    await nc.subscribe(f"$KV.{BUCKET}.>", cb=put)
    taken = []
    for number in range(jobs):
        if rest_s:
            await asyncio.sleep(rest_s)
        future = arrived[str(number)] = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        await js.publish(f"{SUBJECT}.{number}", b'{"n":1}', headers=_headers())
        await future
        taken.append((time.perf_counter() - started) * 1000)
    await nc.publish("floor.stop", b"")
    await nc.close()
    return {"ms": sorted(taken)}


async def respond(url: str, seconds: float) -> dict[str, Any]:
    """Answers requests at once."""
    nc = await nats.connect(url)

    async def answer(message: Msg) -> None:
        await message.respond(RESULT)

    await nc.subscribe("floor.ask", queue="workers", cb=answer)
    stop = await nc.subscribe("floor.stop")
    await nc.flush()
    print("serving", flush=True)
    await stop.next_msg(timeout=seconds)
    await nc.drain()
    return {}


async def requests(url: str, count: int) -> dict[str, Any]:
    """One request after the other, to a `respond` in another process."""
    nc = await nats.connect(url)
    taken = []
    for _ in range(WARM_UP + count):
        started = time.perf_counter()
        await nc.request("floor.ask", b'{"n":1}', timeout=30)
        taken.append((time.perf_counter() - started) * 1000)
    await nc.publish("floor.stop", b"")
    await nc.close()
    return {"ms": sorted(taken[WARM_UP:])}
