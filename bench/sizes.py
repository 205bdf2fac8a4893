"""How much is measured: everything follows from the number of jobs, so that a small run is the same run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import attrs

from bench.table import Row, as_markdown


@attrs.frozen(kw_only=True)
class Sizes:
    """`jobs`: how many a drain drains and a submission submits. `window_s`: how long steady states are watched."""

    rounds: int = 5
    jobs: int = 10_000
    window_s: float = 30.0
    idle_s: float = 30.0

    @property
    def small(self) -> int:
        """The small backlog."""
        return max(1, self.jobs // 10)

    @property
    def large(self) -> int:
        """The large backlog, and how many ended jobs are listed."""
        return self.jobs * 10

    @property
    def turns(self) -> int:
        """How many are submitted, or waited for, one after the other."""
        return max(20, self.jobs // 10)


QUICK = Sizes(rounds=1, jobs=1_000, window_s=5, idle_s=5)

Measured = Callable[[Sizes], list[Row]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every program of bench/ understands."""
    parser.add_argument("--rounds", type=int, help=f"how often each side is measured (default {Sizes().rounds})")
    parser.add_argument("--jobs", type=int, help=f"how many jobs a round drains or submits (default {Sizes().jobs:,})")
    parser.add_argument("--quick", action="store_true", help="see that it all runs: one round of a tenth of the size")


def chosen(arguments: argparse.Namespace) -> Sizes:
    sizes = QUICK if arguments.quick else Sizes()
    given = {name: value for name in ("rounds", "jobs") if (value := getattr(arguments, name)) is not None}
    return attrs.evolve(sizes, **given)


def show(measured: Measured, description: str | None, argv: Sequence[str] | None = None) -> None:
    """The main program of one part."""
    parser = argparse.ArgumentParser(description=description)
    add_arguments(parser)
    print(as_markdown(measured(chosen(parser.parse_args(argv)))))
