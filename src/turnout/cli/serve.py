"""A process that works: its signals, its event loop, and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import attrs

from turnout.cli import exits, logs, options, reaching, session
from turnout.cli.loading import Definitions, definitions_of
from turnout.client.client import Client
from turnout.errors import TurnoutError
from turnout.node import Worker
from turnout.telemetry.metric_setup import set_up as set_up_metrics
from turnout.telemetry.setup import set_up as set_up_telemetry
from turnout.worker.failure import is_ctrl_c
from turnout.worker.runner import WorkerDied

logger = logging.getLogger("turnout.cli")

_LAST_PATIENCE_S = 2.0


@attrs.frozen(kw_only=True)
class Plan:
    """What a worker process shall do.

    `grace_s`: how long jobs may go on after the order to stop; `wait_s`: how long to wait for a server, None for ever.
    """

    module: str
    concurrency: int
    grace_s: float
    name: str | None = None
    health: tuple[str, int] | None = None
    wait_s: float | None = None
    build: str | None = None
    properties: dict[str, str] | None = None
    pin: bool = False
    verify: float = 0.0


def collect_seldom() -> None:
    """Have the garbage collector look at what a busy worker makes, and not that often."""
    gc.collect()
    gc.freeze()  # what the imports made stays to the end
    gc.set_threshold(20_000, 10, 10)  # a hundred jobs under way are that many objects, and none of them garbage


def worker(plan: Plan) -> int:
    """`turnout worker`: returns the exit code after the order to stop has been carried out."""
    logs.set_up(options.given(), logging.INFO)
    definitions = definitions_of(plan.module)

    def ready(node: Worker, client: Client) -> None:
        logger.info("node %s works on %s", node.id, ", ".join(sorted(definitions.names)))
        if node.health_port is not None:
            logger.info("its health is told on port %d: /livez, /readyz, /status, /metrics", node.health_port)
        if session.as_json():
            facts = {
                "id": node.id,
                "namespace": client.namespace,
                "activities": [each.name for each in definitions.activities],
                "workflows": [each.name for each in definitions.workflows],
                "slots": plan.concurrency,
            }
            if node.health_port is not None:
                facts["health_port"] = node.health_port
            session.show(facts, list, as_json=True)
            sys.stdout.flush()

    return work(plan, definitions, ready)


def work(
    plan: Plan,
    definitions: Definitions,
    ready: Callable[[Worker, Client], None],
    finish: Callable[[], None] = lambda: None,
) -> int:
    """Run a worker until it is told to stop. Errors: as of `Worker`.

    `ready` is called when it pulls, `finish` after it has stopped; little time is left to do anything after that.
    """
    logs.cover()
    end_telemetry = set_up_telemetry("turnout-worker")
    end_metrics = set_up_metrics("turnout-worker")
    runner = asyncio.Runner(loop_factory=_loop_factory())
    collect_seldom()
    code = exits.FAILED
    try:
        run_to_the_end(runner.get_loop(), _work(plan, definitions, ready))
        code = exits.OK
    finally:
        finish()
        end_telemetry()
        end_metrics()
        _end_soon(code)
        runner.close()
    return code


def run_to_the_end(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` on the loop, which goes on when a task of user code ends it by `sys.exit()` or KeyboardInterrupt.

    asyncio raises these two out of the loop from any task, also from one that a job has created for itself; the job
    fails by what its task raised, and its neighbours have nothing to do with it. A Ctrl-C is raised.
    """
    asyncio.set_event_loop(loop)
    task = loop.create_task(work)
    while True:
        try:
            return loop.run_until_complete(task)
        except (KeyboardInterrupt, SystemExit) as error:
            if task.done() or is_ctrl_c(error):
                raise
            logger.exception("a task of a job's code raised %s; the worker goes on", type(error).__name__)


async def _work(plan: Plan, definitions: Definitions, ready: Callable[[Worker, Client], None]) -> None:
    handlers = SignalHandlers(plan.grace_s)
    logger.info("starting with %d activities and workflows of %s", len(definitions.names), plan.module)
    try:
        async with AsyncExitStack() as stack:
            s = await reaching.opened(stack, "turnout-worker", wait_s=plan.wait_s, health=plan.health)
            node = Worker(
                s.client,
                activities=definitions.activities,
                workflows=definitions.workflows,
                concurrency=plan.concurrency,
                name=plan.name,
                health=plan.health,
                build=plan.build,
                properties=plan.properties,
                pin=plan.pin,
                verify=plan.verify,
                on_startup=definitions.around.on_startup,
                on_shutdown=definitions.around.on_shutdown,
                lifespan=definitions.around.lifespan,
            )
            signal.signal(signal.SIGUSR1, lambda *_: _log_stacks(node))
            await _start(node)
            handlers.stop_this(node)
            ready(node, s.client)
            await node.run(grace=plan.grace_s)
            await handlers.done()
    except asyncio.CancelledError:
        if not handlers.signals:
            raise WorkerDied(
                "a loop of the worker has ended: somebody cancelled all of it, and no signal did"
            ) from None
        logger.info("stopped before it had started")


async def _start(node: Worker) -> None:
    try:
        await node.start()
    except TurnoutError:
        raise
    except Exception as error:  # the module's own code at the start: its traceback is for whoever wrote it
        logger.exception("the code at the start of the worker has failed")
        raise WorkerDied(f"the code at the start of the worker has failed: {type(error).__name__}: {error}") from error


class SignalHandlers:
    """SIGTERM, SIGINT and SIGHUP stop the worker in order, the second of them or SIGQUIT aborts what still runs.

    Before there is a worker, any of them ends the start.
    """

    def __init__(self, grace_s: float) -> None:
        self.signals = 0
        self._grace_s = grace_s
        self._worker: Worker | None = None
        self._starting = asyncio.current_task()
        self._stops: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, *hangup()):
            loop.add_signal_handler(number, self._received, number)

    def stop_this(self, worker: Worker) -> None:
        """From now on a signal stops this worker."""
        self._worker = worker

    async def done(self) -> None:
        """Wait for the stops that are under way."""
        await asyncio.gather(*self._stops)

    def _received(self, number: signal.Signals) -> None:
        self.signals += 1
        if self._worker is None:
            if self._starting is not None:
                self._starting.cancel()
            return
        at_once = self.signals > 1 or number == signal.SIGQUIT
        if at_once:
            logger.warning("%s: aborting what still runs", number.name)
        else:
            logger.info("%s: stopping; jobs that run may go on for %g s", number.name, self._grace_s)
        stop = asyncio.create_task(self._worker.stop(grace=0 if at_once else self._grace_s))
        self._stops.add(stop)


def hangup() -> list[signal.Signals]:
    """SIGHUP, unless whoever started this has said that it is to be ignored, as nohup does."""
    return [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []


def _log_stacks(node: Worker) -> None:
    """What runs, into the log. A signal handler may interrupt whatever holds a lock, so a thread does it."""

    def tell() -> None:
        logger.warning("SIGUSR1: node %s runs this:\n%s", node.id, node.stacks())

    threading.Thread(target=tell, name="turnout-stacks", daemon=True).start()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _end_soon(code: int) -> None:
    """See to it that the process ends: a thread of user code that does not stop would keep it for ever."""

    def end() -> None:
        logger.warning("threads of jobs are still busy; the process ends without them")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)

    timer = threading.Timer(_LAST_PATIENCE_S, end)
    timer.daemon = True
    timer.start()
