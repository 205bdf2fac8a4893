"""Real worker processes, to be killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from turnout.crashpoints import VARIABLE

TTL_S = 4.0
"""The liveness TTL of the fleet: shorter than the default, so that the suite is."""

START_TIMEOUT_S = 90.0


class Process:
    """A worker process, as its killer sees it."""

    def __init__(self, process: asyncio.subprocess.Process, node: str, log: Path) -> None:
        self._process = process
        self.node = node
        self.log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        self.send(signal.SIGKILL)
        await self._process.wait()

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.send(signal.SIGTERM)
        async with asyncio.timeout(30):
            return await self._process.wait()

    async def wait(self) -> int:
        async with asyncio.timeout(60):
            return await self._process.wait()


class Fleet:
    """Starts worker processes for a namespace and ends what is left of them."""

    def __init__(self, url: str, namespace: str, logs: Path) -> None:
        self._url = url
        self._namespace = namespace
        self._logs = logs
        self.processes: list[Process] = []
        self._numbers = itertools.count()

    async def start(
        self,
        name: str = "w",
        *,
        ttl_s: float = TTL_S,
        concurrency: int = 10,
        crash_at: str = "-",
        brisk: bool = False,
        mutant: str = "",
        url: str = "",
        properties: str = "",
        build: str = "",
        many: int = 0,
    ) -> Process:
        """A worker process that is registered and pulls; one that died of its first job may have said nothing.

        `crash_at`: the point at which it kills itself. `brisk`: its supervisor sweeps often. `mutant`: what is broken
        in it. `url`: where it connects, if not where the others do. `properties`: such as region=east.
        `build`: that of its workflows' code, to which their runs are pinned. `many`: how many activities more it has.
        """
        module = ["tests.crash.mutant", mutant] if mutant else ["tests.crash.worker"]
        arguments = [*module, url or self._url, self._namespace, name, str(ttl_s), str(concurrency)]
        return await self._spawn(
            name,
            ["-m", *arguments, *(["brisk"] if brisk else [])],
            crash_at,
            {"PROPERTIES": properties, "BUILD": build, "MANY": str(many)},
        )

    async def supervisor(self, name: str = "alone", *, ttl_s: float = TTL_S, crash_at: str = "-") -> Process:
        """A supervisor alone, as a process."""
        arguments = ["tests.crash.supervisor", self._url, self._namespace, name, str(ttl_s)]
        return await self._spawn(name, ["-m", *arguments], crash_at)

    async def client(self, verb: str, job_id: str, *more: str, crash_at: str = "-") -> Process:
        """A client process that does one thing; returns when it has done it, or died of it."""
        arguments = ["tests.crash.client", self._url, self._namespace, verb, job_id, *more]
        return await self._spawn(f"client-{verb}", ["-m", *arguments], crash_at)

    async def _spawn(
        self, name: str, arguments: list[str], crash_at: str = "-", env: Mapping[str, str] | None = None
    ) -> Process:
        path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
        log = self._logs / f"{name}-{next(self._numbers)}.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=errors,
                env={**os.environ, "PYTHONPATH": path, VARIABLE: crash_at, **(env or {})},
            )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
        if not line and await process.wait() >= 0:
            raise AssertionError(f"{name} did not start:\n{log.read_text()[-4000:]}")
        started = Process(process, line.decode().strip(), log)
        self.processes.append(started)
        return started

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes:
            if process.alive:
                process.send(signal.SIGCONT)
                await process.kill()
