"""`turnout job trace`: a job's attempts as a tree, from its record alone."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from tests.cli.conftest import Cli, all_of, first_document
from tests.support.otlp import OtlpReceiver
from turnout import AttemptInfo, JobInfo, Waiting
from turnout.cli import traceview
from turnout.core.failure import ErrorInfo
from turnout.core.record import JobState, Outcome
from turnout.testing.server import NatsServer

SUBMITTED = 1_700_000_000.0


@pytest.fixture(scope="module")
def moody(server: NatsServer) -> Iterator[Cli]:
    """In a namespace with a worker for modules/moody.py."""
    cli = Cli(server.url, "moody")
    with cli.process("worker", "moody", "--name", "m", "--grace", "0", "-o", "json") as worker:
        first_document(worker)
        yield cli


@pytest.fixture(scope="module")
def tried(moody: Cli) -> str:
    """A job that has failed once and completed then."""
    return str(moody.json("job", "submit", "second_time", "--wait")["id"])


def test_every_attempt_has_its_lines(moody: Cli, tried: str) -> None:
    """Submission, attempts with waits and durations, the error of the one that failed, the delay, the end."""
    lines = moody("job", "trace", tried).stdout.splitlines()
    assert re.fullmatch(rf"{tried}  second_time  completed after [\d.]+m?s", lines[0])
    assert re.fullmatch(r"  trace [0-9a-f]{32}", lines[1])
    shown = [re.sub(r" +", " ", re.sub(r"[\d.]+m?s\b", "T", line)).strip() for line in lines[2:]]
    node = next(word for word in lines[3].split() if word.startswith("m-")).rstrip(",")
    assert shown[0].startswith("+T submitted 20")
    assert shown[1:] == [
        f"+T attempt 1 faulted T on {node}, waited T",
        "ValueError: not [bold]yet[/]",
        "+T delay T",
        f"+T attempt 2 completed T on {node}, waited T",
        "+T completed",
    ]


def test_json_is_the_tree(moody: Cli, tried: str) -> None:
    """One document with instants and durations that add up; without a collector there are no span ids."""
    found = moody.json("job", "trace", tried)
    info = moody.json("job", "show", tried)
    assert {key: found[key] for key in ("id", "activity", "state", "trace_id", "submitted_at", "finished_at")} == {
        key: info[key] for key in ("id", "activity", "state", "trace_id", "submitted_at", "finished_at")
    }
    first, second = found["attempts"]
    assert [(each["number"], each["outcome"], each["generation"]) for each in found["attempts"]] == [
        (1, "faulted", 1),
        (2, "completed", 1),
    ]
    assert first["error"] == {"type": "ValueError", "message": "not [bold]yet[/]"}
    assert (first["delay"], second["error"], first["span_id"], second["linked_to"]) == (0.0, None, None, None)
    assert second["delay"] == pytest.approx(0.5, abs=0.05)
    assert second["offset"] == pytest.approx(
        first["offset"] + first["duration"] + second["delay"] + second["queue_wait"], abs=0.001
    )
    assert found["duration"] >= second["offset"] + second["duration"] - 0.001
    assert found["url"] is None


def test_the_link_to_jaeger(moody: Cli, tried: str) -> None:
    """Where Jaeger's pages are known there is a link to the trace; what is no address is a usage error."""
    trace_id = moody.json("job", "show", tried)["trace_id"]
    link = f"http://jaeger:16686/trace/{trace_id}"
    assert moody.json("job", "trace", tried, "--jaeger", "http://jaeger:16686/")["url"] == link
    assert link in moody("job", "trace", tried, env={"TURNOUT_JAEGER_URL": "http://jaeger:16686"}).stdout.split()
    assert "no address" in moody.error("job", "trace", tried, "--jaeger", "jaeger", code=2)


def test_with_a_collector_there_are_span_ids(cli: Cli) -> None:
    """The span ids are those that the collector got: what is seen here can be found there."""
    with OtlpReceiver() as collector:
        with cli.process("worker", "moody", "-o", "json", env=collector.environment) as worker:
            first_document(worker)
            job_id = cli.json("job", "submit", "second_time", "--wait", env=collector.environment)["id"]
            spans = collector.wait_for(lambda spans: [span.kind for span in spans].count("CONSUMER") == 2)
        attempts = cli.json("job", "trace", job_id)["attempts"]
    sent = {span.attributes["turnout.job.attempt"]: span.span_id for span in spans if span.kind == "CONSUMER"}
    assert {each["number"]: each["span_id"] for each in attempts} == sent
    assert [each["linked_to"] for each in attempts] == [None, sent[1]]


def test_a_running_attempt_grows(moody: Cli) -> None:
    """Of a job that runs the trace goes up to now."""
    job_id = moody("job", "submit", "second_time", '{"seconds": 60}').stdout.strip()
    moody.until(job_id, lambda info: info.state == "running")
    assert re.search(r"attempt 1  +running  +[\d.]+m?s so far", moody("job", "trace", job_id).stdout)
    first, second = (moody.json("job", "trace", job_id)["attempts"][0]["duration"] for _ in range(2))
    assert 0 < first < second
    moody("job", "cancel", job_id)


def test_what_waits_says_for_what(cli: Cli, busy: Cli) -> None:
    """A queued job waits for a worker, a scheduled and a retrying one for their time."""
    queued = cli("job", "submit", "add").stdout.strip()
    assert re.search(r"waits  +queued  +[\d.]+m?s so far +for a worker", cli("job", "trace", queued).stdout)
    scheduled = cli("job", "submit", "add", "--delay", "1h").stdout.strip()
    assert re.search(r"delay  +scheduled  +until 20.*Z, in 59m", cli("job", "trace", scheduled).stdout)
    retried = busy("job", "submit", "later").stdout.strip()
    busy.until(retried, lambda info: info.state == "retrying")
    assert re.search(r"delay  +retrying  +until 20.*Z, in 59m", busy("job", "trace", retried).stdout)
    busy("job", "cancel", retried)
    assert "cancelled" in busy("job", "trace", retried).stdout.splitlines()[-1]


def test_no_such_job_is_4(moody: Cli) -> None:
    """What does not exist is told as by every verb."""
    assert "nobody" in moody.error("job", "trace", "nobody", code=4)


def test_a_terminal_gets_a_tree_with_bars(moody: Cli, tried: str) -> None:
    """On a terminal the lines hang together, and a bar shows where the time went; an error's brackets are no markup."""
    wide = {"TERM": "xterm-256color", "COLUMNS": "130"}
    with moody.on_a_terminal("job", "trace", tried, env=wide) as (process, terminal):
        shown = all_of(terminal)
        assert process.wait(30) == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", shown)
    for word in ("├── ", "└── ", "│   └── ValueError: not [bold]yet[/]", "━━", "··"):
        assert word in text, text


# --- stories that take too long to wait for --------------------------------------------------------------------------


def attempt(number: int, begun: float, ended: float | None, outcome: Outcome, **others: Any) -> AttemptInfo:
    start, end = (None if at is None else dt.datetime.fromtimestamp(SUBMITTED + at, dt.UTC) for at in (begun, ended))
    assert start is not None
    return AttemptInfo(number=number, node=f"n{number}", outcome=outcome, started_at=start, ended_at=end, **others)


def job(attempts: list[AttemptInfo], **others: Any) -> JobInfo:
    empty: dict[str, Any] = {field.name: None for field in attrs.fields(JobInfo)}
    facts = {
        "id": "a",
        "activity": "add",
        "state": JobState.completed,
        "attempt": attempts[-1].number,
        "suspect": False,
        "trace_id": "ab" * 16,
        "submitted_at": dt.datetime.fromtimestamp(SUBMITTED, dt.UTC),
        "finished_at": attempts[-1].ended_at,
        "attempts": attempts,
    }
    return JobInfo(**(empty | facts | others))


def shown(info: JobInfo, now: float, capsys: pytest.CaptureFixture[str]) -> list[str]:
    traceview.show(traceview.trace_of(info, SUBMITTED + now, None), SUBMITTED + now)
    return [re.sub(r" +", " ", line).strip() for line in capsys.readouterr().out.splitlines()]


def test_a_loss_and_a_retry_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """A lost attempt is shown as such, the next one waited from when the loss was counted; a retry is somebody's."""
    lost = attempt(1, 1.0, 11.0, Outcome.lost, error=ErrorInfo("NodeLost", "node n1 vanished\nreally"))
    fails = attempt(2, 12.0, 20.0, Outcome.faulted, error=ErrorInfo("ValueError", "no"))
    due = dt.datetime.fromtimestamp(SUBMITTED + 3620.0, dt.UTC)
    again = attempt(3, 3625.0, 3630.0, Outcome.completed, generation=2, due_at=due)
    assert shown(job([lost, fails, again]), 4000.0, capsys)[2:] == [
        "+0ms submitted 2023-11-14 22:13:20Z",
        "+1.0s attempt 1 lost 10s on n1, waited 1.0s",
        "NodeLost: node n1 vanished really",
        "+12s attempt 2 faulted 8.0s on n2, waited 1.0s",
        "ValueError: no",
        "+20s retried 1h00m by somebody, after that",
        "+1h00m attempt 3 completed 5.0s on n3, waited 5.0s",
        "+1h00m completed",
    ]


def test_what_is_not_kept_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the first of very many attempts only their number is left; how long the next one waited is unknown."""
    lines = shown(job([attempt(51, 100.0, 101.0, Outcome.completed)]), 200.0, capsys)
    assert "(50 earlier attempts are not kept)" in lines
    assert "+1m40s attempt 51 completed 1.0s on n51" in lines


def test_a_suspect_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """An attempt whose node is silent shows as suspect, and goes on until somebody knows."""
    info = job([attempt(1, 0.0, None, Outcome.running)], state=JobState.running, suspect=True)
    assert "+0ms attempt 1 suspect 42s so far on n1, waited 0ms" in shown(info, 42.0, capsys)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("limit", "tenant:42", "for the limit tenant:42"),
        ("node", "region=north", "for a node with region=north"),
        ("node", "add", "for a worker"),
        ("paused", "add", "while add is paused"),
        ("slot", "add", "for a worker"),
    ],
)
def test_what_it_waits_for_is_named(kind: str, name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker with room would not help where a limit is full, no node has what it takes, or somebody has paused."""
    waiting = Waiting(kind=kind, name=name, since=dt.datetime.fromtimestamp(SUBMITTED, dt.UTC))
    info = job([attempt(1, 0.0, 2.0, Outcome.aborted)], state=JobState.queued, finished_at=None, waiting_for=waiting)
    assert shown(info, 12.0, capsys)[-1] == f"+2.0s waits queued 10s so far {said}"
