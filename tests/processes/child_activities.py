"""Activities for test_process.py: they run in child processes, which find them by this module's name."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import attrs

from turnout.definition import activity
from turnout.errors import Fatal, RetryLater
from turnout.worker.context import current_job

in_process = activity(run_in="process")


@attrs.define
class Found:
    pid: int
    parent: int
    job: str
    attempt: int
    labels: dict[str, str]
    cwd_importable: bool = False


@in_process
def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("NATS_")}


@in_process
def look(n: int = 1) -> Found:
    job = current_job()
    return Found(os.getpid(), os.getppid(), job.id, job.attempt, dict(job.labels))


@in_process
def echo(value: Any) -> Any:
    return value


def _innermost() -> None:
    raise LookupError("no such page: \ud800")


@in_process
def fail(how: str) -> None:
    match how:
        case "raise":
            _innermost()
        case "fatal":
            raise Fatal("never again")
        case "later":
            raise RetryLater(7, "busy")
        case "sys.exit":
            sys.exit(3)
        case "os._exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), 9)


@in_process
def wrong_result() -> int:
    return "not a number"  # type: ignore[return-value]


@in_process
def count_up(until: int) -> int:
    """Goes on from its checkpoint, and reports every step."""
    job = current_job()
    start = job.restored(int) or 0
    for n in range(start, until):
        job.progress(n + 1, until, f"step {n + 1}")
        job.checkpoint_sync(n + 1)
    job.run_sync(job.slow_down("api", 30))
    return start


@in_process
def store(value: Any) -> str:
    try:
        current_job().checkpoint_sync(value)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "stored"


@in_process
def talk() -> None:
    current_job().log.warning("from %s", "the child")
    logging.getLogger("some.library").debug("too fine")
    try:
        _innermost()
    except LookupError:
        logging.getLogger("some.library").exception("caught")


@in_process
def wait_politely(started: str) -> str:
    job = current_job()
    Path(started).touch()
    job.wait_cancelled()
    return f"stopped: {job.cancel_reason}"


@in_process
def hold(started: str, how: str) -> None:
    """Does not stop when asked; in a C call that holds the interpreter lock, or in Python. Has a child of its own."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(started).with_suffix(".tmp").write_text(f"{os.getpid()} {os.getppid()} {sleeper.pid}")
    Path(started).with_suffix(".tmp").rename(started)
    if how == "c":
        ctypes.PyDLL(None).sleep(600)
    while True:
        pass


@in_process
def leave_behind(started: str) -> int:
    """Returns, but leaves a process and a thread behind."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    threading.Thread(target=time.sleep, args=(600,)).start()
    return sleeper.pid
