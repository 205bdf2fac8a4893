"""Activities that log."""

import asyncio
import logging

from turnout import Fatal, activity, current_job


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no")


@activity
async def chat(lines: int = 2) -> None:
    """Say something."""
    for n in range(lines):
        current_job().log.info("line %d", n)
    extra = {
        "order": 7,
        "level": "gold",
        "tags": ["a"],
        "long": "x" * 5000,
        "odd": Unprintable(),
        "ratio": float("nan"),
    }
    logging.getLogger("some.library").warning("two\nlines", extra=extra)
    try:
        raise LookupError("deep down")
    except LookupError:
        logging.getLogger("some.library").exception("it went wrong")
    logging.getLogger("some.library").info("%d", "no number")


@activity
def chat_in_thread() -> None:
    logging.getLogger("some.library").info("from a thread")


@activity(run_in="process")
def chat_in_process() -> None:
    logging.getLogger("some.library").info("from a child", extra={"order": 8})
    current_job().log.info("from a child as well")


@activity
async def chat_on(seconds: float = 1.5) -> None:
    for n in range(round(seconds * 10)):
        current_job().log.info("line %d", n)
        await asyncio.sleep(0.1)
    raise Fatal("enough")


@activity
async def chat_until_stopped() -> None:
    job = current_job()
    job.log.info("it begins")
    job.progress(1)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        job.log.warning("it has to stop: %s", job.cancel_reason)
        raise


@activity
async def quiet() -> None:
    """Say nothing."""
