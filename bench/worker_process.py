"""A worker for the measurements: says `ready` and the CPU seconds of its imports; stops at the first line it reads."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.child import run_on_loop
from bench.jobs import idle
from turnout import Client, Worker


async def work(url: str, namespace: str, concurrency: int, activities: int) -> None:
    imported_s = time.process_time()
    async with (
        Client.connect(url, namespace=namespace) as client,
        Worker(client, activities=idle(activities), concurrency=concurrency),
    ):
        print("ready", imported_s, flush=True)
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    run_on_loop(work(**json.loads(sys.argv[1])))
