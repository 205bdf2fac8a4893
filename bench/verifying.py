"""What it costs a worker to do a share of its tasks again from their histories: `turnout worker --verify 0.01`.

Two workers on one server, one of which verifies, have the same workflows in turns, a few at a time: so a slow second is
slow for both.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any

from bench.child import measure
from bench.flows import chain
from bench.processes import cpu_s, worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import Client
from turnout.testing.server import NatsServer

SHARE = 0.01
STEPS = 10
TOGETHER = 10
SERVED = "bench.flows:served"


async def in_turns(url: str, namespaces: list[str], workers: list[int], workflows: int) -> dict[str, float]:
    """The CPU that each of two workers, of a namespace of its own, takes for a workflow, in microseconds."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client.connect(url, namespace=each)) for each in namespaces]
        for client in clients:
            await have_some(client)  # the first ones warm up
        before = [cpu_s([worker]) for worker in workers]
        for _ in range(0, workflows, TOGETHER):
            for client in clients:
                await have_some(client)
        # What is verified is verified behind the task: all that was spent counts, whoever had his turn meanwhile.
        spent = [cpu_s([worker]) - was for worker, was in zip(workers, before, strict=True)]
    plain, verified = (each / workflows * 1e6 for each in spent)
    return {"plain": plain, "verified": verified}


async def have_some(client: Client) -> None:
    """Have a few workflows done, at once."""
    handles = [await client.start(chain, STEPS) for _ in range(TOGETHER)]
    await asyncio.gather(*(handle.result(timeout=60) for handle in handles))


def one_round(workflows: int) -> dict[str, float]:
    plain, verified = (f"{kind}{secrets.token_hex(4)}" for kind in "pv")
    options = ["--verify", str(SHARE)]
    with (
        NatsServer() as server,
        worker_process(server.url, plain, serves=SERVED) as without,
        worker_process(server.url, verified, serves=SERVED, options=options) as verifies,
    ):
        asked: dict[str, Any] = {"namespaces": [plain, verified], "workers": [without.pid, verifies.pid]}
        return measure("bench.verifying:in_turns", url=server.url, workflows=workflows, **asked)


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(max(TOGETHER, sizes.small // 2)) for _ in range(sizes.rounds)]
    return [
        Row(
            key="verify",
            work=f"CPU of a worker with `--verify {SHARE}`, per workflow of ten activities",
            unit="us",
            rounds=[each["verified"] for each in found],
            against=[each["plain"] for each in found],
            other="without",
            aim=Aim(most=1.03),
        )
    ]


if __name__ == "__main__":
    show(measured, __doc__)
