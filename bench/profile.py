"""Where a job's time goes: samples of a worker's main thread during a drain, by module of ours.

    pip install py-spy
    python -m bench.profile --jobs 20000

A sample counts for the innermost module of turnout on the stack, and for what that calls outside of turnout. The
profiler stops the process for each sample, so the shares are rough, and system calls come out too small.
"""

from __future__ import annotations

import argparse
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.child import measure
from bench.processes import server_pid, worker_process
from bench.table import aligned
from turnout.testing.server import NatsServer

RATE_HZ = 250
LONGEST_S = 600
_OURS = re.compile(r"\((?:.*/)?turnout/([\w/]+\.py)(?::\d+)?\)$")
ELSEWHERE = "the event loop, and what it calls that is not of turnout"


def profiler() -> str:
    """The program that takes the samples; it is no dependency."""
    beside = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("py-spy")
    if found is None:
        sys.exit("no py-spy on this machine: pip install py-spy")
    return found


def sampled(jobs: int) -> str:
    """A drain's stacks, a line each: frames from the outermost to the innermost, separated by `;`, and a count."""
    program, namespace = profiler(), f"p{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as folder, NatsServer() as server:
        file = Path(folder) / "stacks"
        with worker_process(server.url, namespace) as worker:
            arguments = {"url": server.url, "namespace": namespace, "servers": [server_pid(server)]}
            measure("bench.gate:drain", jobs=max(100, jobs // 10), workers=[worker.pid], **arguments)  # warm up
            options = ["--rate", str(RATE_HZ), "--duration", str(LONGEST_S), "--format", "raw", "--threads"]
            command = [program, "record", "--pid", str(worker.pid), "--output", str(file), *options]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spy:
                measure("bench.gate:drain", jobs=jobs, workers=[worker.pid], **arguments)
                spy.send_signal(signal.SIGINT)
                _, said = spy.communicate(timeout=60)
        if not file.exists():
            sys.exit(f"py-spy could not sample the worker (it may need more rights: see its own help):\n{said}")
        return file.read_text()


def shares(stacks: str) -> dict[str, float]:
    """Modules of turnout with their share of the main thread's samples, the largest first."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        if "MainThread" in frames:
            ours = [match[1] for frame in frames.split(";") if (match := _OURS.search(frame))]
            # What only stands around the loop says nothing: the program's own start is on every stack.
            inner = [module for module in ours if not module.startswith("cli/") and module != "__main__.py"]
            found[inner[-1] if inner else ELSEWHERE] += int(count)
    return {module: count / found.total() for module, count in found.most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Tell where the time of a drain goes in its worker.")
    parser.add_argument("--jobs", type=int, default=20_000, help="how many jobs are drained (default 20,000)")
    found = shares(sampled(parser.parse_args().jobs))
    print(aligned(("module", "share"), [[module, f"{share:.1%}"] for module, share in found.items() if share > 0.001]))


if __name__ == "__main__":
    main()
