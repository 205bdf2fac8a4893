"""Draws a run as an SVG: the ratios with what is aimed for, and how much of each limit is used.

    python -m bench.chart bench/results/published.json docs/images/performance.svg

Plain text, without a library; the colours follow the reader's light or dark theme.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import attrs

from bench.results import Results
from bench.table import Row

WIDTH, LABELS, BARS, LINE, BAR = 890, 430, 300, 26, 14

STYLE = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #24292f }
  .head { font-weight: 600; font-size: 15px }
  .note { fill: #57606a; font-size: 12px }
  .rail { fill: #eaeef2 }
  .reached { fill: #1a7f64 }
  .missed { fill: #c4501b }
  .plain { fill: #6e7781 }
  .aim { stroke: #24292f; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .note { fill: #9da7b3 }
    .rail { fill: #2b3139 }
    .reached { fill: #3fb68b }
    .missed { fill: #f0883e }
    .plain { fill: #8b949e }
    .aim { stroke: #e6edf3 }
  }
"""


@attrs.frozen
class Bar:
    """`length` and `aim` in the same measure; what is beyond the scale is cut off."""

    label: str
    length: float
    aim: float | None
    reached: bool | None
    told: str


def ratios(rows: Sequence[Row]) -> list[Bar]:
    """The rows whose ratio should be high, and those beside them that are aimed at nothing."""
    found = []
    for row in rows:
        least = row.aim.least if row.aim is not None and row.aim.of == "ratio" else None
        exact = row.aim is not None and row.aim.least == row.aim.most
        if row.ratio is not None and not exact and (least is not None or row.key == "drain_tight"):
            told = f"{row.ratio:.2f} × {row.other}"
            found.append(Bar(row.work, row.ratio, least, row.reached, told))
    return found


def limits(rows: Sequence[Row]) -> list[Bar]:
    """The rows that should stay below something, as shares of that."""
    found = []
    for row in rows:
        if row.aim is None or not row.aim.most or row.aim.least is not None:
            continue
        value = row.ratio if row.aim.of == "ratio" else row.value
        unit = "" if row.aim.of == "ratio" else row.unit
        if value is not None:
            told = f"{value:.3g} {unit}".rstrip() + f" of {row.aim.most:g}"
            found.append(Bar(row.work, value / row.aim.most, 1.0, row.reached, told))
    return found


def draw(results: Results) -> str:
    rows = [row for row in results.rows if not row.detail]
    parts: list[str] = []
    y = 30
    for head, note, bars in (
        ("Speed, as a ratio", "the line: at least so much is aimed for", ratios(rows)),
        ("What is used of each limit", "the line: no more than that", limits(rows)),
    ):
        parts.append(f'<text class="head" x="16" y="{y}">{head}</text>')
        parts.append(f'<text class="note" x="{LABELS}" y="{y}">{note}</text>')
        scale = max([1.25, *(bar.aim * 1.1 for bar in bars if bar.aim is not None)])
        for number, bar in enumerate(bars):
            parts += _bar(bar, y + 14 + number * LINE, scale)
        y += 14 + len(bars) * LINE + 34
    parts.append(f'<text class="note" x="16" y="{y - 10}">{escape(results.circumstances)}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">\n'
        f"<title>turnout measured against bare nats-py</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def _bar(bar: Bar, y: int, scale: float) -> list[str]:
    kind = {True: "reached", False: "missed", None: "plain"}[bar.reached]
    length = max(2.0, min(bar.length / scale, 1.0) * BARS)
    top, middle = y + (LINE - BAR) / 2, y + LINE / 2 + 4.5
    parts = [
        f'<text x="{LABELS - 12}" y="{middle}" text-anchor="end">{escape(bar.label.replace("`", ""))}</text>',
        f'<rect class="rail" x="{LABELS}" y="{top}" width="{BARS}" height="{BAR}" rx="2"/>',
        f'<rect class="{kind}" x="{LABELS}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>',
        f'<text class="note" x="{LABELS + BARS + 8}" y="{middle}">{escape(bar.told)}</text>',
    ]
    if bar.aim is not None:
        x = LABELS + bar.aim / scale * BARS
        parts.append(f'<line class="aim" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 3}" y2="{top + BAR + 3}"/>')
    return parts


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(Results.read(Path(sys.argv[1]))))
