"""`turnout job count`, and acting on all jobs that match."""

from __future__ import annotations

import os

import pytest

from tests.cli.conftest import Cli


def submit(cli: Cli, *ids: str, activity: str = "add", label: str = "batch=1") -> None:
    for job_id in ids:
        cli("job", "submit", activity, "{}", "--id", job_id, "--label", label)


def states(cli: Cli, *filters: str) -> dict[str, int]:
    counts: dict[str, int] = cli.json("job", "count", *filters)
    return {state: number for state, number in counts.items() if number}


def test_counting(cli: Cli) -> None:
    """count says how many are in each state, of those that match; as JSON every state has its number."""
    submit(cli, "a", "b")
    submit(cli, "c", activity="slow", label="batch=2")
    cli("job", "cancel", "c")
    assert cli.json("job", "count") == {
        **dict.fromkeys(["scheduled", "running", "retrying", "completed", "faulted"], 0),
        "queued": 2,
        "cancelled": 1,
    }
    assert states(cli, "--label", "batch=2") == {"cancelled": 1}
    assert states(cli, "--activity", "add", "--since", "1h", "--state", "queued") == {"queued": 2}
    assert states(cli, "--error", "ValueError") == {}
    assert cli("job", "count").stdout.split() == ["STATE", "JOBS", "queued", "2", "cancelled", "1", "all", "3"]


def test_cancelling_and_deleting_what_matches(cli: Cli) -> None:
    """A filter takes all that match, once somebody says yes; the number is told."""
    submit(cli, "a", "b")
    submit(cli, "c", label="batch=2")
    assert "add --yes" in cli.error("job", "cancel", "--label", "batch=1", code=2)
    assert states(cli) == {"queued": 3}
    done = cli("job", "cancel", "--label", "batch=1", "--reason", "wrong files", "--yes")
    assert done.stdout == "2 jobs cancelled\n"
    assert cli.json("job", "show", "b")["reason"] == "wrong files"
    assert cli.json("job", "delete", "--state", "cancelled", "--activity", "add", "--yes") == {"deleted": 2}
    assert states(cli) == {"queued": 1}


def test_retrying_what_matches(busy: Cli) -> None:
    """retry takes faulted and cancelled jobs by their error or label, and fault replay by a label, too."""
    for job_id in ("r1", "r2"):
        busy("job", "submit", "moody", "--id", job_id, "--label", "round=1", "--wait", code=1)
    busy("job", "submit", "broken", "--id", "r3", "--label", "round=1", "--wait", code=1)
    busy.until_dead("r3")
    assert busy.json("job", "retry", "--label", "round=1", "--error", "ValueError", "--yes") == {"retried": 2}
    for job_id in ("r1", "r2"):
        busy("job", "follow", job_id)
    assert states(busy, "--label", "round=1") == {"completed": 2, "faulted": 1}
    assert busy.json("fault", "replay", "--label", "round=1") == {"replayed": 1}
    assert busy.json("fault", "replay", "--label", "round=2") == {"replayed": 0}


@pytest.mark.parametrize(
    "line",
    [
        "job cancel",
        "job cancel one --label a=b --yes",
        "job delete --state queued --yes",
        "job delete --unbegun --state completed --yes",
        "job delete --unbegun --yes",
        "job delete --unbegun one --label a=b --yes",
        "job retry --state completed --yes",
        "job cancel --reason x --yes",
        "job count --state odd",
    ],
)
def test_what_is_meant_must_be_clear(cli: Cli, line: str) -> None:
    """Without ids and filters, with both, and for states that can't be meant: a wrong usage, and nothing is done."""
    submit(cli, "one")
    cli.error(*line.split(), code=2)
    assert states(cli) == {"queued": 1}


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, {"cancelled": 2}), (b"n\n", 1, {"queued": 2})])
def test_a_terminal_is_asked_first(cli: Cli, answer: bytes, code: int, left: dict[str, int]) -> None:
    """On a terminal the number of jobs is told and asked about; a no leaves them as they are."""
    submit(cli, "a", "b")
    with cli.on_a_terminal("job", "cancel", "--label", "batch") as (process, terminal):
        shown = b""
        while b"cancel 2 jobs? [y/N]" not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, answer)
        assert process.wait(30) == code
    assert states(cli) == left


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, 0), (b"n\n", 1, 1)])
def test_so_it_is_before_a_replay(busy: Cli, answer: bytes, code: int, left: int) -> None:
    """The number of dead letters' jobs is told and asked about where somebody can answer; --yes asks nobody."""
    job_id = f"asked-{code}"
    busy("job", "submit", "broken", "--id", job_id, "--label", f"asked={code}", "--wait", code=1)
    with busy.on_a_terminal("fault", "replay", "--label", f"asked={code}") as (process, terminal):
        shown = b""
        while b"replay 1 job? [y/N]" not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, answer)
        assert process.wait(30) == code
    assert busy.json("job", "show", job_id)["generation"] == 2 - left
    busy("job", "follow", job_id, code=1)
    assert busy.json("fault", "replay", "--label", f"asked={code}", "--yes") == {"replayed": 1}


def test_workflows_that_match(cli: Cli) -> None:
    """cancel and terminate take all open workflows that match, once somebody says yes; the number is told."""
    for number in range(4):
        cli("workflow", "start", "approval", "{}", "--id", f"w{number}", "--label", f"half={number // 2}")
    assert "add --yes" in cli.error("workflow", "terminate", "--label", "half=1", code=2)
    cli("workflow", "terminate", "w3")
    assert cli("workflow", "terminate", "--label", "half=1", "--reason", "wrong", "--yes").stdout == (
        "1 workflow terminated\n"
    )
    assert cli.json("workflow", "show", "w2")["reason"] == "wrong"
    assert cli.json("workflow", "cancel", "--name", "approval", "--since", "1h", "--yes") == {"cancelled": 2}
    assert cli.json("workflow", "cancel", "--name", "other", "--yes") == {"cancelled": 0}
    for line in ("cancel", "cancel w1 --name approval --yes", "terminate --state completed --yes", "cancel --yes"):
        cli.error("workflow", *line.split(), code=2)
