"""Whether the garbage collector is at work: what it calls is anybody's, at a moment that is never the same."""

from __future__ import annotations

import gc
import threading

_threads: set[int] = set()


def watch() -> None:
    """Begin to watch the collector, once for the process."""
    if _note not in gc.callbacks:
        gc.callbacks.append(_note)


def here() -> bool:
    """Whether it is at work in this thread just now."""
    return threading.get_ident() in _threads


def _note(phase: str, _: dict[str, int]) -> None:
    if phase == "start":
        _threads.add(threading.get_ident())
    else:
        _threads.discard(threading.get_ident())
