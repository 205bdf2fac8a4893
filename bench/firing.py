"""Schedules whose ticks all come in one second: how long until the run of each is stored, and until each has ended."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from typing import Any

from bench.child import measure
from bench.jobs import noop
from bench.processes import worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import Client, JobState, Schedule
from turnout.bounded import each
from turnout.testing.server import NatsServer

WITHIN_S = 2.0
_LEAD_S = 3.0
_AT_ONCE = 64
_LOOK_S = 0.1


async def fired(url: str, namespace: str, schedules: int) -> dict[str, Any]:
    """Add the schedules, and wait for their first ticks: how late the last run was begun, and how late it had ended."""
    async with Client.connect(url, namespace=namespace) as client:
        adding = client.store.connection.now()
        await each(lambda n: client.add_schedule(f"warm-{n}", Schedule(every=86_400), noop), range(100), _AT_ONCE)
        a_hundred_s = client.store.connection.now() - adding
        lead_s = _LEAD_S + 2 * a_hundred_s * schedules / 100
        tick = dt.datetime.fromtimestamp(int(client.store.connection.now() + lead_s) + 1, dt.UTC)
        plan = Schedule(every=86_400, start=tick)
        await each(lambda n: client.add_schedule(f"fire-{n}", plan, noop), range(schedules), _AT_ONCE)
        spare_s = tick.timestamp() - client.store.connection.now()
        if spare_s < 0:
            raise RuntimeError(f"the schedules were there {-spare_s:.1f} s after their tick")
        while (await client.count(activity=noop))[JobState.completed] < schedules:
            await asyncio.sleep(_LOOK_S)
        runs = [info async for info in client.jobs(activity=noop)]
        ended = [info.finished_at for info in runs if info.finished_at is not None]
        return {
            "begun_s": (max(info.submitted_at for info in runs) - tick).total_seconds(),
            "ended_s": (max(ended) - tick).total_seconds(),
        }


def one_round(sizes: Sizes) -> dict[str, float]:
    namespace = f"f{secrets.token_hex(4)}"
    with NatsServer() as server, worker_process(server.url, namespace):
        return measure("bench.firing:fired", url=server.url, namespace=namespace, schedules=sizes.turns)


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes) for _ in range(sizes.rounds)]
    work = f"{sizes.turns:,} schedules fire in one second: after so long each run"
    return [
        Row(
            key="firing",
            work=f"{work} is stored",
            unit="s",
            rounds=[one["begun_s"] for one in found],
            aim=Aim(of="value", most=WITHIN_S),
        ),
        Row(key="fired", work=f"{work} has ended", unit="s", rounds=[one["ended_s"] for one in found]),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
