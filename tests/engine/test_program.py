"""A worker and a client inside a program of one's own."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import Client, TurnoutError, activity
from turnout.testing import NatsServer
from turnout.worker.threads import DaemonThreads

PROGRAM = """
import asyncio, sys, time
from turnout import Client, Worker, activity

begun = asyncio.Event()

@activity
def stubborn() -> None:
    loop.call_soon_threadsafe(begun.set)
    time.sleep(600)

async def main() -> None:
    global loop
    loop = asyncio.get_running_loop()
    async with Client.connect(sys.argv[1], namespace="program") as client:
        worker = Worker(client, activities=[stubborn])
        await worker.start()
        await client.submit(stubborn)
        await begun.wait()
        await worker.stop(grace=0)
    print("stopped", flush=True)

asyncio.run(main())
"""


def test_a_busy_thread_does_not_hold_up_the_end_of_a_program(nats_server: NatsServer) -> None:
    """When its worker has stopped, a program ends, though the code of a job does not."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, nats_server.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


SCRIPT = """
import asyncio, json, sys
from dataclasses import dataclass
from turnout import Client, DefinitionError, JobFaulted, RetryPolicy, Worker, activity, workflow

class Refused(Exception):
    pass

@dataclass
class Point:
    x: int

POLICY = RetryPolicy(max_attempts=3, delay=0.01, never_on=(Refused,))

@activity(retry=POLICY)
async def on_the_loop(at: Point) -> Point:
    if at.x < 0:
        raise Refused("not below 0")
    return Point(at.x + 1)

@activity(retry=POLICY)
def in_thread(at: Point) -> Point:
    if at.x < 0:
        raise Refused("not below 0")
    return Point(at.x + 1)

@workflow
async def twice(at: Point) -> Point:
    return await in_thread.execute(await on_the_loop(at))

@activity(run_in="process")
def in_process(at: Point) -> Point:
    return at

async def main() -> None:
    async with Client.connect(sys.argv[1], namespace=sys.argv[2]) as client:
        if sys.argv[3] == "works":
            async with Worker(client, activities=[on_the_loop, in_thread], workflows=[twice]):
                await ask(client)
        else:
            await ask(client)
        try:
            Worker(client, activities=[in_process])
        except DefinitionError as error:
            print(json.dumps(str(error)))

async def ask(client: Client) -> None:
    for each in (on_the_loop, in_thread):
        assert await (await client.submit(each, Point(1))).result(timeout=60) == Point(2)
        try:
            await (await client.submit(each.options(retry=POLICY), Point(-1))).result(timeout=60)
        except JobFaulted as fault:
            error = fault.info.error
            print(json.dumps([error.type, error.message, error.traceback, fault.info.attempt]))
    assert await (await client.start(twice, Point(1))).result(timeout=60) == Point(3)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["works", "asks"])
def test_what_is_defined_in_a_script_is_as_good_as_what_is_imported(
    nats_server: NatsServer, tmp_path: Path, where: str
) -> None:
    """Types, errors, activities and workflows of `python script.py`: values come back, an error has its type, text and
    lines, and a policy that names its class matches, also at a worker that has imported the script."""
    (tmp_path / "script.py").write_text(SCRIPT)
    namespace = f"script_{where}"
    worker = None
    if where == "asks":
        arguments = ["worker", "script:works_on", "--server", nats_server.url, "-n", namespace, "--grace", "0"]
        (tmp_path / "script.py").write_text(f"{SCRIPT}\nworks_on = [on_the_loop, in_thread, twice]\n")
        worker = subprocess.Popen([sys.executable, "-m", "turnout", *arguments], cwd=tmp_path)
    try:
        done = subprocess.run(
            [sys.executable, "script.py", nats_server.url, namespace, where],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        if worker is not None:
            worker.terminate()
            worker.wait(30)
    assert done.returncode == 0, done.stderr
    *errors, refused = map(json.loads, done.stdout.splitlines())
    assert len(errors) == 2
    for type_, message, trace, attempt in errors:
        assert (type_, message, attempt) == ("Refused", "not below 0", 1)
        assert 'script.py", line' in trace
        assert 'raise Refused("not below 0")' in trace
    assert "module of its own" in refused


@activity
async def greet(who: str) -> str:
    return f"hello {who}"


@pytest.mark.parametrize("thread", ["turnout-leases", "turnout-supervisor"])
async def test_a_worker_that_dies_beside_other_code_says_so(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture, thread: str
) -> None:
    """Nobody awaits `run`, and the program goes on: without a word its jobs would wait for no reason to be seen."""
    async with turnout_worker(greet):
        await (await turnout_client.submit(greet, "first")).result(timeout=30)

        async def told() -> bool:
            return "the worker has died" in caplog.text

        for _ in range(5):
            for each in threading.enumerate():
                if each.name == thread:
                    end = ctypes.c_ulong(each.ident or 0), ctypes.py_object(SystemExit)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(*end)
            with contextlib.suppress(TimeoutError):  # it may come where Python has nobody to raise it to, and be lost
                await until(told, within_s=15)
                break
    assert caplog.text.count("the worker has died") == 1


async def test_a_worker_that_is_stopped_has_not_died(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The loops that end with an ordered stop are no death."""
    async with turnout_worker(greet):
        await (await turnout_client.submit(greet, "first")).result(timeout=30)
    assert "died" not in caplog.text


async def test_a_client_on_another_loop_sends_nothing(turnout_client: Client) -> None:
    """It is refused in a sentence before anything is sent; the client's own loop may be asked from the thread."""
    loop = asyncio.get_running_loop()

    def wrong() -> None:
        asyncio.run(turnout_client.submit(greet, "wrong"))

    def right() -> str:
        return asyncio.run_coroutine_threadsafe(turnout_client.submit(greet, "right"), loop).result(10).id

    for _ in range(5):
        with pytest.raises(TurnoutError, match="belongs to the event loop that connected it"):
            await asyncio.to_thread(wrong)
    job_id = await asyncio.to_thread(right)
    assert [info.id async for info in turnout_client.jobs()] == [job_id]


def test_threads_are_used_again_and_are_no_more_than_allowed() -> None:
    """One thread serves calls that come one after the other; beyond the limit calls wait; closed takes none."""
    threads = DaemonThreads(2, "some")
    names = {threads.submit(lambda: threading.current_thread().name).result(5) for _ in range(2)}
    for _ in range(10):
        names.add(threads.submit(lambda: threading.current_thread().name).result(5))
    assert names <= {"some_1", "some_2"}
    gate = threading.Event()
    held: list[Future[bool]] = [threads.submit(gate.wait, 10) for _ in range(2)]
    third = threads.submit(lambda: "third")
    fourth = threads.submit(lambda: "fourth")
    assert not third.done()
    gate.set()
    assert [each.result(5) for each in held] == [True, True]
    assert (third.result(5), fourth.result(5)) == ("third", "fourth")
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 / 0).result(5)
    threads.shutdown()
    with pytest.raises(RuntimeError, match="no more work"):
        threads.submit(lambda: None)
