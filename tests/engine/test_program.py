"""A worker and a client inside a program of one's own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

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


@activity
async def greet(who: str) -> str:
    return f"hello {who}"


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
