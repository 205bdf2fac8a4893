"""Everything, in one table, and as JSON under bench/results/."""

from __future__ import annotations

import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import drain, latency, memory, submit
from bench.table import Row, arguments, as_json, as_markdown

RESULTS = Path(__file__).parent / "results"
PARTS = (drain, submit, latency, memory)


def main() -> None:
    chosen = arguments("Measure turnout against bare nats-py on this machine, floor and turnout in turns.")
    rows: list[Row] = []
    started = time.perf_counter()
    for part in PARTS:
        print(f"measuring {part.__name__.rpartition('.')[2]} ...", flush=True)
        rows += part.measured(chosen.rounds, chosen.jobs)
    took = time.perf_counter() - started
    print(f"\n{as_markdown(rows)}\n\n{chosen.rounds} rounds, {_machine()['cpus']} CPUs, {took:.0f} s")
    print(f"written to {_write(rows, chosen.rounds, chosen.jobs)}")


def _machine() -> dict[str, Any]:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpus": cpus, "machine": platform.machine(), "python": platform.python_version()}


def _write(rows: list[Row], rounds: int, jobs: int) -> Path:
    now = datetime.now(UTC)
    found = {
        "at": now.isoformat(timespec="seconds"),
        **_machine(),
        "rounds": rounds,
        "jobs": jobs,
        "rows": [as_json(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%dT%H-%M-%S}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path.relative_to(RESULTS.parent.parent)


if __name__ == "__main__":
    main()
