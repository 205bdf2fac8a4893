"""Workers and servers as real processes, watched from outside: memory and CPU from /proc, messages from /varz."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from turnout.testing.server import NatsServer

_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_S = 60

SYNCED = "jetstream { sync_interval: always }"
"""The setting of production: what the server has acknowledged is on the disk."""


@attrs.frozen
class Process:
    """A running process, by its id."""

    pid: int

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


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds so far of several processes."""
    return sum(Process(pid).cpu_s for pid in pids)


def rss_mb(pids: Sequence[int]) -> float:
    """Resident MB of several processes."""
    return sum(Process(pid).rss_mb for pid in pids)


@contextlib.contextmanager
def worker_process(
    url: str,
    namespace: str,
    *,
    serves: str = "bench.jobs:noop",
    concurrency: int = 100,
    grace_s: float = 30,
    program: str = "turnout",
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """`turnout worker` as anybody starts it; it pulls when this is entered, and is stopped in order when it is left.

    Nothing of the telemetry set-up of who runs this reaches it but what `env` says.
    """
    command = [sys.executable, "-m", program, "worker", serves, "--server", url, "--namespace", namespace]
    command += ["-c", str(concurrency), "--grace", str(grace_s), "-o", "json", "--log-level", "error", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | dict(env or {})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            assert child.stdout is not None
            if not child.stdout.readline():
                raise RuntimeError("the worker did not start: see above")
            yield Process(child.pid)
        finally:
            child.terminate()
            child.communicate(timeout=_STOP_S)


@contextlib.contextmanager
def monitored_server() -> Iterator[tuple[NatsServer, int]]:
    """A server on files, and the port of its monitoring."""
    (port,) = free_ports(1)
    with NatsServer(config=f'http: "127.0.0.1:{port}"') as server:
        yield server, port


def messages_in(port: int) -> int:
    """How many messages the server has received so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return int(found["in_msgs"])


@contextlib.contextmanager
def cluster() -> Iterator[list[NatsServer]]:
    """Three servers that keep streams on all three. They have no leader yet when this is entered."""
    ports = free_ports(3)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    with contextlib.ExitStack() as stack:
        servers = []
        for port in ports:
            config = f'cluster {{ name: bench, listen: "127.0.0.1:{port}", routes: [{routes}] }}'
            servers.append(NatsServer(config=config))
        # A server of a cluster may be asked for before the others are there: all of them are started at once.
        yield [stack.enter_context(server) for server in servers]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def server_pid(server: NatsServer) -> int:
    """The process of a server that runs."""
    assert server.pid is not None
    return server.pid
