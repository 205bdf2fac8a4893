"""Rows of results: medians of several rounds, what they are compared with, what was aimed for, and what became of
it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

HEAD = ("work", "turnout", "against", "ratio", "aim", "")


@attrs.frozen(kw_only=True)
class Aim:
    """From where to where the ratio should be, or with `of="value"` the value itself."""

    of: str = "ratio"
    least: float | None = None
    most: float | None = None

    def met(self, found: float) -> bool:
        return (self.least is None or found >= self.least) and (self.most is None or found <= self.most)

    def words(self, unit: str) -> str:
        show = "{:.2f}".format if self.of == "ratio" else lambda bound: f"{bound:g} {unit}".rstrip()
        if self.least is not None and self.most is not None:
            if self.least == self.most:
                return f"exactly {show(self.least)}"
            return f"{show(self.least)} to {show(self.most)}"
        if self.least is not None:
            return f"at least {show(self.least)}"
        return f"at most {show(self.most)}" if self.most is not None else ""


@attrs.frozen(kw_only=True)
class Row:
    """One line of the table. `rounds` and `against` are in `unit`, a round of each at the same place.

    `key` names the row for programs, `other` what it is compared with. `detail`: a figure to compute with, which is
    aimed at nothing and stands apart.
    """

    key: str
    work: str
    unit: str
    rounds: Sequence[float]
    against: Sequence[float] = ()
    other: str = "floor"
    aim: Aim | None = None
    detail: bool = False

    @property
    def value(self) -> float:
        return statistics.median(self.rounds)

    @property
    def ratios(self) -> list[float]:
        """Each round's ratio: both sides ran in the same minute, so a slow minute is slow for both."""
        return (
            [one / other for one, other in zip(self.rounds, self.against, strict=True) if other] if self.against else []
        )

    @property
    def ratio(self) -> float | None:
        ratios = self.ratios
        return statistics.median(ratios) if ratios else None

    @property
    def reached(self) -> bool | None:
        """None where nothing is aimed for."""
        if self.aim is None:
            return None
        found = self.ratio if self.aim.of == "ratio" else self.value
        return found is not None and self.aim.met(found)


def as_json(row: Row) -> dict[str, Any]:
    """What `from_json` reads, and beside it what follows from it, for other readers."""
    return {**attrs.asdict(row), "value": row.value, "ratio": row.ratio, "reached": row.reached}


def from_json(raw: dict[str, Any]) -> Row:
    known = {field.name: raw[field.name] for field in attrs.fields(Row)}
    return Row(**{**known, "aim": Aim(**raw["aim"]) if raw["aim"] is not None else None})


def as_markdown(rows: Iterable[Row]) -> str:
    """The table, aligned for reading in a terminal and valid in a document. Columns that no row fills are left out."""
    lines = [_cells(row) for row in rows]
    filled = [column for column in range(len(HEAD)) if any(line[column] for line in lines)]
    return aligned([HEAD[column] for column in filled], [[line[column] for column in filled] for line in lines])


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [head, *lines]
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    verdict = {True: "reached", False: "MISSED", None: ""}[row.reached]
    against = f"{number(statistics.median(row.against), row.unit)} ({row.other})" if row.against else ""
    aim = row.aim.words(row.unit) if row.aim is not None else ""
    return row.work, number(row.value, row.unit), against, _spread(row), aim, verdict


def _spread(row: Row) -> str:
    """The median of the rounds' ratios, and from where to where they go."""
    if row.ratio is None:
        return ""
    low, high = min(row.ratios), max(row.ratios)
    return f"{row.ratio:.2f}" if len(row.ratios) == 1 else f"{row.ratio:.2f} ({low:.2f} to {high:.2f})"


def number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 or value == round(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()
