"""Drawing what happened when: a line for each thing, in colours and with bars on a terminal."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

import attrs
import click

from turnout.cli import output, terminal

_BAR = 28
_ROOM_FOR_BARS = 100


@attrs.frozen(kw_only=True)
class Row:
    """A line: when (seconds), what, how long, and a remark; `waits` and `lasts` are where its bar is (seconds).

    `state` is coloured, and so are the bar and what is `below`, in a line of its own.
    """

    at: float
    what: str
    state: str = ""
    took: str = ""
    more: str = ""
    waits: tuple[float, float] | None = None
    lasts: tuple[float, float] | None = None
    below: str = ""


@attrs.frozen(kw_only=True)
class Page:
    """What stands above the lines: a headline with the state in it, and facts; `total` is how long all of it took.

    `url` is the one among the facts that is a link.
    """

    headline: str
    state: str
    about: list[str]
    total: float
    url: str | None = None


def show(page: Page, rows: Sequence[Row]) -> None:
    """Print the lines: in colours and with bars on a terminal, indented elsewhere."""
    if sys.stdout.isatty() and not terminal.dumb():
        _show_tree(page, rows)
        return
    click.echo(page.headline)
    for line in page.about:
        click.echo(f"  {line}")
    for row, text in zip(rows, _aligned(rows), strict=True):
        click.echo(f"  {text}".rstrip())
        if row.below:
            click.echo(f"      {row.below}")


def _aligned(rows: Sequence[Row]) -> list[str]:
    cells = [(f"+{output.duration(row.at)}", row.what, row.state, row.took, row.more) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]


def _show_tree(page: Page, rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text
    from rich.tree import Tree

    console = Console(highlight=False)
    head = Text(page.headline, style="bold")
    head.highlight_words([page.state], output.style_of(page.state))
    tree = Tree(head, guide_style="bright_black")
    for line in page.about:
        tree.add(Text(line, style=Style(link=line) if line == page.url else "bright_black"))
    for row, text in zip(rows, _aligned(rows), strict=True):
        label = Text(text, no_wrap=True, overflow="ellipsis")
        label.highlight_words([word for word in (row.state, page.state) if word], _style(row, page))
        if console.width >= _ROOM_FOR_BARS and page.total:
            label.append("  ")
            for part, style in _bar(row, page.total):
                label.append(part, style=style)
        branch = tree.add(label)
        if row.below:
            branch.add(Text(row.below, style="red"))
    console.print(tree)


def _style(row: Row, page: Page) -> str:
    return output.style_of(row.state or page.state)


def _bar(row: Row, total: float) -> list[tuple[str, str]]:
    """Where in the job's time a row is: dots while it waits, a block while it runs."""
    cells = [(" ", "")] * _BAR
    for span, mark, style in ((row.waits, "·", "bright_black"), (row.lasts, "━", _bar_style(row))):
        if span is None:
            continue
        first = min(max(int(span[0] / total * _BAR), 0), _BAR - 1)
        last = min(max(round(span[1] / total * _BAR), first + (mark != "·")), _BAR)
        cells[first:last] = [(mark, style)] * (last - first)
    return [
        ("".join(mark for mark, _ in group), style) for style, group in itertools.groupby(cells, key=lambda c: c[1])
    ]


def _bar_style(row: Row) -> str:
    return output.style_of(row.state) or "green"
