"""A supervisor alone: `python -m tests.crash.supervisor URL NAMESPACE NAME TTL`."""

from __future__ import annotations

import asyncio
import logging
import sys

from turnout.jetstream.connection import ConnectOptions
from turnout.jetstream.names import Names
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions


async def main(url: str, namespace: str, name: str, ttl: str) -> None:
    options = SupervisorOptions(liveness_ttl=float(ttl), sweep_every=2.0, registry_every=5.0)
    supervisor = Supervisor(ConnectOptions(servers=(url,)), Names(namespace), name=name, options=options)
    print(name, flush=True)
    await supervisor.run()


logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
asyncio.run(main(*sys.argv[1:]))
