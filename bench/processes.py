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
    """A running process, by its id. `cpu_at_start_s`: the CPU seconds it had used before it connected."""

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
    """A worker of `bench.worker_process`, ready when this is entered, stopped in order when it is left."""
    options = json.dumps({"url": url, "namespace": namespace, "concurrency": concurrency, "activities": activities})
    command = [sys.executable, "-m", "bench.worker_process", options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            ready, _, cpu_s = child.stdout.readline().strip().partition(" ")
            if ready != "ready":
                raise RuntimeError("the worker did not start: see above")
            yield Process(child.pid, float(cpu_s))
        finally:
            with contextlib.suppress(BrokenPipeError):
                child.communicate("stop\n", timeout=30)


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
