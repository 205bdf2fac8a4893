"""Makes a run the one that the documents quote: `python -m bench.publish bench/results/2026-01-01T00-00-00.json`.

It becomes bench/results/published.json, or published-workflows.json; the tables in docs/performance.md are made from
the two, and the chart from the first.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench import capacity, chart
from bench.results import PUBLISHED, Results

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "images" / "performance.svg"


def renewed(document: str, results: Results) -> str:
    """The document with what stands between its markers made from these results."""
    for name, text in _texts(results).items():
        begin, end = f"<!-- {name}: made by bench.publish -->\n", f"<!-- end of {name} -->"
        before, there, rest = document.partition(begin)
        _, ends, after = rest.partition(end)
        if not there or not ends:
            raise ValueError(f"{DOCUMENT.name} has no place for {name}: it needs {begin!r} and {end!r}")
        document = f"{before}{begin}\n{text}\n\n{end}{after}"
    return document


def _texts(results: Results) -> dict[str, str]:
    """What stands between which markers."""
    if results.suite == "workflows":
        return {"workflows": results.as_markdown()}
    return {"results": results.as_markdown(), "capacity": capacity.render(results)}


def publish(results: Results) -> None:
    results.write(PUBLISHED[results.suite])
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(), results))
    if results.suite == "jobs":
        CHART.parent.mkdir(exist_ok=True)
        CHART.write_text(chart.draw(results))


if __name__ == "__main__":
    publish(Results.read(Path(sys.argv[1])))
