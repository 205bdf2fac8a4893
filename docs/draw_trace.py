"""Draw the trace of docs/howto/debug-with-jaeger.md from real spans: those of a new run, or again those that are kept.

    python -m docs.draw_trace            # real processes, half a minute; writes images/trace.json, then as below
    python -m docs.draw_trace --again    # from images/trace.json: images/trace.svg, and what the document quotes

Needs what the tests need. Nothing in the drawing is made up: a row is a span, a mark on it an event, an arrow a link.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import attrs

from tests.support.otlp import Event, Link, OtlpReceiver, Span
from tests.support.story import Story, check, tell
from turnout.cli import traceview
from turnout.testing import NatsServer

IMAGES = Path(__file__).with_name("images")
DOCUMENT = Path(__file__).with_name("howto") / "debug-with-jaeger.md"
BEGIN = "<!-- written by docs/draw_trace.py: begin -->"
END = "<!-- written by docs/draw_trace.py: end -->"
KEPT = IMAGES / "trace.json"
PICTURE = IMAGES / "trace.svg"

WIDTH, LEFT, RIGHT = 960, 268, 24
TOP, ROW, BAR = 86, 30, 16
CHART = WIDTH - LEFT - RIGHT
CHAR = 6.6
"""The width of a letter, roughly: decides where a label has room."""

_DROPPED = ("exception.stacktrace",)
"""What names folders of the machine where it was drawn."""

STYLE = """
  text { font: 12.5px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328 }
  .head { font-size: 15px; font-weight: 600 }
  .note, .axis { fill: #59636e; font-size: 11.5px }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .guide { stroke: #b7bfc8; fill: none }
  .stripe { fill: #818b98; fill-opacity: .08 }
  .submit { fill: #6e7781 }
  .one { fill: #2f6fd0 }
  .two { fill: #8250df }
  .inner { fill-opacity: .5 }
  .wrong { stroke: #cf222e; stroke-width: 1.8 }
  .lost { fill-opacity: .22; stroke-dasharray: 5 3 }
  .bad { fill: #cf222e }
  .mark { fill: #1f2328 }
  .cross { stroke: #cf222e; stroke-width: 2.2; fill: none }
  .link { stroke: #59636e; fill: none; stroke-width: 1.2 }
  .tip { fill: #59636e }
  .kill { stroke: #cf222e; stroke-width: 2.2 }
  .wait { stroke: #59636e; stroke-width: 1.6; stroke-dasharray: 2 4; stroke-linecap: round }
  @media (prefers-color-scheme: dark) {
    text, .mark { fill: #e6edf3 }
    .note, .axis, .tip { fill: #9198a1 }
    .grid { stroke: #2f3742 }
    .guide { stroke: #4a535e }
    .submit { fill: #8b949e }
    .one { fill: #5b9bff }
    .two { fill: #b392f0 }
    .wrong, .cross, .kill { stroke: #ff7b72 }
    .bad { fill: #ff7b72 }
    .link, .wait { stroke: #9198a1 }
  }
"""


@attrs.frozen
class Picture:
    """What is drawn: a job's spans, when its worker was killed (seconds from the submission), and which one that was.

    `tree` is what `turnout job trace` prints of the job.
    """

    spans: tuple[Span, ...]
    killed_at: float
    dead: str
    tree: str

    @classmethod
    def of(cls, story: Story, spans: Iterable[Span]) -> Picture:
        """Of a story that was told. Times count from the submission, and what is of this machine alone is left out."""
        ordered = sorted(spans, key=lambda span: (span.start, span.name))
        zero = ordered[0].start
        tidy = tuple(_tidy(span, zero) for span in ordered)
        return cls(tidy, round(story.killed_at - zero, 6), story.dead, _printed(story))

    @classmethod
    def load(cls, file: Path) -> Picture:
        raw = json.loads(file.read_text())
        return cls(**raw | {"spans": tuple(_span(each) for each in raw["spans"])})

    @property
    def job_id(self) -> str:
        return str(next(span.attributes["turnout.job.id"] for span in self.spans if span.kind == "PRODUCER"))

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(attrs.asdict(self), indent=1) + "\n")


def _printed(story: Story) -> str:
    now = time.time()
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        traceview.show(traceview.trace_of(story.info, now, "http://localhost:16686"), now)
    return shown.getvalue()


def renewed(document: str, picture: Picture) -> str:
    """The document with what `turnout job trace` printed of this very job."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n```text\n$ turnout job trace {picture.job_id}\n{picture.tree}```\n\n{END}{after}"


def _tidy(span: Span, zero: float) -> Span:
    def seconds(at: float) -> float:
        return round(at - zero, 6)

    events = [
        Event(event.name, seconds(event.time), {k: v for k, v in event.attributes.items() if k not in _DROPPED})
        for event in span.events
    ]
    return attrs.evolve(span, start=seconds(span.start), end=seconds(span.end), events=tuple(events), resource={})


def _span(raw: dict[str, Any]) -> Span:
    events = tuple(Event(**event) for event in raw["events"])
    return Span(**raw | {"events": events, "links": tuple(Link(**link) for link in raw["links"])})


# --- drawing ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Row:
    """A span, where it is drawn: its line, how deep in the tree, and whether it is the last below its parent."""

    span: Span
    number: int
    depth: int

    @property
    def middle(self) -> float:
        return TOP + self.number * ROW + ROW / 2


def draw(picture: Picture) -> str:
    """The SVG. The same spans give the same text."""
    rows = [Row(span, number, depth) for number, (span, depth) in enumerate(_tree(picture.spans))]
    total = max(span.end for span in picture.spans)
    scale = CHART / (total * 1.02)
    height = TOP + len(rows) * ROW + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        "<title>One job's trace: an attempt that failed, one that was lost, one that succeeded</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>',
        *_header(picture, total),
        *_grid(total, scale, len(rows)),
        *_guides(rows),
        *_links(rows, scale),
        *itertools.chain.from_iterable(_row(row, scale, picture) for row in rows),
        *_waits(rows, scale),
        *_kill(rows, scale, picture),
        *_legend(height),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _tree(spans: Sequence[Span]) -> Iterator[tuple[Span, int]]:
    """Each span with its depth, parents before their children, by their start; the sign of a start comes first."""
    known = {span.span_id for span in spans}

    def below(parent_id: str, depth: int) -> Iterator[tuple[Span, int]]:
        found = [span for span in spans if (span.parent_id if span.parent_id in known else "") == parent_id]
        for span in sorted(
            found, key=lambda span: (round(span.start, 1), not span.name.startswith("start "), span.start)
        ):
            yield span, depth
            yield from below(span.span_id, depth + 1)

    yield from below("", 0)


def _header(picture: Picture, total: float) -> Iterator[str]:
    yield _text(16, 28, f"turnout.job.id={picture.job_id}", "head")
    nodes = len({span.attributes["turnout.node.id"] for span in picture.spans if "turnout.node.id" in span.attributes})
    yield _text(16, 48, f"one trace, {len(picture.spans)} spans, {nodes} nodes, {_seconds(total)}", "note")


def _grid(total: float, scale: float, rows: int) -> Iterator[str]:
    for number in range(rows):
        if number % 2 == 0:
            yield f'<rect class="stripe" x="8" y="{TOP + number * ROW}" width="{WIDTH - 16}" height="{ROW}" rx="3"/>'
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60) if total / step <= 9)
    for n in range(int(total / step) + 1):
        x = _x(n * step, scale)
        yield f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{TOP + rows * ROW}"/>'
        yield _text(x, TOP - 14, f"{n * step:g} s", "axis", anchor="middle")


def _guides(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of the tree: from each row up to its parent's."""
    for row in rows:
        parent = next((other for other in reversed(rows[: row.number]) if other.depth == row.depth - 1), None)
        if parent is not None:
            x = 22 + parent.depth * 18
            yield f'<path class="guide" d="M{x} {parent.middle + 8:.1f}V{row.middle:.1f}H{x + 11}"/>'


def _links(rows: Sequence[Row], scale: float) -> Iterator[str]:
    """An arrow from each attempt to the one before, which its link names."""
    places = {row.span.span_id: row for row in rows}
    for row in rows:
        for link in row.span.links:
            before = places.get(link.span_id)
            if before is None:
                continue
            x1, y1 = _x(row.span.start, scale), row.middle - BAR / 2
            x2, y2 = _x(before.span.end, scale), before.middle + BAR / 2
            yield (
                f'<path class="link" marker-end="url(#tip)" d="M{x1} {y1:.1f}C{x1} {y1 - 14:.1f} {x2} {y2 + 22:.1f} '
                f'{x2} {y2 + 2:.1f}"/>'
            )


def _row(row: Row, scale: float, picture: Picture) -> Iterator[str]:
    span = row.span
    x = 16 + row.depth * 18 + (4 if row.depth else 0)
    attempt = span.attributes.get("turnout.job.attempt")
    number = f" · attempt {attempt}" if span.kind == "CONSUMER" else ""
    shown = _text(x + (8 if row.depth else 0), row.middle + 4.5, span.name + number, "bad" if span.error else "")
    yield shown
    begun, width = _x(span.start, scale), max(round((span.end - span.start) * scale, 1), 3.0)
    lost = span.attributes.get("error.type") == "lost"
    classes = [_colour(span, picture), "inner" * (span.kind == "INTERNAL"), "wrong" * span.error, "lost" * lost]
    yield (
        f'<rect class="{" ".join(filter(None, classes))}" x="{begun}" y="{row.middle - BAR / 2:.1f}" width="{width}" '
        f'height="{BAR}" rx="3"><title>{escape(_about(span))}</title></rect>'
    )
    yield from _events(row, scale)
    yield from _label(row, begun, width, lost=lost)


def _events(row: Row, scale: float) -> Iterator[str]:
    for event in row.span.events:
        x, y = _x(event.time, scale), row.middle
        title = f"<title>{escape(event.name)}</title>"
        if event.name == "exception":
            yield f'<path class="cross" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8">{title}</path>'
        else:
            yield f'<circle class="mark" cx="{x}" cy="{y:.1f}" r="2.2">{title}</circle>'


def _label(row: Row, begun: float, width: float, *, lost: bool) -> Iterator[str]:
    """What is said of a span beside its bar, or in it where the bar is long."""
    span = row.span
    words = [_seconds(span.end - span.start)]
    if span.kind == "CONSUMER":
        words.append(f"on {_node(str(span.attributes['turnout.node.id']))}")
    if lost:
        words.append("error.type=lost, told by the survivor")
    elif span.error:
        words.append(str(span.attributes.get("error.type") or span.message.partition(":")[0]))
    text = ", ".join(words)
    y = row.middle + 4.3
    if width > len(text) * CHAR + 120:
        yield _text(round(begun + width - 12, 1), y, text, "bad" if span.error else "", anchor="end")
    elif begun + width + len(text) * CHAR + 12 < WIDTH - RIGHT:
        yield _text(round(begun + width + 9, 1), y, text, "note")
    else:
        yield _text(round(begun - 9, 1), y, text, "note", anchor="end")


def _waits(rows: Sequence[Row], scale: float) -> Iterator[str]:
    """A dashed line before an attempt, for the delay that the one before was given."""
    attempts = [row for row in rows if row.span.kind == "CONSUMER"]
    for before, row in itertools.pairwise(attempts):
        for event in before.span.events:
            delay = event.attributes.get("turnout.retry.delay")
            if delay is not None:
                x1, x2 = _x(before.span.end, scale), _x(before.span.end + float(delay), scale)
                yield f'<line class="wait" x1="{x1}" x2="{x2}" y1="{row.middle:.1f}" y2="{row.middle:.1f}"/>'


def _kill(rows: Sequence[Row], scale: float, picture: Picture) -> Iterator[str]:
    """When the worker was killed, on the bar of the attempt that died of it."""
    x = _x(picture.killed_at, scale)
    for row in rows:
        if row.span.attributes.get("error.type") == "lost":
            yield f'<line class="kill" x1="{x}" x2="{x}" y1="{row.middle - 13:.1f}" y2="{row.middle + 13:.1f}"/>'
            yield _text(round(x + 7, 1), row.middle + 4.3, f"kill -9 {_node(picture.dead)}", "bad")


def _legend(height: int) -> Iterator[str]:
    y = height - 14
    yield f'<circle class="mark" cx="22" cy="{y - 4}" r="2.2"/>'
    yield _text(32, y, "event", "note")
    yield f'<path class="cross" d="M80 {y - 8}l8 8m0-8l-8 8"/>'
    yield _text(96, y, "exception", "note")
    yield f'<path class="link" marker-end="url(#tip)" d="M168 {y - 4}h26"/>'
    yield _text(202, y, "link to the attempt before", "note")
    yield f'<line class="wait" x1="362" x2="390" y1="{y - 4}" y2="{y - 4}"/>'
    yield _text(398, y, "delay before the next", "note")
    yield _text(540, y, "a colour is a node", "note")


def _about(span: Span) -> str:
    facts = "\n".join(f"{name}={value}" for name, value in sorted(span.attributes.items()))
    return f"{span.name} ({span.kind}, {span.service})\n{facts}"


def _colour(span: Span, picture: Picture) -> str:
    """A colour for each node: user spans have that of the attempt that they are in."""
    if span.kind == "PRODUCER":
        return "submit"
    node = _node_of(span, {each.span_id: each for each in picture.spans})
    return "two" if node == picture.dead else "one"


def _node_of(span: Span, spans: Mapping[str, Span]) -> str:
    while "turnout.node.id" not in span.attributes and span.parent_id in spans:
        span = spans[span.parent_id]
    return str(span.attributes.get("turnout.node.id", ""))


def _node(node: str) -> str:
    return node.rpartition("-")[0] or node


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 0.995 else f"{value:.1f} s"


def _x(at: float, scale: float) -> float:
    return round(LEFT + max(at, 0.0) * scale, 1)


def _text(x: float, y: float, text: str, style: str = "", *, anchor: str = "") -> str:
    classes = f' class="{style}"' if style else ""
    anchored = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text{classes} x="{x}" y="{y:.1f}"{anchored}>{escape(text)}</text>'


async def real() -> Picture:
    """The story, told by real processes."""
    with NatsServer() as server, OtlpReceiver() as collector:
        story = await tell(server.url, "turnout", collector)
        spans = collector.of_trace(story.info.trace_id)
        check(story, spans, collector.of_job(story.info.id))
    return Picture.of(story, spans)


def main() -> None:
    if "--again" not in sys.argv:
        asyncio.run(real()).save(KEPT)
    picture = Picture.load(KEPT)
    PICTURE.write_text(draw(picture))
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(), picture))


if __name__ == "__main__":
    main()
