"""Everything, in one table, and as JSON under bench/results/."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from types import ModuleType

from bench import (
    asking,
    backlog,
    crowd,
    drain,
    failover,
    fanout,
    finished,
    firing,
    idle,
    latency,
    limiting,
    replaying,
    replicas,
    running,
    scaling,
    signals,
    submit,
    tracing,
    verifying,
    waiting,
    workflows,
)
from bench.results import FOLDER, Results, machine, now
from bench.sizes import Sizes, add_arguments, chosen
from bench.table import Row, as_markdown

SUITES: dict[str, tuple[ModuleType, ...]] = {
    "jobs": (drain, backlog, tracing, submit, latency, scaling, running, finished, failover, firing, idle, replicas),
    "workflows": (workflows, fanout, asking, signals, replaying, verifying, waiting, crowd, limiting),
}
"""What is measured, and published, together. The second one has limits and priorities as well."""

PARTS = tuple(part for parts in SUITES.values() for part in parts)


def name(part: ModuleType) -> str:
    return part.__name__.rpartition(".")[2]


def main() -> None:
    names = {name(part): suite for suite, parts in SUITES.items() for part in parts}
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure turnout against bare nats-py on this machine, in turns."
    )
    add_arguments(parser)
    parser.add_argument(
        "--suite", choices=list(SUITES), help="which parts: those of jobs (the default), or of workflows"
    )
    parser.add_argument(
        "--part", action="append", choices=list(names), help="only this part; may be given several times"
    )
    arguments = parser.parse_args()
    wanted = arguments.part or [each for each, suite in names.items() if suite == (arguments.suite or "jobs")]
    suites = {names[each] for each in wanted} | ({arguments.suite} if arguments.suite else set())
    if len(suites) > 1:
        parser.error("parts of one suite at a time: a file has the figures of one")
    (suite,) = suites
    results = run([part for part in SUITES[suite] if name(part) in wanted], chosen(arguments), suite)
    print(f"\n{results.as_markdown()} It took {results.took_s:.0f} s.")
    detail = [row for row in results.rows if row.detail]
    if detail:
        print(f"\nTo compute bigger machines with:\n\n{as_markdown(detail)}")
    if arguments.quick:
        print("\nThis was a quick run: it shows that all of it works. The aims are meant for full sizes.")
    sys.exit(1 if results.failed else 0)


def run(parts: list[ModuleType], sizes: Sizes, suite: str = "jobs") -> Results:
    """Measure these parts. One that fails does not stop the others; the file is written after each."""
    at, started = now(), time.perf_counter()
    path = FOLDER / f"{at[:19].replace(':', '-')}.json"
    rows: list[Row] = []
    failed: list[str] = []
    results = Results(at=at, machine=machine(), sizes=sizes, rows=(), suite=suite)
    for part in parts:
        print(f"{time.perf_counter() - started:5.0f} s: {name(part)} ...", flush=True)
        try:
            rows += part.measured(sizes)
        except Exception:  # what the others measure counts nevertheless
            traceback.print_exc()
            failed.append(name(part))
        results = Results(
            at=at,
            machine=results.machine,
            sizes=sizes,
            rows=tuple(rows),
            failed=tuple(failed),
            took_s=time.perf_counter() - started,
            suite=suite,
        )
        results.write(path)
    print(f"written to {path}")
    return results


if __name__ == "__main__":
    main()
