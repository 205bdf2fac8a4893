"""The dashboard, the alerts and the guide to them: in the form that their readers accept, and about what there is.

That a worker really shows each metric they name is shown by tests/cli/test_metrics.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from turnout.core.failure import FaultReason
from turnout.telemetry import metrics
from turnout.telemetry.counts import NAMES_MAX
from turnout.telemetry.workflow_metrics import REASONS

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "turnout.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
GUIDE = ROOT / "docs" / "howto" / "monitor.md"
ROW = re.compile(r"^\| `(turnout\.[\w.]+)` \| ([\w -]+?) \| ([\w, ]*?) ?\| (.+) \|$", re.M)


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    yield from re.findall(r"^\s+expr: (.+)$", ALERTS.read_text(), re.M)


def test_grafana_accepts_the_dashboard() -> None:
    """It has what Grafana needs: a schema version, panels that do not overlap, and a query for each."""
    board = dashboard()
    assert board["schemaVersion"] >= 36
    assert (board["title"], board["uid"]) == ("turnout", "turnout")
    assert "id" not in board, "an id belongs to one Grafana"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("timeseries", "stat")
        refs = [target["refId"] for target in panel["targets"]]
        assert refs
        assert len(set(refs)) == len(refs)
        assert all(target["expr"].strip() for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_the_data_source_is_a_variable() -> None:
    """Nothing names the Prometheus of whoever drew it."""
    [source, activity] = dashboard()["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    assert activity["datasource"] == wanted
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == wanted
            assert all(target["datasource"] == wanted for target in panel["targets"])


def test_the_dashboard_leaves_no_metric_out() -> None:
    """Each metric that there is has its place on the dashboard."""
    text = "\n".join(expressions())
    missing = [
        metric.name for metric in metrics.METRICS if not re.search(rf"\b{metric.name.replace('.', '_')}(_|\b)", text)
    ]
    assert not missing


def test_queries_are_whole() -> None:
    """Brackets close, and a range is asked of counters and histograms only, a plain value of the others."""
    kinds = {metric.name.replace(".", "_"): metric.kind for metric in metrics.METRICS}
    for expression in expressions():
        for opening, closing in ("()", "[]", "{}"):
            assert expression.count(opening) == expression.count(closing), expression
        for name in re.findall(r"\bturnout_\w+", expression):
            base = next(known for known in sorted(kinds, key=len, reverse=True) if name.startswith(known))
            ranged = re.search(rf"\b{name}(?:\{{[^}}]*\}})?\[", expression) is not None
            assert ranged == (kinds[base] in ("counter", "histogram")), expression


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    """Each alert has a query, a severity, a summary and a description, in the form of a Prometheus rule file."""
    text = ALERTS.read_text()
    assert re.match(r"(#.*\n)*groups:\n  - name: turnout\n    rules:\n", text)
    rules = re.split(r"^      - alert: ", text, flags=re.M)[1:]
    assert len(rules) >= 4
    for rule in rules:
        name = rule.split("\n")[0]
        assert re.fullmatch(r"Turnout[A-Z]\w+", name)
        keys = re.findall(r"^ {8}(\w+):", rule, re.M)
        assert [key for key in keys if key != "for"] == ["expr", "labels", "annotations"], name
        assert re.search(r"^ {10}severity: (warning|critical)$", rule, re.M), name
        assert re.findall(r"^ {10}(summary|description): \S", rule, re.M) == ["summary", "description"], name
        for told in re.findall(r"^ {10}(?:summary|description): (.*)$", rule, re.M):
            assert ": " not in told, "YAML would read that as another key"


def test_the_guide_explains_each_metric() -> None:
    """Its table has every metric once, with its type and labels as in the code, and something to do about it."""
    rows = {name: (kind, labels, about) for name, kind, labels, about in ROW.findall(GUIDE.read_text())}
    assert set(rows) == {metric.name for metric in metrics.METRICS}
    for metric in metrics.METRICS:
        kind, labels, about = rows[metric.name]
        assert kind == metric.kind
        assert tuple(label for label in labels.split(", ") if label) == metric.labels, metric.name
        assert len(about) > 20
    for reason in (*FaultReason, *metrics.LEASE_REASONS):
        assert f"`{reason}`" in rows["turnout.jobs.faulted"][2] + rows["turnout.lease.failures"][2]
    for reason in REASONS:
        assert f"`{reason}`" in rows["turnout.workflows.stuck"][2]
    assert f"beyond {NAMES_MAX} names" in GUIDE.read_text()
