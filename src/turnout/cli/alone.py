"""`turnout supervisor`: a process that supervises and runs no jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

from turnout.cli import exits, logs, options, session
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions
from turnout.telemetry.setup import set_up as set_up_telemetry

logger = logging.getLogger("turnout.cli")


def supervisor(name: str, registry_every_s: float) -> int:
    """Supervise until told to stop; the exit code."""
    logs.set_up(options.given().get("log_level"), logging.INFO)
    end_telemetry = set_up_telemetry("turnout-supervisor")
    try:
        asyncio.run(_supervise(name, SupervisorOptions(registry_every=registry_every_s)))
    finally:
        end_telemetry()
    return exits.OK


async def _supervise(name: str, settings: SupervisorOptions) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with session.opened(create=True, name="turnout-supervisor") as s:
            client = s.client
            logger.info("supervising namespace %s", client.namespace)
            keep = client.retention
            await Supervisor(
                client.connect_options, client.store.names, name=name, retention=keep, options=settings
            ).run()
