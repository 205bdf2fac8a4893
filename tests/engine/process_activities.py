"""Activities for child processes: a child imports them by their module."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from turnout import CompleteLater, Fatal, RetryPolicy, activity, current_job

ONCE = RetryPolicy.none()


@activity(run_in="process")
def square(n: int) -> dict[str, int]:
    job = current_job()
    job.progress(n, 10, "squaring")
    job.checkpoint_sync({"n": n})
    return {"square": n * n, "pid": os.getpid()}


@activity(run_in="process", retry=RetryPolicy(max_attempts=3, delay=0.05))
def third_time(fatal: bool = False) -> int:
    job = current_job()
    seen = (job.restored(int) or 0) + 1
    job.checkpoint_sync(seen)
    if fatal:
        raise Fatal("no use")
    if seen < 3:
        raise ValueError(f"failure {seen}")
    return seen


@activity(run_in="process", retry=ONCE)
def dies() -> None:
    os._exit(7)


@activity(run_in="process", retry=ONCE, timeout=60)
def spins(forever: bool = True) -> None:
    """Never gives the interpreter back for long, has a child of its own, and ignores every request to stop."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    current_job().progress(child.pid)
    while forever:
        time.perf_counter()


@activity(run_in="process", retry=ONCE)
def polite() -> str:
    job = current_job()
    job.progress(1)
    return "stopped" if job.wait_cancelled(60) else "never"


@activity(run_in="process", retry=ONCE)
def approve_in_process() -> int:
    raise CompleteLater(3600)
