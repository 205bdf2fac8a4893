"""The verbs of `turnout job` against a real server and a real worker, for people and as JSON."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
from pathlib import Path

import attrs
import pytest

from tests.cli.conftest import TURNOUT, Cli, all_of, first_document, has_letter
from tests.support.waiting import until
from turnout import Client, JobInfo

KEYS = {field.name for field in attrs.fields(JobInfo)}


def test_submit_prints_the_id_and_json_the_job(cli: Cli) -> None:
    """A script gets the id alone; with -o json all that is known of the job, keys as in JobInfo."""
    assert cli("job", "submit", "add", '{"a": 1}', "--id", "one").stdout == "one\n"
    info = cli.json("job", "submit", "add", '{"a": 2}', "--label", "customer=42", "--label", "x=y=z", "--priority", "2")
    assert set(info) == KEYS
    assert info["priority"] == 2
    assert "priority" in cli("job", "show", info["id"]).stdout
    assert (info["state"], info["payload"], info["labels"]) == ("queued", {"a": 2}, {"customer": "42", "x": "y=z"})
    submitted = dt.datetime.fromisoformat(info["submitted_at"])
    assert info["submitted_at"].endswith("Z")
    assert abs(dt.datetime.now(dt.UTC) - submitted) < dt.timedelta(minutes=1)


def test_submit_tells_when_nobody_works_on_it(cli: Cli, busy: Cli) -> None:
    """A mistyped activity is remarked on, on stderr, with the names that are known; the job is stored all the same."""
    assert "no node has ever worked on add" in cli("job", "submit", "add", "{}").stderr
    told = busy("job", "submit", "ad", "{}").stderr
    assert "no node has ever worked on ad " in told
    assert "add, assassin" in told
    assert "ever worked" not in busy("job", "submit", "add", '{"a": 1}').stderr


@pytest.mark.parametrize("how", ["argument", "stdin", "file", "none"])
def test_the_payload_comes_from_anywhere(cli: Cli, tmp_path: Path, how: str) -> None:
    """A payload is an argument, standard input, or a file; without one it is the empty object."""
    text = '{"a": 1, "name": "Zoë"}'
    file = tmp_path / "payload.json"
    file.write_text(text, encoding="utf-8-sig")
    given = {"argument": [text], "stdin": ["-"], "file": [f"@{file}"], "none": []}[how]
    info = cli.json("job", "submit", "add", *given, stdin=text)
    assert info["payload"] == ({} if how == "none" else {"a": 1, "name": "Zoë"})


def test_waiting_prints_the_result_or_the_job(busy: Cli) -> None:
    """--wait prints the result for people and the JobInfo as JSON, and exits 0 when the job completed."""
    assert busy("job", "submit", "add", '{"a": 40}', "--wait").stdout == "42\n"
    info = busy.json("job", "submit", "add", '{"a": 1, "b": 1}', "--wait", "--timeout", "60")
    assert set(info) == KEYS
    assert (info["state"], info["result"], info["attempts"][0]["outcome"]) == ("completed", 2, "completed")


def test_a_fault_is_1(busy: Cli) -> None:
    """Whoever waits for a job that faults learns why on stderr, and gets exit code 1; JSON is the JobInfo."""
    told = busy.error("job", "submit", "broken", '{"what": "disk"}', "--id", "fault1", "--wait", code=1)
    assert "no such disk" in told
    assert "turnout job show fault1" in told
    assert "no such disk" in busy.error("job", "result", "fault1", code=1)
    assert busy.json("job", "submit", "broken", "--wait", code=1)["error"]["message"] == "no such codec"
    assert busy.json("job", "follow", "fault1", code=1)["state"] == "faulted"
    assert "faulted" in busy("job", "follow", "fault1", code=1).stdout


def test_a_cancelled_job_is_3(busy: Cli) -> None:
    """cancel stops a running job and keeps the reason; whoever waits for it gets exit code 3."""
    job_id = busy("job", "submit", "slow").stdout.strip()
    busy.until(job_id, lambda info: info.state == "running")
    assert job_id in busy("job", "cancel", job_id, "--reason", "too slow").stdout
    assert busy.error("job", "result", job_id, code=3) == f"job {job_id} was cancelled: too slow\n"
    assert busy.json("job", "follow", job_id, code=3)["reason"] == "too slow"


def test_a_cancel_that_waits_for_the_code_is_seen(busy: Cli) -> None:
    """While a running job's code has not stopped, `show`, `ls` and JSON tell that a cancel was asked for, and why."""
    job_id = busy("job", "submit", "stubborn", '{"seconds": 4}').stdout.strip()
    busy.until(job_id, lambda info: info.state == "running")
    busy("job", "cancel", job_id, "--reason", "by ann")
    assert "a cancel was asked for: by ann" in busy("job", "show", job_id).stdout
    assert re.search(rf"{job_id} +stubborn +cancelling ", busy("job", "ls", "--activity", "stubborn").stdout)
    info = busy.json("job", "show", job_id)
    assert (info["state"], info["cancel_requested"]) == ("running", "by ann")
    ended = busy.until(job_id, lambda info: info.state.final)
    assert (ended.state, ended.cancel_requested) == ("completed", None)


def test_cancelling_several(cli: Cli) -> None:
    """Several ids give an array; one that does not exist is told, and does not keep the others."""
    for job_id in ("a", "b"):
        cli("job", "submit", "add", "{}", "--id", job_id)
    one = cli.json("job", "cancel", "a")
    assert cli.error("job", "result", "a", code=3) == "job a was cancelled\n"
    assert (one["id"], one["state"], one["attempt"]) == ("a", "cancelled", 0)
    several = cli("job", "cancel", "nobody", "b", "-o", "json", code=4)
    assert '"state": "cancelled"' in several.stdout
    assert several.stdout.startswith("[")
    assert "no job nobody" in several.stderr


def test_retry_and_delete(busy: Cli) -> None:
    """retry runs a faulted job again under its id; delete forgets it; neither touches a job in a wrong state."""
    busy("job", "submit", "broken", "--id", "again", "--wait", code=1)
    assert "again" in busy("job", "retry", "again").stdout
    info = busy.json("job", "follow", "again", code=1)
    assert (info["generation"], info["attempt"], info["state"]) == (2, 2, "faulted")
    shown = busy("job", "show", "again").stdout
    assert re.search(r"generation +2", shown)
    busy("job", "retry", "again", "--no-checkpoint")
    assert busy.json("job", "follow", "again", code=1)["generation"] == 3
    assert busy("job", "delete", "again").stdout == "again  deleted\n"
    busy.error("job", "show", "again", code=4)
    busy("job", "submit", "add", '{"a": 1}', "--id", "fine", "--wait")
    assert "only a faulted or cancelled job can be retried" in busy.error("job", "retry", "fine", code=1)
    assert busy.json("job", "delete", "fine") == {"id": "fine", "activity": "add", "deleted": True}


def test_waiting_has_an_end_5(busy: Cli) -> None:
    """When the time to wait is over the exit code is 5 and the job goes on; 0 looks once."""
    job_id = busy("job", "submit", "slow").stdout.strip()
    assert "it goes on" in busy.error("job", "result", job_id, "--timeout", "0.2", code=5)
    assert "it goes on" in busy.error("job", "result", job_id, "--timeout", "0", code=5)
    busy("job", "follow", job_id, "--timeout", "300ms", code=5)
    busy.error("job", "submit", "later", "--wait", "--timeout", "0.3", "-o", "json", code=5)
    assert busy.until(job_id, lambda info: info.state == "running").reason is None
    busy("job", "cancel", job_id)


async def test_what_a_program_answers_with_is_what_is_printed(busy: Cli) -> None:
    """`to_dict()` of jobs, dead letters, nodes and activities is what `-o json` prints, ready for `json.dumps`."""
    busy("job", "submit", "broken", "--id", "plain", "--label", "a=b", "--wait", code=1)
    async with Client.connect(busy.url, namespace=busy.namespace) as client:
        info = await client.job("plain").info()
        await until(lambda: has_letter(client, "plain"))
        letters = [letter.to_dict() async for letter in client.faults(job_id="plain")]
        nodes, activities = await client.nodes(), await client.activities()
    assert json.loads(json.dumps(info.to_dict())) == busy.json("job", "show", "plain")
    assert info.to_dict()["attempts"] == [attempt.to_dict() for attempt in info.attempts]
    assert letters == [busy.json("fault", "show", "plain")]
    assert [node.to_dict()["id"] for node in nodes] == [node["id"] for node in busy.json("node", "ls")]
    assert [each.to_dict() for each in activities] == busy.json("activity", "ls")


@pytest.mark.parametrize("verb", ["show", "follow", "result", "cancel", "retry", "delete"])
def test_an_unknown_job_is_4(busy: Cli, cli: Cli, verb: str) -> None:
    """A job that nobody knows is exit code 4, in a namespace that is there and in one that is not."""
    assert "no job nobody" in busy.error("job", verb, "nobody", "-o", "json", code=4)
    assert "there is no namespace" in cli.error("job", verb, "nobody", code=4)


def test_show_is_what_an_operator_needs(busy: Cli) -> None:
    """show tells state, reason, error with the code's own line, attempts, next attempt, progress, labels and trace."""
    busy("job", "submit", "later", "--id", "waits", "--label", "customer=42")
    busy.until("waits", lambda info: info.state == "retrying")
    shown = busy("job", "show", "waits").stdout
    for word in ("retrying", "ValueError: not yet", 'raise ValueError("not yet")', "customer=42", "(1 failed, 0 lost"):
        assert word in shown
    assert re.search(r"next +\d{4}-.*\(in (59m|1h)\)", shown)
    assert re.search(r"\n1 +faulted +shop-\w+ +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ +\d", shown)
    assert re.search(r"trace +[0-9a-f]{32}\n", shown)
    info = busy.json("job", "show", "waits")
    assert set(info) == KEYS
    assert (info["failures"], info["error"]["type"]) == (1, "ValueError")
    busy("job", "cancel", "waits")


def test_show_tells_why_a_queued_job_waits(cli: Cli) -> None:
    """A job that nobody works on says so."""
    cli("job", "submit", "add", "{}", "--id", "waits")
    assert "no node works on add: start a worker for it" in cli("job", "show", "waits").stdout


def test_complete_and_fail_from_outside(busy: Cli) -> None:
    """A job that is left to others says so, and ends with what is said; a value that does not fit is wrong usage."""
    for job_id in ("signed", "torn"):
        busy("job", "submit", "sign", '{"document": "a"}', "--id", job_id)
        busy.until(job_id, lambda info: info.state == "running" and info.node is None)
    assert "it is completed from outside" in busy("job", "show", "signed").stdout
    assert "by: it must be string" in busy.error("job", "complete", "signed", '{"by": 7}', code=2)
    assert "not in 2" in busy.error("job", "complete", "signed", '{"by": "ann"}', "--attempt", "2", code=1)
    assert "the job is completed" in busy("job", "complete", "signed", '{"by": "ann"}').stdout
    assert busy.json("job", "result", "signed") == {"by": "ann"}
    assert "completed" in busy.error("job", "complete", "signed", '{"by": "bob"}', code=1)
    failed = busy.json("job", "fail", "torn", "the pen broke", "--fatal")
    assert (failed["state"], failed["reason"], failed["error"]["message"]) == ("faulted", "fatal", "the pen broke")
    busy.error("job", "fail", "nobody", code=4)


def test_show_keeps_the_terminal_safe(cli: Cli) -> None:
    """What somebody put into a payload can't move the cursor or change colours."""
    cli("job", "submit", "add", r'{"a": "\u001b[2J\u009b31m"}', "--id", "evil")
    for verb in (["show", "evil"], ["ls"]):
        shown = cli("job", *verb).stdout
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_json_carries_anything(cli: Cli) -> None:
    """Odd characters survive in JSON, whatever the terminal's encoding."""
    text = r'{"a": "\u001b€😀\u2028"}'
    cli("job", "submit", "add", "-", "--id", "odd", stdin=text)
    for env, cold in (({}, False), ({"PYTHONIOENCODING": "latin-1"}, True)):
        shown = cli.json("job", "show", "odd", env=env, cold=cold)
        assert shown["payload"]["a"] == "\x1b€😀\u2028"
    assert "odd" in cli("job", "show", "odd", env={"PYTHONIOENCODING": "ascii"}, cold=True).stdout


def test_ls_filters_and_says_when_there_is_more(cli: Cli) -> None:
    """ls lists newest first, filters, and never cuts off silently."""
    assert cli.json("job", "ls") == []
    for number in range(3):
        cli("job", "submit", "add", "{}", "--id", f"j{number}", "--label", f"n={number}")
    cli("job", "submit", "other", "{}", "--id", "o", "--delay", "1h")
    assert [info["id"] for info in cli.json("job", "ls")] == ["o", "j2", "j1", "j0"]
    assert [info["id"] for info in cli.json("job", "ls", "--activity", "add", "--label", "n=1")] == ["j1"]
    assert [info["state"] for info in cli.json("job", "ls", "--state", "scheduled")] == ["scheduled"]
    assert len(cli.json("job", "ls", "--state", "scheduled", "--state", "queued")) == 4
    assert len(cli.json("job", "ls", "--since", "1h")) == 4
    assert cli.json("job", "ls", "--since", "2100-01-01T00:00:00Z") == []
    some = cli("job", "ls", "--limit", "2")
    assert [line.split()[0] for line in some.stdout.splitlines()] == ["ID", "o", "j2"]
    assert "--limit 0 shows all" in some.stderr
    assert "shows all" not in cli("job", "ls", "--limit", "4").stderr
    for multi in ("1", "4"):
        told = "shows all" in cli("job", "ls", "--state", "queued", "--state", "scheduled", "--limit", multi).stderr
        assert told == (multi == "1")


def test_ls_shows_progress_and_node(busy: Cli) -> None:
    """A running job's line has its node and how far it is."""
    job_id = busy("job", "submit", "slow").stdout.strip()
    busy.until(job_id, lambda info: info.progress is not None)
    listed = busy("job", "ls", "--node", "shop").stdout
    assert re.search(rf"{job_id} +slow +running +1 +shop-\w+ +\d+s +\d+% \d+/600 step \d+", listed)
    busy("job", "cancel", job_id)


def test_reading_creates_nothing(cli: Cli) -> None:
    """A mistyped namespace is remarked on and leaves no streams behind."""
    listed = cli("job", "ls", "-o", "json", "--namespace", "typo")
    assert listed.stdout == "[]\n"
    assert "there is no namespace typo" in listed.stderr
    assert "there is no namespace typo" in cli("node", "ls", "-n", "typo").stderr


def test_a_job_that_is_due_while_all_are_busy_says_so(cli: Cli) -> None:
    """It is scheduled until somebody takes it, but what it waits for is no longer its time."""
    with cli.process("worker", "odd", "-c", "1", "-o", "json") as worker:
        first_document(worker)
        runs = cli("job", "submit", "wait").stdout.strip()
        cli.until(runs, lambda info: info.state == "running")
        later = cli("job", "submit", "wait", "--delay", "1h").stdout.strip()
        due = cli("job", "submit", "wait", "--delay", "1").stdout.strip()
        cli.until(due, lambda info: info.waiting_for is not None)
        states = {line.split()[0]: line for line in cli("job", "ls").stdout.splitlines()}
        assert "scheduled (due)" in states[due]
        assert "scheduled (due)" not in states[later]


def test_options_of_a_submission(cli: Cli) -> None:
    """delay, at and expires-in do what the client's options do; an id that exists is an error or joined."""
    assert cli.json("job", "submit", "add", "{}", "--delay", "1h30m")["state"] == "scheduled"
    assert cli.json("job", "submit", "add", "{}", "--at", "2100-01-01T00:00:00+02:00")["state"] == "scheduled"
    assert cli.json("job", "submit", "add", "{}", "--at", "2000-01-01T00:00:00Z", "--id", "past")["id"] == "past"
    assert cli.json("job", "submit", "add", "{}", "--expires-in", "1d", "--id", "once")["state"] == "queued"
    taken = cli.error("job", "submit", "add", "{}", "--id", "once", code=1)
    assert "job once exists already (activity add): choose another id" in taken
    assert taken.rstrip().endswith("with --if-exists join or replace")
    assert cli.json("job", "submit", "add", "{}", "--id", "once", "--if-exists", "join")["id"] == "once"


def test_following_prints_a_line_for_each_change(busy: Cli) -> None:
    """In a pipe follow prints plain lines with the progress, and the result last."""
    lines = busy("job", "submit", "slow", '{"seconds": 0.5}', "--follow").stdout.splitlines()
    assert lines[-1] == '"done"'
    assert "completed" in lines[-2]
    assert all(re.match(r"\d\d:\d\d:\d\dZ \w+", line) for line in lines[:-1])
    assert "step" in "".join(lines)


def test_following_draws_a_bar_on_a_terminal(busy: Cli) -> None:
    """On a terminal follow draws a progress bar."""
    job_id = busy("job", "submit", "slow").stdout.strip()
    with busy.on_a_terminal("job", "follow", job_id) as (process, terminal):
        shown = b""
        while b"slow running" not in shown or "━".encode() not in shown:
            shown += os.read(terminal, 65536)
        busy("job", "cancel", job_id)
        assert "was cancelled" in all_of(terminal)
        assert process.wait(30) == 3


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_no_colours_where_they_are_not_wanted(cli: Cli, env: dict[str, str]) -> None:
    """With NO_COLOR, and on a dumb terminal, tables and checks have no colours; on others they have."""
    cli("job", "submit", "add", "{}")
    for line in (["job", "ls", "--state", "queued"], ["job", "ls", "--state", "cancelled"], ["doctor"]):
        assert "\x1b" not in on_a_terminal(cli, line, env)
    assert "\x1b" in on_a_terminal(cli, ["doctor"], {})


def test_following_draws_nothing_on_a_dumb_terminal(busy: Cli) -> None:
    """A terminal that can't move its cursor gets lines."""
    shown = on_a_terminal(busy, ["job", "submit", "slow", '{"seconds": 0.3}', "--follow"], {"TERM": "dumb"})
    assert "\x1b" not in shown
    assert re.search(r"\d\d:\d\d:\d\dZ completed", shown)


def on_a_terminal(cli: Cli, line: list[str], env: dict[str, str]) -> str:
    """What a command prints on one."""
    with cli.on_a_terminal(*line, env=env) as (_, terminal):
        return all_of(terminal)


def test_options_in_front_of_the_verb(cli: Cli, server: object) -> None:
    """The common options are taken in front of the verb as well; the one nearest to it wins."""
    nowhere = {"NATS_URL": "nats://127.0.0.1:1"}
    done = cli("-o", "json", "--server", cli.url, "job", "--namespace", cli.namespace, "submit", "add", env=nowhere)
    assert '"state": "queued"' in done.stdout
    both = cli("-o", "json", "-n", "wrong", "job", "ls", "-o", "table", "-n", cli.namespace)
    assert both.stdout.startswith("ID")


def test_a_reader_that_has_enough(cli: Cli) -> None:
    """A pipe that closes early ends a listing, or what follows a job, without a traceback and with exit code 0."""
    cli("job", "submit", "add", "-", stdin='{"a": "' + "x" * 300_000 + '"}')
    line = f"set -o pipefail; {' '.join(TURNOUT)} job ls -o json | head -c 5"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=cli.env, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_has_seen_enough_of_a_job(busy: Cli) -> None:
    """`follow | head` is no error: nobody reads on, so nothing is followed."""
    line = f"set -o pipefail; {' '.join(TURNOUT)} job submit slow '{{\"seconds\": 600}}' --follow --id headed | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=busy.env, check=False, timeout=90)
    assert (done.returncode, done.stderr) == (0, "job headed submitted\n")
    busy("job", "cancel", "headed")


def test_jobs_that_wait_are_let_past_others(cli: Cli) -> None:
    """set-priority and run-now act on each job that waits; of one that can't be meant the exit code tells."""
    cli("job", "submit", "add", "{}", "--id", "waits")
    cli("job", "submit", "add", "{}", "--id", "later", "--delay", "1h")
    assert cli("job", "set-priority", "2", "waits", "later").stdout == (
        "waits  queued, priority 2\nlater  scheduled, priority 2\n"
    )
    shown = cli.json("job", "run-now", "later")
    assert (shown["priority"], shown["waiting_for"]["kind"]) == (1, "node")  # for its time no longer
    assert [job["id"] for job in cli.json("job", "ls", "--state", "scheduled")] == ["later"]
    cli("job", "cancel", "waits")
    for verb in (("set-priority", "1"), ("run-now",)):
        assert "only a job that waits has a priority" in cli.error("job", *verb, "waits", code=1)
        cli.error("job", *verb, "nobody", code=4)
    cli.error("job", "set-priority", "6", "later", code=2)
    cli.error("job", "run-now", code=2)
