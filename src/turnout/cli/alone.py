"""`turnout supervisor`: a process that supervises and runs no jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys

from turnout.cli import exits, logs, options, reaching, session
from turnout.cli.serve import hangup
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions
from turnout.telemetry.metric_setup import set_up as set_up_metrics
from turnout.telemetry.setup import set_up as set_up_telemetry
from turnout.worker.health import HealthServer, Report

logger = logging.getLogger("turnout.cli")


def supervisor(name: str, registry_every_s: float, health: tuple[str, int] | None) -> int:
    """Supervise until told to stop, and tell its health at this address; the exit code."""
    logs.set_up(options.given(), logging.INFO)
    end_telemetry = set_up_telemetry("turnout-supervisor")
    end_metrics = set_up_metrics("turnout-supervisor")
    runner = asyncio.Runner()
    try:
        runner.run(_supervise(name, SupervisorOptions(registry_every=registry_every_s), health))
    finally:
        end_telemetry()
        end_metrics()
        runner.close()  # not before: with the loop its signal handlers go, and a second SIGTERM would cut this short
    return exits.OK


async def _supervise(name: str, settings: SupervisorOptions, health: tuple[str, int] | None) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, *hangup()):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        async with contextlib.AsyncExitStack() as stack:
            client = (await reaching.opened(stack, "turnout-supervisor", health=health)).client
            logger.info("supervising namespace %s", client.namespace)
            it = Supervisor(client.connect_options, client.store.names, name=name, options=settings)
            if health is None:
                await it.run()
                return
            server = HealthServer(*health, lambda: _report(name, it))
            await server.start()
            _tell(name, client.namespace, server.port)
            try:
                await it.run()
            finally:
                await server.stop()


def _tell(name: str, namespace: str, port: int) -> None:
    logger.info("its health is told on port %d: /livez, /readyz, /status, /metrics", port)
    if session.as_json():
        session.show({"name": name, "namespace": namespace, "health_port": port}, list, as_json=True)
        sys.stdout.flush()


def _report(name: str, supervisor: Supervisor) -> Report:
    """Called from the thread that serves the health."""
    unready = [] if supervisor.looking else ["it could not look at the registry lately"]
    return Report(dead=[], unready=unready, status={"supervisor": {"name": name, "acting": supervisor.acting}})
