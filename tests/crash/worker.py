"""A worker process of the crash suite: `python -m tests.crash.worker URL NAMESPACE NAME TTL CONCURRENCY`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from tests.crash import activities
from turnout import Client, Worker


async def main(url: str, namespace: str, name: str, ttl: str, concurrency: str) -> None:
    every = [activities.steps, activities.wait_for, activities.poison, activities.flaky]
    async with Client.connect(url, namespace=namespace) as client:
        worker = Worker(client, activities=every, concurrency=int(concurrency), name=name, liveness_ttl=float(ttl))
        await worker.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: loop.create_task(worker.stop(grace=0)))
        print(worker.id, flush=True)
        await worker.run()


logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
asyncio.run(main(*sys.argv[1:]))
