"""A queue with a gate: jobs are queued while the gate is closed, and the clock starts when it opens.

The gate is the server's own: a consumer that is paused hands nothing over. Whoever works stands ready behind it, so
neither a process's start nor the submission counts, whatever the number of jobs.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench.jobs import activity_of, noop
from bench.processes import cpu_s, rss_mb
from turnout import Client, JobHandle, JobState, wire
from turnout.core.spec import DEFAULT_PRIORITY
from turnout.definition.activity import Activity
from turnout.nats.stream import kv_stream, rfc3339
from turnout.store.names import lane

_LOOK_S = (0.002, 0.25)
_OPENS_IN_S = 0.2
_STUCK_S = 20.0
_TURN = 100


async def drain(
    url: str,
    namespace: str,
    jobs: int,
    workers: list[int],
    servers: list[int],
    activity: str = noop.name,
    priorities: Sequence[int] = (DEFAULT_PRIORITY,),
) -> dict[str, Any]:
    """Queue no-op jobs behind the gate, open it, and wait until the queue is empty: then all must be completed.

    `workers` and `servers` are process ids. `activity` names one of bench.jobs; of each of the `priorities` there are
    as many jobs, in turns. Gives the rate in jobs per second, from the gate's opening to the empty
    queue, and another from the first start to the last end, by the records; their CPU in microseconds per job; and what
    a queued job and an ended one take on the server.
    """
    async with Client.connect(url, namespace=namespace) as client:
        asked = [activity_of(activity).options(priority=each) for each in priorities]
        if len(asked) > 1:
            await _opened(client, asked)
        gates = [lane(activity, each) for each in priorities]
        before = (await client.count())[JobState.completed]
        server_mb = rss_mb(servers)
        await _close(client, gates, time.time() + 3600)
        handles = [handle for part in _parts(jobs, asked) for handle in await client.submit_many(*part)]
        queue, server_mb = await _state(client, client.store.names.work), rss_mb(servers) - server_mb
        opens = time.time() + _OPENS_IN_S
        await _close(client, gates, opens)
        await asyncio.sleep(opens - time.time())
        busy = cpu_s(workers), cpu_s(servers)
        took = await emptied(client, jobs)
        busy = cpu_s(workers) - busy[0], cpu_s(servers) - busy[1]
        counts = await client.count()
        if counts[JobState.completed] != before + jobs:
            raise RuntimeError(f"{jobs} jobs were drained beside {before}, but these are the records: {counts}")
        records = await _state(client, kv_stream(client.store.names.jobs_bucket))
        return {
            "rate": jobs / took,
            "record_rate": jobs / await _span(client, handles[0]),
            "worker_us": busy[0] / jobs * 1e6,
            "server_us": busy[1] / jobs * 1e6,
            "queued_memory": max(server_mb, 0.0) * 1e6 / jobs,  # it may give back more
            "queued_disk": queue["bytes"] / queue["messages"],
            "record_disk": records["bytes"] / records["messages"],
        }


async def _opened(client: Client, asked: Sequence[Activity[..., Any]]) -> None:
    """Have a job of each priority run: then its lane is there, and workers pull it."""
    for each in asked:
        await (await client.submit(each)).result(timeout=_STUCK_S)


def _parts(jobs: int, asked: Sequence[Activity[..., Any]]) -> Iterator[tuple[Activity[..., Any], list[dict[str, int]]]]:
    """So many jobs in turns of a hundred, one activity after the other."""
    turns = itertools.cycle(asked)
    size = jobs if len(asked) == 1 else min(_TURN, -(-jobs // len(asked)))
    for begin in range(0, jobs, size):
        yield next(turns), [{"n": 1}] * min(size, jobs - begin)


async def _close(client: Client, gates: Sequence[str], until: float) -> None:
    """Close these gates until this time, in unix seconds. Opened by hand it would not wake who waits behind it."""
    body = {"pause_until": rfc3339(until)}
    for gate in gates:
        await client.store.connection.api(f"CONSUMER.PAUSE.{client.store.names.work}.{gate}", body)


async def emptied(client: Client, jobs: int) -> float:
    """The seconds from now until the queue is empty. It is looked at seldom at first, and often towards the end."""
    started = moved = time.perf_counter()
    before = jobs
    while left := await queued(client):
        took = time.perf_counter() - started
        moved = started + took if left < before else moved
        if started + took > moved + _STUCK_S:
            raise RuntimeError(f"{left} of {jobs} jobs are left, and nothing has moved for {_STUCK_S:g} s")
        before = left
        rest_s = took * left / (jobs - left) if left < jobs else 0.0
        await asyncio.sleep(min(max(min(rest_s / 4, took / 2), _LOOK_S[0]), _LOOK_S[1]))
    return time.perf_counter() - started


async def _span(client: Client, first: JobHandle[int]) -> float:
    """The seconds from the start of this job to the end of the job whose record was written last."""
    names = client.store.names
    stream = kv_stream(names.jobs_bucket)
    stored = await client.store.connection.get_message(stream, last_by_subj=names.record("*", "*"))
    started_at = (await first.info()).started_at
    ended_at = wire.load_record(stored.data).finished_at if stored is not None else None
    if started_at is None or ended_at is None:
        raise RuntimeError(f"job {first.id} has started at {started_at}, and the last one has ended at {ended_at}")
    return ended_at - started_at.timestamp()


async def queued(client: Client) -> int:
    """How many messages are in the work stream."""
    return int((await _state(client, client.store.names.work))["messages"])


async def _state(client: Client, stream: str) -> dict[str, Any]:
    """The server's figures of a stream: how many messages, and how many bytes of them."""
    state: dict[str, Any] = (await client.store.connection.api(f"STREAM.INFO.{stream}"))["state"]
    return state
