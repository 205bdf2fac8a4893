"""Tracing to a collector in a process of its own against none, and none against no telemetry set-up at all."""

from __future__ import annotations

from typing import Any

from bench import drain
from bench.collector import collector
from bench.sizes import Sizes, show
from bench.table import Aim, Row


def traced(jobs: int) -> dict[str, Any]:
    """A drain with spans sent over OTLP/HTTP, as an operator switches that on; and the spans that arrived."""
    with collector() as collecting:
        found = drain.turnout(jobs, env={"OTEL_EXPORTER_OTLP_ENDPOINT": collecting.url})
        return {**found, **collecting.spans()}


def measured(sizes: Sizes) -> list[Row]:
    on, off, bare = [], [], []
    for _ in range(sizes.rounds):
        on.append(traced(sizes.jobs))
        off.append(drain.turnout(sizes.jobs))
        bare.append(drain.turnout(sizes.jobs, program="bench.untold"))

    def values(what: str, found: list[dict[str, Any]]) -> list[float]:
        return [each[what] for each in found]

    return [
        Row(
            key="tracing",
            work=f"drain {sizes.jobs:,} with tracing to a collector",
            unit="jobs/s",
            rounds=values("rate", on),
            against=values("rate", off),
            other="tracing off",
            aim=Aim(least=0.55),
        ),
        Row(
            key="spans",
            work="attempts whose span arrived there",
            unit="",
            rounds=values("attempts", on),
            against=[float(sizes.jobs)] * sizes.rounds,
            other="attempts",
            aim=Aim(least=1.0, most=1.0),
        ),
        Row(
            key="tracing_off",
            work="CPU of the worker per job, tracing off",
            unit="us",
            rounds=values("worker_us", off),
            against=values("worker_us", bare),
            other="no set-up",
            aim=Aim(most=1.05),
        ),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
