"""bench/ works: each part measures something, at sizes that say nothing of speed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

from bench import capacity, chart, failover, idle, profile, replicas, running, waiting
from bench.results import Results, machine, now
from bench.run import PARTS, name, run
from bench.sizes import Sizes
from bench.table import Aim, Row, as_json, as_markdown, from_json
from tests.support.markdown import ROOT

TINY = Sizes(rounds=1, jobs=40, window_s=1, idle_s=1)

HOLDS = {"spans", "running_lost"}
"""No span is dropped and no lease is lost, however few jobs there are, and however slow the machine is."""


WAITING = (failover, waiting, idle, running, replicas)
"""These mostly wait; they begin first, and the others run beside them."""


@pytest.fixture(scope="module")
def measuring() -> Iterator[dict[str, Future[list[Row]]]]:
    with ThreadPoolExecutor(max_workers=3) as pool:
        yield {name(part): pool.submit(part.measured, TINY) for part in dict.fromkeys((*WAITING, *PARTS))}


@pytest.mark.timeout(600)  # the first one waits for those that wait
@pytest.mark.parametrize("part", [name(part) for part in PARTS])
def test_a_part_measures(part: str, measuring: dict[str, Future[list[Row]]]) -> None:
    """Each part runs on real servers and workers, and all its figures are there; what holds at any size is reached."""
    rows = measuring[part].result()
    assert rows
    for row in rows:
        assert len(row.rounds) == TINY.rounds
        assert len(row.against) in (0, TINY.rounds)
        assert row.value >= 0
        assert from_json(as_json(row)) == row
        assert row.reached or row.key not in HOLDS
    assert len({row.key for row in rows}) == len(rows)
    assert len(as_markdown(rows).splitlines()) == len(rows) + 2


def results(*rows: Row) -> Results:
    return Results(at=now(), machine=machine(), sizes=TINY, rows=rows)


def row(**values: Any) -> Row:
    usual = Row(key="drain", work="drain", unit="jobs/s", rounds=[60, 50, 70], against=[100, 50, 200])
    return attrs.evolve(usual, **values)


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    """Each round is compared with its own neighbour, and the aim with the median of these ratios."""
    assert row().ratios == [0.6, 1.0, 0.35]
    assert row().ratio == 0.6
    assert row(aim=Aim(least=0.6)).reached is True
    assert row(aim=Aim(most=0.5)).reached is False
    assert row(aim=Aim(of="value", least=60, most=60)).reached is True
    assert row().reached is None
    assert "MISSED" in as_markdown([row(aim=Aim(least=0.61))])


def test_the_chart_draws_ratios_and_limits() -> None:
    """A missed aim shows in another colour; what is aimed at nothing is not drawn, and all text is escaped."""
    missed, limit = row(aim=Aim(least=0.9)), row(work="a < b", aim=Aim(of="value", most=100))
    drawn = chart.draw(results(missed, limit, row(work="aimless")))
    assert drawn.count('class="missed"') == 1
    assert drawn.count('class="reached"') == 1
    assert "a &lt; b" in drawn
    assert "aimless" not in drawn


def test_capacity_needs_what_is_measured() -> None:
    """What the arithmetic is made from are rows that the parts measure."""
    source = (ROOT / "bench" / "capacity.py").read_text()
    wanted = set(re.findall(r"(?:value|results\.row)\(\"(\w+)\"\)", source))
    written = "".join(path.read_text() for path in (ROOT / "bench").glob("*.py"))
    assert wanted
    assert {key for key in wanted if f'"{key}"' not in written.replace(source, "")} <= {"idle_messages_1"}
    assert capacity.rough(12_345, "us") == "12,000 us"
    assert capacity.bytes_(3_640_000_000) == "3.6 GB"


def test_a_part_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The failed part is named, the others' rows are written all the same."""
    monkeypatch.setattr("bench.run.FOLDER", tmp_path)
    broken, fine = ModuleType("bench.broken"), ModuleType("bench.fine")
    vars(broken)["measured"] = lambda _: 1 / 0
    vars(fine)["measured"] = lambda _: [row()]
    found = run([broken, fine], TINY)
    assert found.failed == ("broken",)
    assert "Could not be measured: broken." in found.as_markdown()
    (written,) = tmp_path.glob("*.json")
    assert Results.read(written) == found


def test_samples_count_for_our_innermost_module() -> None:
    """A stack counts for the innermost module of ours; other threads do not count, the loop has a line of its own."""
    program = "thread (1): MainThread;main (turnout/cli/main.py:9)"
    stacks = [
        f"{program};run (asyncio/runners.py:1);execute (turnout/worker/executor.py:7);dumps (json.py:2) 3",
        f"{program};run (asyncio/runners.py:1) 1",
        "thread (2): turnout-leases;keep (turnout/worker/leases.py:3) 9",
    ]
    assert profile.shares("\n".join(stacks)) == {"worker/executor.py": 0.75, profile.ELSEWHERE: 0.25}


def test_every_program_explains_itself() -> None:
    """`--help` works for all of it and for a part alone."""
    for module in ("bench", "bench.drain", "bench.waiting", "bench.results", "bench.profile"):
        done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, check=True)
        assert b"usage:" in done.stdout
