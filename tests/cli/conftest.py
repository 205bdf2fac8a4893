"""The command line as people run it: a process, with a real server for each module of tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import Fork, Piped, Start, zygote
from tests.support.servers import quick_server
from tests.support.waiting import until
from turnout import Client, JobInfo
from turnout.testing.server import NatsServer

MODULES = Path(__file__).parent / "modules"
TURNOUT = [sys.executable, "-m", "turnout"]


class Cli:
    """`cli(...)` runs turnout and expects it to exit with `code`; `cli.json(...)` gives the one document on stdout."""

    def __init__(self, url: str, namespace: str, cwd: Path = MODULES) -> None:
        self.url = url
        self.namespace = namespace
        self.cwd = cwd
        # Nothing of who runs the tests is to decide about them.
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "TURNOUT_", "OTEL_"))}
        self.env |= {"NATS_URL": url, "TURNOUT_NAMESPACE": namespace, "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}

    def __call__(
        self, *arguments: str, code: int = 0, stdin: str = "", env: dict[str, str] | None = None, cold: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """`cold`: in a process that starts from nothing, not in a fork of one that has imported turnout."""
        environment = self.env | (env or {})
        if cold:
            done = subprocess.run(
                [*TURNOUT, *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                cwd=self.cwd,
                env=environment,
                timeout=60,
                check=False,
            )
        else:
            done = zygote().run(self._start(arguments, environment, brief=True), stdin)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, code: int = 0, **options: Any) -> Any:
        return json.loads(self(*arguments, "-o", "json", code=code, **options).stdout)

    def error(self, *arguments: str, code: int, **options: Any) -> str:
        """What a command that fails says; it must not print anything on stdout."""
        done = self(*arguments, code=code, **options)
        assert done.stdout == ""
        return done.stderr

    @contextmanager
    def process(self, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Piped]:
        """A turnout that runs beside the test; it is killed in the end."""
        with zygote().piped(self._start(arguments, self.env | (env or {}))) as process:
            yield process

    @contextmanager
    def on_a_terminal(self, *arguments: str, env: dict[str, str] | None = None) -> Iterator[tuple[Fork, int]]:
        """A turnout that has a terminal, and what to read and write there; it is killed in the end."""
        with zygote().on_a_terminal(self._start(arguments, self.env | {"TERM": "xterm"} | (env or {}))) as both:
            yield both

    def _start(self, arguments: Sequence[str], env: Mapping[str, str], *, brief: bool = False) -> Start:
        return Start(arguments=arguments, cwd=self.cwd, env=env, brief=brief)

    def until(self, job_id: str, reached: Callable[[JobInfo], object]) -> JobInfo:
        """The job as soon as it is so."""

        async def watch() -> JobInfo:
            async with Client.connect(self.url, namespace=self.namespace) as client, asyncio.timeout(30):
                async for info in client.job(job_id).watch():
                    if reached(info):
                        return info
            raise AssertionError(f"job {job_id} ended before it was as expected")

        return asyncio.run(watch())

    def until_dead(self, job_id: str) -> None:
        """Return when the job's dead letter is there: it is written behind the record that tells of the end."""

        async def look() -> None:
            async with Client.connect(self.url, namespace=self.namespace) as client:
                await until(lambda: has_letter(client, job_id))

        asyncio.run(look())


async def has_letter(client: Client, job_id: str) -> bool:
    return bool([letter async for letter in client.faults(job_id=job_id)])


def all_of(terminal: int) -> str:
    """What is shown on a terminal, until it is left."""
    shown = b""
    with contextlib.suppress(OSError):  # what Linux says when the other side is closed
        while data := os.read(terminal, 65536):
            shown += data
    return shown.decode()


def first_document(process: Piped | subprocess.Popen[str]) -> Any:
    """The JSON document that a process prints first, as soon as it is complete."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        try:
            return json.loads(text)
        except ValueError:
            continue
    raise AssertionError(f"it ended without a document:\n{text}\n{process.stderr.read() if process.stderr else ''}")


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with quick_server() as server:
        yield server


@pytest.fixture
def cli(server: NatsServer) -> Cli:
    """In a namespace of its own, where nothing is yet."""
    return Cli(server.url, f"cli_{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def busy(server: NatsServer) -> Iterator[Cli]:
    """In a namespace with a worker for the activities of modules/shop.py."""
    cli = Cli(server.url, "busy")
    with cli.process("worker", "shop", "--name", "shop", "--grace", "0", "-o", "json") as worker:
        first_document(worker)
        yield cli
