"""docs/performance.md quotes a run; nothing in it was typed by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench import chart
from bench.publish import CHART, DOCUMENT, renewed
from bench.results import PUBLISHED, Results
from tests.support.markdown import ROOT


@pytest.mark.parametrize("suite", PUBLISHED)
def test_the_tables_are_those_of_the_published_run(suite: str) -> None:
    """The tables in docs/performance.md are exactly what bench.publish makes of the runs that are committed."""
    document = DOCUMENT.read_text()
    results = Results.read(PUBLISHED[suite])
    assert results.suite == suite
    assert renewed(document, results) == document
    command = [sys.executable, "-m", "bench.results", "--render", str(PUBLISHED[suite])]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"\n{printed.strip()}\n" in document


def test_the_chart_is_that_of_the_published_run() -> None:
    """The chart draws the same figures."""
    assert chart.draw(Results.read(PUBLISHED["jobs"])) == CHART.read_text()


@pytest.mark.parametrize("suite", PUBLISHED)
def test_the_published_run_is_whole(suite: str) -> None:
    """It has measured all that there is to measure."""
    assert not Results.read(PUBLISHED[suite]).failed
