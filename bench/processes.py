"""A worker as a real process, watched from outside: its memory and CPU from /proc, the server's messages from /varz."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from turnout.testing.server import NatsServer

_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Process:
    """A running process, by its id. `cpu_at_start_s`: the CPU seconds it had used when it was ready."""

    pid: int
    cpu_at_start_s: float = 0.0

    @property
    def rss_mb(self) -> float:
        """Resident memory in MB (10^6 bytes)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
        raise RuntimeError(f"no VmRSS in /proc/{self.pid}/status")

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far, user and system, of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextlib.contextmanager
def worker_process(url: str, namespace: str, *, concurrency: int = 100, activities: int = 1) -> Iterator[Process]:
    """`turnout worker` as anybody starts it; it pulls when this is entered, and is stopped in order when it is left."""
    module = "bench.jobs:noop" if activities == 1 else "bench.jobs:fifty"
    options = [
        "--server",
        url,
        "--namespace",
        namespace,
        "-c",
        str(concurrency),
        "-o",
        "json",
        "--log-level",
        "warning",
    ]
    command = [sys.executable, "-m", "turnout", "worker", module, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            if not child.stdout.readline():
                raise RuntimeError("the worker did not start: see above")
            process = Process(child.pid)
            yield Process(child.pid, process.cpu_s)
        finally:
            child.terminate()
            child.communicate(timeout=30)


@contextlib.contextmanager
def monitored_server() -> Iterator[tuple[NatsServer, int]]:
    """A server on files, and the port of its monitoring."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with NatsServer(config=f'http: "127.0.0.1:{port}"') as server:
        yield server, port


def varz(port: int) -> dict[str, Any]:
    """The server's own counters."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
