"""Listing and counting many jobs that have ended, and the memory that takes."""

from __future__ import annotations

import resource
import secrets
import time
from typing import Any

from bench.child import measure
from bench.fill import fill
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import Client, JobState
from turnout.testing.server import NatsServer

PAGE = 50


async def filled(url: str, namespace: str, count: int) -> dict[str, Any]:
    """Store the records of so many ended jobs; how many MB of records that is."""
    async with Client.connect(url, namespace=namespace) as client:
        await fill(client, count)
        info = await client.store.connection.api(f"STREAM.INFO.KV_{client.store.names.jobs_bucket}")
        return {"records_mb": info["state"]["bytes"] / 1e6}


async def listed(url: str, namespace: str, count: int) -> dict[str, Any]:
    """The seconds of a first page, of a count and of a whole listing, and the growth of the memory's peak over them."""
    async with Client.connect(url, namespace=namespace) as client:
        before_mb = _peak_mb()
        started = time.perf_counter()
        page = [info async for info in client.jobs(state=JobState.completed, limit=PAGE)]
        page_s, started = time.perf_counter() - started, time.perf_counter()
        counts = await client.count()
        count_s, started = time.perf_counter() - started, time.perf_counter()
        seen = 0
        async for _ in client.jobs(state=JobState.completed):
            seen += 1
        all_s = time.perf_counter() - started
        if (len(page), counts[JobState.completed], seen) != (min(PAGE, count), count, count):
            raise RuntimeError(f"of {count} jobs a page showed {len(page)}, the list {seen}, and the count is {counts}")
        return {"page_s": page_s, "count_s": count_s, "all_s": all_s, "grown_mb": _peak_mb() - before_mb}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def one_round(sizes: Sizes) -> dict[str, Any]:
    namespace = f"f{secrets.token_hex(4)}"
    with NatsServer() as server:
        arguments = {"url": server.url, "namespace": namespace, "count": sizes.large}
        stored = measure("bench.finished:filled", **arguments)
        return {**stored, **measure("bench.finished:listed", **arguments)}


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes) for _ in range(sizes.rounds)]

    def row(key: str, work: str, what: str, unit: str, aim: Aim | None, against: str | None = None) -> Row:
        rounds = [each[what] for each in found]
        compared = [each[against] for each in found] if against is not None else []
        return Row(key=key, work=work, unit=unit, rounds=rounds, against=compared, other="all records", aim=aim)

    jobs = f"{sizes.large:,} ended jobs"
    return [
        row("page", f"first page of `jobs(state=...)`, {jobs}", "page_s", "s", Aim(of="value", most=0.5)),
        row("count", f"`count()`, {jobs}", "count_s", "s", Aim(of="value", most=2.0)),
        row("list", f"listing {jobs}", "all_s", "s", None),
        # Whoever holds a full copy holds at least as many bytes as the records have.
        row("list_mb", f"memory for listing {jobs}", "grown_mb", "MB", Aim(most=0.9), "records_mb"),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
