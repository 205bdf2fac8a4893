"""Waiting for NATS at the start of a process that is to run for long."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial

from turnout.cli import session
from turnout.errors import ServerUnavailable
from turnout.worker.health import HealthServer, Report

logger = logging.getLogger("turnout.cli")

_PAUSE_S = 1.0


async def opened(
    stack: AsyncExitStack, name: str, *, wait_s: float | None = None, health: tuple[str, int] | None = None
) -> session.Session:
    """A session that ends with the stack, as soon as the server is there. ServerUnavailable when that takes longer than
    `wait_s`; None waits for ever.

    The health is told at `health` meanwhile: a process that ended at once would be started again and again, by whatever
    looks after it; this one is alive, and not ready.
    """
    loop = asyncio.get_running_loop()
    deadline = None if wait_s is None else loop.time() + wait_s
    async with AsyncExitStack() as meanwhile:
        waiting = False
        while True:
            try:
                return await stack.enter_async_context(session.opened(create=True, name=name))
            except ServerUnavailable as error:
                if deadline is not None and loop.time() >= deadline:
                    raise
                if not waiting:
                    waiting = True
                    logger.warning("waiting for the NATS server: %s", error)
                    if health is not None:
                        server = HealthServer(*health, partial(_report, str(error)))
                        await server.start()
                        meanwhile.push_async_callback(server.stop)
            await asyncio.sleep(_PAUSE_S)


def _report(why: str) -> Report:
    return Report(dead=[], unready=[f"the NATS server is not there: {why}"], status={})
