"""A supervisor alone, and one in a hurry: `python -m tests.crash.supervisor URL NAMESPACE NAME TTL`.

SIGTERM stops it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys

from turnout.nats.connection import ConnectOptions
from turnout.store.names import Names
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions


async def main(url: str, namespace: str, name: str, ttl: str) -> None:
    options = SupervisorOptions(
        liveness_ttl=float(ttl), sweep_every=1.0, registry_every=2.0, settling=1.0, stuck_leases=0.3
    )
    supervisor = Supervisor(ConnectOptions(servers=tuple(url.split(","))), Names(namespace), name=name, options=options)
    task = asyncio.create_task(supervisor.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    print(name, flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(*sys.argv[1:]))
