"""A registry full of jobs that have ended, stored without running them: what listing and sweeping are measured on.

python -m bench.fill nats://127.0.0.1:4222 NAMESPACE 100000
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections import deque
from typing import Any

import attrs

from tests.support.values import job_record
from turnout import Client, wire
from turnout.core.failure import ErrorInfo
from turnout.core.record import AttemptRecord, JobRecord, JobState, MessageRef, Outcome, Token
from turnout.core.spec import Body

_IN_FLIGHT = 2_000
_TTL_S = 7 * 86_400
_NODE = "filler-0000000000"


async def fill(
    client: Client, count: int, *, activity: str = "noop", faulted_every: int = 0, restarted: bool = True
) -> list[str]:
    """Store the records of `count` jobs that have ended, oldest first, as workers leave them; gives their ids.

    All have completed, but for each `faulted_every`-th (0: none). Jobs are submitted a millisecond apart, the newest a
    moment ago. With `restarted` each job's start is stored first and overwritten, in waves of a hundred, as by a worker
    with a hundred slots: every other sequence of the stream is missing then.
    """
    connection, names = client.store.connection, client.store.names
    first_at = connection.now() - count / 1_000
    prefix = secrets.token_hex(4)
    waiting: deque[asyncio.Future[Any]] = deque()
    ids: list[str] = []
    for begin in range(0, count, 100):
        wave = []
        for number in range(begin, min(begin + 100, count)):
            fault = faulted_every > 0 and number % faulted_every == faulted_every - 1
            wave.append(_ended(f"{prefix}-{number:07d}", activity, first_at + number / 1_000, number, fault=fault))
        ids += [record.id for record in wave]
        if restarted:
            waiting += [
                connection.store_nowait(names.record(activity, record.id), wire.dump_record(_started(record)))
                for record in wave
            ]
        waiting += [
            connection.store_nowait(
                names.record(activity, record.id), wire.dump_record(record), {"Nats-TTL": f"{_TTL_S}s"}
            )
            for record in wave
        ]
        while len(waiting) > _IN_FLIGHT:
            await waiting.popleft()
    while waiting:
        await waiting.popleft()
    return ids


def _ended(job_id: str, activity: str, at: float, number: int, *, fault: bool) -> JobRecord:
    error = ErrorInfo(
        "ValueError", "no such file", "Traceback (most recent call last):\n  ...\nValueError: no such file"
    )
    attempt = AttemptRecord(
        number=1,
        generation=1,
        node=_NODE,
        started_at=at + 0.004,
        outcome=Outcome.faulted if fault else Outcome.completed,
        ended_at=at + 0.006,
        error=error if fault else None,
        span_id=secrets.token_hex(8),
    )
    return job_record(
        id=job_id,
        activity=activity,
        state=JobState.faulted if fault else JobState.completed,
        submitted_at=at,
        payload=Body(text=f'{{"n":{number}}}', size=len(str(number)) + 6),
        message=MessageRef(number + 1, int(at * 1e9), f"$JS.ACK.bench_work.{activity}.1.{number + 1}.{number + 1}.0.0"),
        token=Token(_NODE, 1, 1, secrets.token_hex(8)),
        attempt=1,
        failures=1 if fault else 0,
        attempts=(attempt,),
        started_at=at + 0.004,
        finished_at=at + 0.006,
        result=None if fault else Body(text=str(number), size=len(str(number))),
        error=error if fault else None,
        reason="failed" if fault else None,
        trace_id=secrets.token_hex(16),
    )


def _started(record: JobRecord) -> JobRecord:
    attempt = attrs.evolve(record.attempts[0], outcome=Outcome.running, ended_at=None, error=None)
    return attrs.evolve(
        record,
        state=JobState.running,
        attempts=(attempt,),
        failures=0,
        finished_at=None,
        result=None,
        error=None,
        reason=None,
    )


async def main(url: str, namespace: str, count: int) -> None:
    async with Client.connect(url, namespace=namespace) as client:
        await fill(client, count)
        print(await client.count())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
