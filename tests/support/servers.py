"""The server that many tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from turnout.testing.server import NatsServer

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 4 * 2**30


@contextmanager
def quick_server() -> Iterator[NatsServer]:
    """A nats-server for many namespaces, each of which makes and deletes some ten streams.

    Their files are a quarter of its work on a disk, so they lie in memory where the machine has a folder for that. Who
    kills, restarts or pauses a server starts one of its own, on a disk.
    """
    with (
        tempfile.TemporaryDirectory(prefix="turnout-nats-", dir=memory()) as folder,
        NatsServer(store_dir=folder) as server,
    ):
        yield server
        server.kill()  # to end in order takes seconds when there are many streams, and nobody will read them


def memory() -> Path | None:
    """A folder in memory that has room for all of them."""
    try:
        room = os.statvfs(MEMORY)
    except OSError:
        return None
    return MEMORY if room.f_bavail * room.f_frsize >= ENOUGH_BYTES else None
