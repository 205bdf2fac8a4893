"""A worker process of the crash suite: `python -m tests.crash.worker URL NAMESPACE NAME TTL CONCURRENCY [brisk]`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from typing import Any

import turnout.node
from tests.crash import activities, flows
from turnout import Client, Worker
from turnout.core.routing import parse_properties
from turnout.supervisor.supervisor import SupervisorOptions


def be_brisk() -> None:
    """The supervisor of this process sweeps every second or two, or each scene would take half a minute."""

    def brisk(**options: Any) -> SupervisorOptions:
        return SupervisorOptions(**options, sweep_every=1.0, registry_every=2.0, settling=1.0)

    setattr(turnout.node, "SupervisorOptions", brisk)  # noqa: B010  # no type checker lets a function be a class


def be_wrong_about_the_time(seconds: float) -> None:
    """This process's wall clock is that far ahead, for all the code in it."""
    right = time.time
    time.time = lambda: right() + seconds


async def main(url: str, namespace: str, name: str, ttl: str, concurrency: str, pace: str = "") -> None:
    if pace == "brisk":
        be_brisk()
    be_wrong_about_the_time(float(os.environ.get("CLOCK_AHEAD_S", "0")))
    async with Client.connect(url.split(","), namespace=namespace) as client:
        worker = Worker(
            client,
            activities=[*activities.EVERY, *flows.ACTIVITIES, *activities.many(int(os.environ.get("MANY", "0")))],
            workflows=flows.EVERY,
            concurrency=int(concurrency),
            name=name,
            liveness_ttl=float(ttl),
            build=os.environ.get("BUILD") or None,
            pin=bool(os.environ.get("BUILD")),
            properties=parse_properties(filter(None, [os.environ.get("PROPERTIES")]), "PROPERTIES"),
        )
        await worker.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: loop.create_task(worker.stop(grace=0)))
        print(worker.id, flush=True)
        await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(*sys.argv[1:]))
