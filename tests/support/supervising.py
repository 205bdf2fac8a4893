"""A supervisor that looks more often than those of workers, and acts in their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.waiting import until
from turnout import Client
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions

QUICK = SupervisorOptions(liveness_ttl=2.0, look_every=0.1, sweep_every=0.2, registry_every=0.2, settling=1.0)


@asynccontextmanager
async def supervised(client: Client, options: SupervisorOptions = QUICK) -> AsyncIterator[Supervisor]:
    """It acts when this returns, and the supervisors of workers that are started afterwards stand by."""
    supervisor = Supervisor(client.connect_options, client.store.names, name="quick", options=options)
    supervising = asyncio.create_task(supervisor.run())

    async def acts() -> bool:
        if supervising.done():
            supervising.result()
        return supervisor.acting

    try:
        await until(acts)
        yield supervisor
    finally:
        supervising.cancel()
        await asyncio.wait({supervising})
