"""Rows of results: medians of several rounds, and their ratio to the floor's."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Row:
    """One line of the table. `value` and `floor` are medians in `unit`; `ratio` is turnout's share of the floor.

    `reach` is what is aimed for, in words; `reached` whether it was; None where nothing is aimed for.
    """

    what: str
    unit: str
    value: float
    floor: float | None = None
    reach: str = ""
    reached: bool | None = None
    rounds: tuple[float, ...] = ()
    floor_rounds: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        return self.value / self.floor if self.floor else None


def rate_row(
    what: str, rates: Sequence[float], floors: Sequence[float], *, least: float | None = None, unit: str = "jobs/s"
) -> Row:
    """A rate against the floor's; `least` is the ratio aimed for."""
    value, floor = statistics.median(rates), statistics.median(floors)
    return Row(
        what=what,
        unit=unit,
        value=value,
        floor=floor,
        reach=f">= {least:.2f} of the floor" if least is not None else "",
        reached=value / floor >= least if least is not None else None,
        rounds=tuple(rates),
        floor_rounds=tuple(floors),
    )


def limit_row(
    what: str, unit: str, values: Sequence[float], *, most: float | None, floors: Sequence[float] = ()
) -> Row:
    """A value that should stay below `most`."""
    value = statistics.median(values)
    return Row(
        what=what,
        unit=unit,
        value=value,
        floor=statistics.median(floors) if floors else None,
        reach=f"<= {most:g} {unit}" if most is not None else "",
        reached=value <= most if most is not None else None,
        rounds=tuple(values),
        floor_rounds=tuple(floors),
    )


def as_json(row: Row) -> dict[str, Any]:
    return {**attrs.asdict(row), "ratio": row.ratio}


def as_markdown(rows: Iterable[Row]) -> str:
    """The table, aligned for reading in a terminal and valid in a document."""
    head = ("work", "turnout", "floor", "ratio", "reach", "")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    verdict = {True: "reached", False: "MISSED", None: ""}[row.reached]
    floor = "" if row.floor is None else _number(row.floor, row.unit)
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return row.what, _number(row.value, row.unit), floor, ratio, row.reach, verdict


def _number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def arguments(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What every program of bench/ understands."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured; medians are shown")
    parser.add_argument("--jobs", type=int, default=10_000, help="how many jobs a round drains or submits")
    return parser.parse_args(argv)


def show(measured: Callable[[int, int], list[Row]], description: str) -> None:
    """The main program of one part."""
    chosen = arguments(description)
    print(as_markdown(measured(chosen.rounds, chosen.jobs)))
