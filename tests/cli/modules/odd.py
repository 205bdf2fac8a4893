"""Activities that show, or do, what a worker's health is about."""

import asyncio
import time

from turnout import activity, current_job


@activity(lease=2)
async def block(seconds: float) -> int:
    """Block the event loop."""
    time.sleep(seconds)
    return current_job().attempt


@activity(lease=2)
async def wait() -> None:
    """Wait where a stack can tell."""
    await _deeper()


async def _deeper() -> None:
    await asyncio.Event().wait()


@activity(lease=2)
def sync_wait() -> None:
    """Wait in a thread."""
    current_job().wait_cancelled(60)


@activity(lease=2)
async def cancels_everything() -> None:
    """What careless code does: cancel every task of the loop, those of the worker too."""
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()


@activity(lease=2)
async def cancels_pulling() -> None:
    """Cancel what pulls jobs, and nothing else."""
    for task in asyncio.all_tasks():
        if "Puller.run" in repr(task.get_coro()):
            task.cancel()
    await asyncio.sleep(3600)


@activity(lease=2)
async def stops_supervisor() -> None:
    """End the supervisor's thread from within."""
    import ctypes
    import threading

    for thread in threading.enumerate():
        if thread.name == "turnout-supervisor":
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(MemoryError))
    await asyncio.sleep(3600)
