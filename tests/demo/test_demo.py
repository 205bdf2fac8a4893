"""The examples, as people run them: processes of their own, looked at from outside.

That the demo keeps its promises it checks itself: `make demo`, which .ci/run calls, fails where it doesn't.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.regions import embed, export
from tests.support.processes import alive, children, gone, named
from tests.support.waiting import until
from turnout import Client, Worker
from turnout.testing import NatsServer

EXAMPLES = Path(__file__).parents[2] / "examples"


def start(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, EXAMPLES / script, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_hello() -> None:
    """The smallest example greets."""
    with NatsServer() as server:
        said, _ = start("hello.py", NATS_URL=server.url).communicate(timeout=30)
    assert said == "Hello, turnout!\n"


def test_nightly() -> None:
    """The schedules of a program are said at each of its starts, and tell when they come next."""
    with NatsServer() as server:
        for _ in range(2):
            said, _ = start("nightly.py", NATS_URL=server.url).communicate(timeout=30)
            lines = said.splitlines()
            assert [line.partition(":")[0] for line in lines] == ["app-cleanup", "app-close", "app-report"]
            assert all(": next 20" in line for line in lines)


async def test_regions() -> None:
    """Each job of the example ends on the node that it is for."""
    with NatsServer() as server:
        async with (
            Client.connect(server.url) as client,
            Worker(client, activities=[export, embed], name="berlin", properties={"region": "eu", "gpu": "a100"}),
            Worker(client, activities=[export, embed], name="ohio", properties={"region": "us"}),
        ):
            process = start("regions.py", NATS_URL=server.url)
            said, _ = await asyncio.to_thread(process.communicate, timeout=30)
    assert [line.rpartition(" ")[2].rpartition("-")[0] for line in said.splitlines()] == ["berlin", "ohio", "berlin"]


def test_batch() -> None:
    """A program submits a group and goes."""
    with NatsServer() as server:
        said, _ = start("batch.py", NATS_URL=server.url).communicate(timeout=30)
    assert said.endswith(": 1000 jobs\n")


def test_search_index() -> None:
    """Fifty changes of each customer are one run, with the last of them; of three imports the newest is done."""
    with NatsServer() as server:
        command = [sys.executable, "-m", "turnout", "worker", "examples.search_index"]
        worker = subprocess.Popen(command, cwd=EXAMPLES.parent, env={**os.environ, "NATS_URL": server.url})
        try:
            said, _ = start("search_index.py", NATS_URL=server.url).communicate(timeout=60)
        finally:
            worker.kill()
            worker.wait()
    assert sorted(said.splitlines()) == [
        "customer 7: up to change 50",
        "customer 8: up to change 50",
        "imported version 3",
    ]


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=pytest.mark.breadth), signal.SIGTERM],  # which raises SIGINT in it
    ids=lambda number: number.name,
)
async def test_the_demo_cleans_up_when_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in the middle ends its server, its workers and their ffmpeg, and removes its files."""
    demo = start("demo.py", TMPDIR=str(tmp_path))
    everything: set[int] = set()

    async def converting() -> bool:
        everything.update(children(demo.pid))
        return len(named("turnout", demo.pid)) == 2 and len(named("ffmpeg", demo.pid)) == 2

    try:
        await until(converting, within_s=60)
        demo.send_signal(number)
        said, _ = demo.communicate(timeout=30)
    finally:
        demo.kill()
    assert demo.returncode == 130, said
    assert "Traceback" not in said
    for process in everything:
        await gone(process)
    assert not any(map(alive, everything))
    assert list(tmp_path.iterdir()) == []
