"""How far a namespace goes on larger machines, computed from what was measured on this one.

    python -m bench.capacity bench/results/published.json

Everything is shown with how it was computed; docs/performance.md says what it rests on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.replicas import KINDS
from bench.results import Results
from bench.table import aligned, as_markdown

WRITES_PER_JOB = 2
"""Into the registry's stream: the record of the start, and the final one. The busiest stream of a namespace."""

MESSAGES_PER_JOB = 4
"""To the server: the submission, two records, the acknowledgement. Pulls are shared by many jobs."""

DISK_BYTES = 40e9
"""`max_file_store` in deploy/nats/production.conf."""

WEEK_S, HOUR_S = 7 * 86_400, 3_600
MILLION = 1_000_000


def rough(value: float, unit: str = "") -> str:
    """Two digits: the figures are no better than that."""
    if value:
        value = float(f"{value:.2g}")
    text = f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:g}"
    return f"{text} {unit}".rstrip()


def bytes_(value: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return rough(value, unit)
        value /= 1000
    return rough(value, "TB")


def speeds(results: Results) -> str:
    """Jobs per second: what one stream takes, and the cores that go with it."""
    worker_us = results.row("worker_us").value
    found = {}
    for kind, name in KINDS.items():
        writes, server_us = results.row(f"{kind}_writes").value, results.row(f"{kind}_server_us").value
        jobs = writes / WRITES_PER_JOB
        found[name] = [
            rough(writes),
            rough(results.row(f"{kind}_rate").value),
            rough(jobs),
            rough(server_us, "us"),
            rough(jobs * server_us / MILLION),
            rough(jobs * worker_us / MILLION),
        ]
    what = [
        "W, writes to one stream per second (measured)",
        "jobs/s of one worker process, all on this machine (measured)",
        f"J, jobs/s that the registry's stream takes: W / {WRITES_PER_JOB}",
        "S, CPU of all servers per job (measured)",
        "cores of all servers at J: J x S",
        f"worker processes at J, a core each: J x {rough(worker_us, 'us')}",
    ]
    return aligned(("", *found), [[line, *(cells[at] for cells in found.values())] for at, line in enumerate(what)])


def sizes(results: Results) -> str:
    """What is there at the same time, and what a lot of it takes."""

    def value(key: str) -> float:
        return results.row(key).value

    jobs, per_running = results.sizes.jobs, 100_000 / results.sizes.jobs
    queued_disk, queued_memory, record = value("queued_disk"), value("queued_memory"), value("record_disk")
    messages, idle, records = value("running_messages"), value("idle_messages_1"), DISK_BYTES / record
    running_bytes = value("running_kb") * 1000
    cores = rough(per_running * value("running_server_cpu") / 100), rough(per_running * value("running_cpu") / 100)
    queued = f"{bytes_(10 * MILLION * queued_disk)} of disk, {bytes_(10 * MILLION * queued_memory)} of memory"
    running = f"{bytes_(100_000 * running_bytes)}, {rough(per_running * messages, 'messages/s')}"
    nodes = f"{rough(1000 * idle, 'messages/s')}, as many as {rough(1000 * idle / MESSAGES_PER_JOB, 'jobs/s')} cause"
    week, hour = rough(records / WEEK_S, "jobs/s"), rough(records / HOUR_S, "jobs/s")
    ended = f"{rough(records / MILLION, 'million')}; {week} day and night if kept for a week, {hour} for an hour"
    lines = [
        (
            "queued job",
            f"{bytes_(queued_disk)} of disk, {bytes_(queued_memory)} of the server's memory",
            f"10 million: {queued}",
        ),
        (
            "running job, lease of 30 s",
            f"{bytes_(running_bytes)} of its worker's memory, {rough(messages / jobs, 'messages/s')}",
            f"100,000: {running}, {cores[0]} cores of the server and {cores[1]} of the workers",
        ),
        ("node, idle", rough(idle, "messages/s"), f"1,000: {nodes}"),
        ("ended job", f"{bytes_(record)} of disk for as long as it is kept", f"{bytes_(DISK_BYTES)}: {ended}"),
    ]
    return aligned(("one", "takes", "so a lot of them"), lines)


def render(results: Results) -> str:
    """The figures that were measured for this, and what follows from them."""
    detail = as_markdown([row for row in results.rows if row.detail])
    return "\n\n".join((speeds(results), sizes(results), f"Measured for this:\n\n{detail}"))


if __name__ == "__main__":
    print(render(Results.read(Path(sys.argv[1]))))
