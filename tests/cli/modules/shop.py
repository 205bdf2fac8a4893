"""Activities for the tests of the command line: `turnout worker shop` runs in this folder."""

import asyncio
import ctypes
import threading
import time

from turnout import CompleteLater, Fatal, RetryPolicy, activity, current_job


@activity
async def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


@activity(lease=2)
async def slow(seconds: float = 60.0) -> str:
    """Take a while, and say so."""
    job = current_job()
    steps = max(1, round(seconds * 10))
    for step in range(1, steps + 1):
        job.progress(step, steps, f"step {step}")
        await asyncio.sleep(0.1)
    return "done"


@activity
async def checkpointed() -> None:
    """Remember something, and run until it is stopped."""
    await current_job().checkpoint({"page": 7})
    await asyncio.sleep(3600)


@activity
async def broken(what: str = "codec") -> None:
    """Never works."""
    raise Fatal(f"no such {what}")


@activity(retry=RetryPolicy.none())
async def sign(document: str) -> dict[str, str]:
    """Leaves it to somebody else to sign."""
    raise CompleteLater


@activity(retry=RetryPolicy(max_attempts=2, delay=3600, max_delay=3600, jitter=0))
async def later() -> None:
    """Fails, and is tried again in an hour."""
    raise ValueError("not yet")


@activity(retry=RetryPolicy.none())
async def moody() -> int:
    """Works from the second attempt on."""
    if current_job().attempt == 1:
        raise ValueError("not now")
    return current_job().attempt


@activity(lease=2)
def stubborn(seconds: float = 60.0) -> None:
    """Blocks a thread, whoever asks it to stop."""
    time.sleep(seconds)


class Assassinated(SystemExit):
    """What ends a thread from outside."""


@activity
async def assassin() -> None:
    """End the thread that keeps the leases; again after a while, should it have come where Python drops it."""
    while True:
        for thread in threading.enumerate():
            if thread.name == "turnout-leases":
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Assassinated)
                )
        await asyncio.sleep(10)


both = [add, slow]
number = 3
