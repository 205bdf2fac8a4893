"""`turnout workflow`: the verbs, beside a real worker process that loads a module's workflows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def worker(cli: Cli) -> Iterator[None]:
    """A worker process for tests/cli/modules/flows.py."""
    with cli.process("worker", "flows", "-o", "json") as process:
        told = "".join(iter(process.stdout.readline, "}\n")) + "}"
        facts = json.loads(told)
        assert set(facts["workflows"]) == {
            "doubled",
            "doubled_here",
            "approval",
            "broken",
            "failing",
            "napping",
            "Basket",
        }
        assert facts["activities"] == ["double"]
        yield


def eventually(ask: Callable[[], Any], so: Callable[[Any], bool]) -> Any:
    """What `ask` gives as soon as it is so."""
    deadline = time.monotonic() + 120
    while not so(answer := ask()):
        assert time.monotonic() < deadline, answer
    return answer


@pytest.mark.usefixtures("worker")
def test_a_workflow_from_its_start_to_its_result(cli: Cli) -> None:
    """`start --wait` prints the result, `result` prints it again, and `history` has every event."""
    done = cli("workflow", "start", "doubled", '{"number": 21}', "--id", "d-1", "--wait")
    assert done.stdout.strip() == "42"
    assert cli("workflow", "result", "d-1").stdout.strip() == "42"
    kinds = [event["kind"] for event in cli.json("workflow", "history", "d-1")]
    assert kinds[0] == "started"
    assert "ask_activity" in kinds
    assert kinds[-1] == "completed"
    assert cli("workflow", "history", "d-1", "-o", "jsonl").stdout.count("\n") >= 2
    assert "double" in cli("workflow", "history", "d-1").stdout
    assert cli.json("workflow", "show", "d-1")["state"] == "completed"
    (job,) = cli.json("job", "ls", "--workflow", "d-1")
    assert (job["activity"], job["workflow"], job["result"]) == ("double", "d-1", 42)
    assert cli.json("job", "ls", "--workflow", "another") == []


@pytest.mark.usefixtures("worker")
def test_what_it_waits_for_is_shown_and_a_signal_lets_it_go_on(cli: Cli) -> None:
    """`show` names the signal and the line of code that waits; `ls` finds it by state, name and label."""
    cli("workflow", "start", "approval", '{"amount": 7}', "--id", "a-1", "--label", "region=eu")
    taken = cli.error("workflow", "start", "approval", "--id", "a-1", code=1)
    assert taken.rstrip().endswith("or start it with --if-exists join or replace")
    info = eventually(lambda: cli.json("workflow", "show", "a-1"), lambda found: bool(found["waiting"]))
    (waiting,) = info["waiting"]
    assert (waiting["kind"], waiting["name"]) == ("signal", "decide")
    assert "flows.py:" in waiting["code"]
    assert info["details"] == "waits for a word on 7"
    assert "decide" in cli("workflow", "show", "a-1").stdout
    listed = cli.json("workflow", "ls", "--state", "running", "--name", "approval", "--label", "region=eu")
    assert [each["id"] for each in listed] == ["a-1"]
    assert cli.json("workflow", "ls", "--label", "region=us") == []
    cli("workflow", "signal", "a-1", "decide", '{"say": "yes"}')
    assert cli("workflow", "result", "a-1", "--timeout", "60").stdout.strip() == '"7: yes"'


@pytest.mark.usefixtures("worker")
def test_how_it_ended_is_the_exit_code(cli: Cli) -> None:
    """A faulted one exits with 1, a cancelled or terminated one with 3, an unknown one with 4, a late one with 5."""
    assert "out of stock" in cli.error("workflow", "start", "failing", "--wait", code=1)
    for verb in ("cancel", "terminate"):
        cli("workflow", "start", "approval", '{"amount": 1}', "--id", f"x-{verb}")
        assert cli.error("workflow", "result", f"x-{verb}", "--timeout", "0", code=5)
        cli("workflow", verb, f"x-{verb}", "--reason", "no money")
        assert "no money" in cli.error("workflow", "result", f"x-{verb}", code=3)
    assert "nothing" in cli.error("workflow", "show", "nothing", code=4)
    assert "nothing" in cli.error("workflow", "signal", "nothing", "decide", code=4)
    done = cli("workflow", "cancel", "x-cancel", "nothing", code=1)
    assert "nothing" in done.stderr


@pytest.mark.usefixtures("worker")
def test_a_stuck_one_says_why(cli: Cli) -> None:
    """Our own trouble is no end of the workflow: it is stuck, and `show` has the error with its traceback."""
    cli("workflow", "start", "broken", "--id", "b-1")
    info = eventually(lambda: cli.json("workflow", "show", "b-1"), lambda found: found["state"] == "stuck")
    assert info["error"]["type"] == "ZeroDivisionError"
    assert "a bug of ours" in info["error"]["traceback"]
    cli("workflow", "terminate", "b-1")
    cli("workflow", "delete", "b-1")
    assert "b-1" in cli.error("workflow", "show", "b-1", code=4)


@pytest.mark.usefixtures("worker")
def test_a_class_with_signals(cli: Cli) -> None:
    """A class is started by its name; its signal handlers are called by theirs."""
    assert cli("workflow", "start", "Basket", "--id", "c-1").stdout.strip() == "c-1"
    cli("workflow", "signal", "c-1", "add", '{"item": "tea"}')
    cli("workflow", "signal", "c-1", "add", '{"item": "milk"}')
    assert json.loads(cli("workflow", "follow", "c-1").stdout) == ["tea", "milk"]


@pytest.mark.usefixtures("worker")
def test_queries_and_updates(cli: Cli) -> None:
    """Both print the answer as JSON; a refusal is exit code 1 with its reason, an unknown id 4, a late answer 5."""
    cli("workflow", "start", "Basket", "--id", "q-1")
    cli("workflow", "signal", "q-1", "add", '{"item": "tea"}')
    assert cli("workflow", "query", "q-1", "count").stdout.strip() == "1"
    assert cli.json("workflow", "query", "q-1", "count", '{"of": "milk"}', "--timeout", "60") == 0
    assert cli("workflow", "update", "q-1", "weigh", '{"item": "tea"}').stdout.strip() == "6"
    assert cli.json("workflow", "update", "q-1", "drop", '{"item": "tea"}', "--id", "u-1") == 0
    assert cli.json("workflow", "update", "q-1", "drop", '{"item": "tea"}', "--id", "u-1") == 0, "done once"
    assert "no milk in the basket" in cli.error("workflow", "update", "q-1", "weigh", '{"item": "milk"}', code=1)
    assert "known: count" in cli.error("workflow", "query", "q-1", "nothing", code=1)
    assert "known: drop, full, weigh" in cli.error("workflow", "update", "q-1", "nothing", code=1)
    assert "workflow update q-1 full --id" in cli.error("workflow", "update", "q-1", "full", "--timeout", "0.2", code=5)
    assert "nothing" in cli.error("workflow", "query", "nothing", "count", code=4)
    assert "nothing" in cli.error("workflow", "update", "nothing", "drop", code=4)
    assert "must match" in cli.error("workflow", "update", "q-1", "drop", "--id", "a b", code=2)
    cli("workflow", "terminate", "q-1")
    assert cli.json("workflow", "query", "q-1", "count") == 0
    assert "ended" in cli.error("workflow", "update", "q-1", "drop", '{"item": "tea"}', code=1)


@pytest.mark.usefixtures("worker")
def test_a_stuck_one_is_tried_again(cli: Cli) -> None:
    """`resume` wakes stuck workflows; one that is not stuck is complained of and keeps no other one."""
    for number in ("1", "2"):
        cli("workflow", "start", "broken", "--id", f"s-{number}")
        eventually(lambda: cli.json("workflow", "show", f"s-{number}"), lambda found: found["state"] == "stuck")  # noqa: B023
    cli("workflow", "start", "approval", '{"amount": 1}', "--id", "s-3")
    assert "s-1" in cli("workflow", "resume", "s-1").stdout
    done = cli("workflow", "resume", "s-3", "s-2", code=1)
    assert "only a stuck one can be resumed" in done.stderr
    assert "s-2" in done.stdout
    assert "nothing" in cli.error("workflow", "resume", "nothing", code=4)
    for number in ("1", "2", "3"):
        cli("workflow", "terminate", f"s-{number}")
    assert "ended" in cli.error("workflow", "resume", "s-1", code=1)


@pytest.mark.usefixtures("worker")
def test_a_trace_shows_what_a_run_did(cli: Cli) -> None:
    """Each activity, signal and update has its line, with what it took; activities name their jobs; JSON adds up."""
    cli("workflow", "start", "Basket", "--id", "t-1")
    cli("workflow", "signal", "t-1", "add", '{"item": "tea"}')
    cli("workflow", "update", "t-1", "weigh", '{"item": "tea"}')
    cli("workflow", "update", "t-1", "weigh", '{"item": "milk"}', code=1)
    cli("workflow", "update", "t-1", "full", "--timeout", "0", code=5)
    eventually(lambda: cli("workflow", "trace", "t-1").stdout, lambda text: "full" in text)
    running = cli.json("workflow", "trace", "t-1")
    assert [(each["kind"], each["name"], each["state"]) for each in running["steps"]] == [
        ("begin", "", ""),
        ("signal", "add", ""),
        ("update", "weigh", "completed"),
        ("activity", "double", "completed"),
        ("update", "weigh", "rejected"),
        ("update", "full", "waiting"),
    ]
    cli("workflow", "signal", "t-1", "add", '{"item": "milk"}')
    cli("workflow", "result", "t-1")
    trace = cli.json("workflow", "trace", "t-1", "--jaeger", "http://localhost:16686/")
    assert trace["url"] == f"http://localhost:16686/trace/{trace['trace_id']}"
    assert trace["state"] == "completed"
    by_name = {(each["name"], each["state"]): each for each in trace["steps"]}
    activity = by_name["double", "completed"]
    assert cli.json("job", "show", activity["job"])["workflow"] == "t-1"
    update = by_name["weigh", "completed"]
    assert update["offset"] <= activity["offset"]
    assert update["duration"] >= activity["duration"] > 0
    assert "no milk in the basket" in by_name["weigh", "rejected"]["error"]["message"]
    assert all(each["offset"] + (each["duration"] or 0) <= trace["duration"] + 0.1 for each in trace["steps"])
    lines = cli("workflow", "trace", "t-1").stdout.splitlines()
    assert lines[0].startswith("t-1  Basket  completed after ")
    assert lines[1].strip() == f"trace {trace['trace_id']}"
    assert any("activity double" in line and f"job {activity['job']}" in line for line in lines)
    assert "nothing" in cli.error("workflow", "trace", "nothing", code=4)


@pytest.mark.usefixtures("worker")
def test_a_trace_of_what_waits_and_what_broke(cli: Cli) -> None:
    """A stuck run's trace has the error; one that was terminated says what was withdrawn."""
    cli("workflow", "start", "broken", "--id", "t-2")
    eventually(lambda: cli.json("workflow", "show", "t-2"), lambda found: found["state"] == "stuck")
    assert "ZeroDivisionError: a bug of ours" in cli("workflow", "trace", "t-2").stdout
    cli("workflow", "start", "napping", "--id", "t-3")
    waiting = eventually(lambda: cli("workflow", "trace", "t-3").stdout, lambda text: "timer" in text)
    assert "so far" in waiting
    assert "flows.py:" in waiting
    cli("workflow", "terminate", "t-2", "t-3")
    (timer,) = [each for each in cli.json("workflow", "trace", "t-3")["steps"] if each["kind"] == "timer"]
    assert timer["state"] == "withdrawn"


@pytest.mark.usefixtures("worker")
def test_a_trace_of_a_local_activity(cli: Cli) -> None:
    """A local activity whose end stands in the record that asks for it has completed, and nobody has withdrawn it."""
    assert cli("workflow", "start", "doubled_here", '{"number": 4}', "--id", "t-4", "--wait").stdout.strip() == "8"
    (local,) = [each for each in cli.json("workflow", "trace", "t-4")["steps"] if each["kind"] == "local"]
    assert (local["name"], local["state"]) == ("double", "completed")


def test_wrong_input_is_refused_before_anything_is_stored(cli: Cli) -> None:
    """A bad name, id or payload is exit code 2, and nothing is there afterwards."""
    assert "must match" in cli.error("workflow", "start", "a.b", code=2)
    assert "must match" in cli.error("workflow", "start", "order", "--id", "a b", code=2)
    assert "JSON" in cli.error("workflow", "start", "order", "{", code=2)
    assert cli.json("workflow", "ls") == []


@pytest.mark.usefixtures("worker")
def test_a_start_that_nobody_waits_for_says_so(cli: Cli) -> None:
    """A name that no living node has is remarked, with those that there are; the workflow is started all the same."""
    done = cli("workflow", "start", "dubled", '{"number": 1}', "--id", "n-1")
    assert done.stdout.strip() == "n-1"
    assert "no node has a workflow dubled now" in done.stderr
    assert "doubled" in done.stderr
    assert "no node" not in cli("workflow", "start", "doubled", '{"number": 1}', "--id", "n-2").stderr


@pytest.mark.usefixtures("worker")
def test_forks(cli: Cli) -> None:
    """`fork` prints the id of a workflow that shares what was before event N, `retry` that of one that goes on."""
    cli("workflow", "start", "doubled", '{"number": 21}', "--id", "d-1", "--wait")
    asked = next(e["number"] for e in cli.json("workflow", "history", "d-1") if e["kind"] == "ask_activity")
    assert cli("workflow", "fork", "d-1", "--at", str(asked), "--id", "d-2").stdout.strip() == "d-2"
    assert cli("workflow", "result", "d-2", "--timeout", "60").stdout.strip() == "42"
    assert cli.json("job", "ls", "--workflow", "d-2")[0]["result"] == 42
    assert "from 2 to" in cli.error("workflow", "fork", "d-1", "--at", "99", code=2)
    assert "choose another id" in cli.error("workflow", "fork", "d-1", "--at", "2", "--id", "d-2", code=1)
    assert "only a faulted one" in cli.error("workflow", "retry", "d-1", code=1)
    cli.error("workflow", "start", "failing", "--id", "f-1", "--wait", code=1)
    again = cli.json("workflow", "retry", "f-1")["id"]
    assert "out of stock" in cli.error("workflow", "result", again, "--timeout", "60", code=1)


def test_a_run_that_is_pinned_to_a_build(cli: Cli) -> None:
    """Without a worker of its build `show` and `doctor` say so, and `resume` lets another build go on."""
    with cli.process("worker", "flows", "--build", "one", "--pin") as process:
        cli("workflow", "start", "approval", '{"amount": 7}', "--id", "a-1")
        eventually(lambda: cli.json("workflow", "show", "a-1"), lambda found: bool(found["waiting"]))
        process.terminate()
        process.wait(30)
    with cli.process("worker", "flows", "--build", "two") as process:
        eventually(lambda: cli.json("node", "ls"), lambda found: [node["build"] for node in found] == ["two"])
        assert "approval" in cli("node", "ls").stdout
        info = cli.json("workflow", "show", "a-1")
        assert (info["build"], info["pinned"], info["reason"]) == ("one", True, "waits for a worker of build one")
        assert "one (pinned)" in cli("workflow", "show", "a-1").stdout
        checks = [each["found"] for each in cli.json("doctor", code=1)["checks"]]
        assert "1 workflow of approval pinned to build one, and no node has it: a-1" in checks
        cli("workflow", "resume", "a-1")
        cli("workflow", "signal", "a-1", "decide", '{"say": "yes"}')
        assert cli("workflow", "result", "a-1", "--timeout", "60").stdout.strip() == '"7: yes"'
