"""What the fixtures of the plugin are made of; usable without pytest, too."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from turnout import Client, Worker
from turnout.definition.retention import short_retention
from turnout.nats.connection import Connection, ConnectOptions
from turnout.store.names import Names
from turnout.store.topology import Topology
from turnout.testing.server import NatsServer
from turnout.testing.workflows.environment import WorkflowEnvironment


@asynccontextmanager
async def own_namespace(server: NatsServer) -> AsyncIterator[Client]:
    """A client with a fresh namespace on `server`, whose streams and buckets are removed in the end."""
    server.resume()
    server.start()  # an earlier test may have left it frozen or dead
    namespace = f"test_{uuid.uuid4().hex[:12]}"
    try:
        async with Client.connect(server.url, namespace=namespace) as client:
            with short_retention():
                yield client
    finally:
        server.resume()
        if server.running:
            await delete_namespace(server.url, namespace)


async def delete_namespace(url: str, namespace: str) -> None:
    """Remove every stream and bucket of a namespace: all its jobs are gone."""
    connection = await Connection.open(ConnectOptions(servers=(url,)), name="turnout-testing")
    try:
        await Topology(connection, Names(namespace)).delete()
    finally:
        await connection.close()


class EnvironmentFactory:
    """What the fixture `workflow_environment` gives: call it to get an environment that is left when the test ends.

        env = await workflow_environment(workflows=[order], activities={charge: lambda order: "p1"})

    The options are those of `WorkflowEnvironment`.
    """

    def __init__(self) -> None:
        self._entered = AsyncExitStack()

    async def __call__(self, **options: Any) -> WorkflowEnvironment:
        return await self._entered.enter_async_context(WorkflowEnvironment(**options))

    async def __aenter__(self) -> Self:
        await self._entered.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._entered.__aexit__(kind, error, traceback)


class WorkerFactory:
    """What the fixture `turnout_worker` gives: call it with activities to get a running worker.

        async with turnout_worker(convert_video, concurrency=2) as worker: ...
        worker = await turnout_worker(convert_video)     # stopped when the test ends

    The options are those of `turnout.Worker`; `client` defaults to the test's `turnout_client`.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._running: list[Worker] = []

    def __call__(self, *activities: Any, client: Client | None = None, **options: Any) -> WorkerStart:
        worker = Worker(client or self._client, activities=list(activities), **options)
        return WorkerStart(worker, self._running)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._running:
            await self._running.pop().stop(grace=0)


class WorkerStart:
    """A worker that is about to run: `async with` it or `await` it. Stopping aborts what still runs at once."""

    def __init__(self, worker: Worker, running: list[Worker]) -> None:
        self._worker = worker
        self._running = running

    def __await__(self) -> Generator[Any, None, Worker]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Worker:
        await self._worker.__aenter__()
        self._running.append(self._worker)
        return self._worker

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._worker in self._running:
            self._running.remove(self._worker)
            await self._worker.stop(grace=0)
