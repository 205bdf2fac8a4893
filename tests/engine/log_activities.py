"""Activities that log; a child process imports them by their module."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter

from turnout import RetryPolicy, activity, current_job

ONCE = RetryPolicy.none()
said = Counter[str]()
library = logging.getLogger("some.library")


@activity(retry=RetryPolicy(max_attempts=2, delay=0.05))
async def tell(fail: bool = False) -> int:
    """JobLogs in every way there is."""
    job = current_job()
    job.log.info("%s begins with %d", "it", job.attempt)
    job.log.debug("details")
    library.info("a word of the library")
    try:
        raise LookupError("deep down")
    except LookupError:
        job.log.exception("it went wrong")
    if fail and job.attempt == 1:
        raise ValueError("once more")
    return job.attempt


@activity(retry=ONCE)
def tell_in_thread() -> None:
    library.warning("from a thread")
    current_job().log.info("as well")
    stray = threading.Thread(target=current_job().log.info, args=("from a thread of its own",))
    stray.start()
    stray.join()


@activity(retry=ONCE, run_in="process")
def tell_in_process(lines: int = 1) -> None:
    library.warning("from a child", extra={"order": 7})
    for n in range(lines):
        current_job().log.info("line %d", n)


@activity(retry=ONCE)
async def flood(lines: int) -> None:
    log = current_job().log
    for n in range(lines):
        log.info("line %d %s", n, "x" * 50)


@activity(retry=ONCE)
async def silent() -> None:
    library.info("only others talk")


@activity(retry=ONCE, lease=2)
async def steadily(lines: int, pause: float) -> None:
    job = current_job()
    for n in range(lines):
        job.log.info("line %d", n)
        said["steadily"] += 1
        await asyncio.sleep(pause)


@activity(retry=ONCE)
async def odd() -> None:
    log = current_job().log
    log.info("%(n)d of {'n': 7}", {"n": 7})
    log.info("%d of them", "some")
    log.info("a \udc80")
    log.info("\x1b[31m\x00")
    log.info("é" * 100_000)
