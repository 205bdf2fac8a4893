"""What the programs log, for people and for machines, and what `turnout job logs` shows."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.cli.conftest import Cli, first_document
from tests.cli.test_health import Health, until
from turnout.testing.server import HOST, NatsServer

OF_JOB = ("job", "activity", "attempt", "node", "trace_id", "span_id")


@pytest.fixture(scope="module")
def chatty(server: NatsServer) -> Iterator[Cli]:
    """In a namespace with a worker for modules/chatty.py."""
    cli = Cli(server.url, "chatty")
    with cli.process("worker", "chatty", "--name", "here", "--grace", "0", "-o", "json") as worker:
        first_document(worker)
        yield cli


def logged(cli: Cli, arguments: list[str], jobs: list[str], env: dict[str, str] | None = None) -> str:
    """What a worker has written on stderr that ran these jobs, each with its activity's name as its id."""
    with cli.process("worker", *arguments, "--name", "here", env=env) as worker:
        for name in jobs:
            cli("job", "submit", name, "--id", name, "--wait")
        worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate(timeout=30)
    assert out == ""
    return err


def objects(text: str) -> list[dict[str, Any]]:
    """Every line as the JSON object that it must be; what is no JSON (NaN) is refused."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


@pytest.mark.parametrize("how", ["option", "variable"])
def test_every_line_is_a_json_object(cli: Cli, how: str) -> None:
    """As JSON each line on stderr is one object, with the job, the exception and the caller's own fields, bounded."""
    option = ["--log-format", "json"] if how == "option" else []
    env = {"TURNOUT_LOG_FORMAT": "JSON" if how == "variable" else "console"}
    lines = objects(logged(cli, ["chatty", *option], ["chat", "chat_in_thread", "chat_in_process"], env))
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None
    info = cli.json("job", "show", "chat")
    inside = [line for line in lines if line.get("job") == "chat"]
    assert [line["message"] for line in inside[:2]] == ["line 0", "line 1"]
    for line in inside:
        assert line["node"].startswith("here-")
        assert (line["activity"], line["attempt"], line["trace_id"]) == ("chat", 1, info["trace_id"])
        assert re.fullmatch("[0-9a-f]{16}", line["span_id"])
    two, wrong, bad = inside[2:]
    assert (two["message"], two["level"], two["logger"]) == ("two\nlines", "WARNING", "some.library")
    assert (two["order"], two["extra_level"], two["tags"], two["ratio"]) == (7, "gold", ["a"], "nan")
    assert two["long"] == "x" * 1000 + "..."
    assert two["odd"] == "(no text: ValueError)"
    assert wrong["exception"].startswith("Traceback")
    assert wrong["exception"].endswith("LookupError: deep down")
    assert "does not fit" in bad["message"]
    for name, message in (("chat_in_thread", "from a thread"), ("chat_in_process", "from a child")):
        [line] = [line for line in lines if line["message"] == message]
        assert [bool(line.get(field)) for field in OF_JOB] == [True] * 6
        assert line["job"] == name
    assert line["order"] == 8


def test_lines_for_people_carry_the_job(cli: Cli) -> None:
    """On the console a line ends with its job: id, activity, attempt, node, trace and span; lines of no job don't."""
    text = logged(cli, ["chatty"], ["chat_in_thread"])
    told = r"job=chat_in_thread activity=chat_in_thread attempt=1 node=here-\w+ trace=[0-9a-f]{32} span=[0-9a-f]{16}"
    assert re.search(rf"INFO +some\.library: from a thread \[{told}\]\n", text)
    assert re.search(r"starting with \d activities and workflows of chatty\n", text)


def test_a_programs_own_logging_sees_the_job(cli: Cli) -> None:
    """Handlers that the module has set up itself stay, and their format may name the job's fields."""
    text = logged(cli, ["ownlogging"], ["chat"])
    assert re.search(r"^MINE INFO hello job=chat trace=[0-9a-f]{32}$", text, re.M)
    assert re.search(r"^MINE INFO node here-\w+ works on chat job= trace=$", text, re.M)


@pytest.mark.parametrize("more", [[], ["--log-level", "info"]], ids=["by default", "at info"])
def test_what_fails_is_in_the_log_and_what_goes_well_for_who_asks(cli: Cli, tmp_path: Path, more: list[str]) -> None:
    """A worker logs each failure and fault without being asked; a line for each start and end is at `info` alone."""
    cli.cwd = tmp_path
    (tmp_path / "flicker.py").write_text(
        "from turnout import RetryPolicy, activity, current_job\n\n"
        "@activity(retry=RetryPolicy(max_attempts=2, delay=0.01))\n"
        "def flickers(n: int) -> None:\n    if current_job().attempt < n:\n        raise LookupError('no such file')\n"
    )
    with cli.process("worker", "flicker", *more) as worker:
        cli("job", "submit", "flickers", '{"n": 2}', "--id", "well", "--wait")
        cli.error("job", "submit", "flickers", '{"n": 9}', "--id", "badly", "--wait", code=1)
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=30)
    told = re.compile(r"(INFO|WARNING|ERROR) +turnout\.attempts: job (\w+) (?:attempt (\d) )?(\w+ \w+)")
    lines = [each.groups() for each in told.finditer(err)]
    loud = [each for each in lines if each[0] != "INFO"]
    assert loud == [
        ("WARNING", "well", "1", "has failed"),
        ("WARNING", "badly", "1", "has failed"),
        ("ERROR", "badly", None, "has faulted"),
    ]
    assert len(lines) - len(loud) == (5 if more else 0)
    assert err.count("LookupError: no such file\n") == 3, "each with its traceback"
    assert " [job=badly activity=flickers attempt=2 node=" in err


def test_an_unknown_format_is_2(cli: Cli) -> None:
    """A format that does not exist is a usage error, from the option and from the variable."""
    assert "--log-format" in cli.error("job", "ls", "--log-format", "xml", code=2)
    assert "TURNOUT_LOG_FORMAT" in cli.error("job", "ls", env={"TURNOUT_LOG_FORMAT": "xml"}, code=2)


def test_an_outage_does_not_fill_the_log() -> None:
    """While the server is away a busy worker says once for each connection that it is lost, and that it is back."""
    with NatsServer() as server:
        cli = Cli(server.url, "outage")
        arguments = ("chatty:chat_until_stopped", "--grace", "0", "--health-port", "127.0.0.1:0", "-o", "json")
        with cli.process("worker", *arguments) as worker:
            health = Health(first_document(worker)["health_port"])
            cli("job", "submit", "chat_until_stopped", "--id", "on")
            cli.until("on", lambda info: info.progress is not None)
            until(lambda: health.status()["supervisor"]["acting"])  # its connection is the last of the three
            server.kill()
            with socket.create_server((HOST, server.port)) as nobody:
                for _ in range(20):  # so often it tries to connect: some 3 s of outage
                    nobody.accept()[0].close()
            server.start()
            worker.send_signal(signal.SIGTERM)
            _, text = worker.communicate(timeout=60)
    lines = [line for line in text.splitlines() if "[job=" not in line]
    assert len([line for line in lines if "was lost" in line]) == 3
    assert [line for line in lines if "WARNING" in line and "was lost" not in line] == []
    assert len(lines) < 16, text


def test_the_lines_of_a_job_are_shown_after_its_end(chatty: Cli) -> None:
    """`job logs` in another process prints the lines; as JSON it is one array with an object for each."""
    chatty("job", "submit", "chat", '{"lines": 3}', "--id", "ended", "--wait")
    lines = chatty("job", "logs", "ended").stdout.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z INFO    1 here-\w+: line 0", lines[0])
    found = chatty.json("job", "logs", "ended")
    assert [line["message"] for line in found] == ["line 0", "line 1", "line 2"]
    assert set(found[0]) == {"time", "level", "attempt", "node", "message"}
    assert chatty("job", "logs", "ended", "--limit", "1").stdout.splitlines() == lines[2:]
    assert chatty.json("job", "logs", "ended", "--attempt", "2") == []


def test_a_job_without_lines_prints_nothing(chatty: Cli) -> None:
    """A job that has logged nothing is no error: the hint is on stderr."""
    chatty("job", "submit", "quiet", "--id", "quiet", "--wait")
    done = chatty("job", "logs", "quiet")
    assert done.stdout == ""
    assert "quiet" in done.stderr
    assert chatty.json("job", "logs", "quiet") == []


@pytest.mark.parametrize("more", [[], ["--follow"], ["--activity", "chat"]], ids=str)
def test_an_unknown_job_is_4(chatty: Cli, more: list[str]) -> None:
    """The logs of a job that does not exist are not found."""
    assert "no job nobody" in chatty.error("job", "logs", "nobody", *more, code=4)


def test_lines_are_followed_to_the_end(chatty: Cli) -> None:
    """`--follow` prints lines while the job runs and ends with it, by how it did."""
    chatty("job", "submit", "chat_on", "--id", "goes-on")
    done = chatty("job", "logs", "goes-on", "--follow", code=1)
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == [f"line {n}" for n in range(15)]
    again = chatty("job", "logs", "goes-on", "--follow", "-o", "json", "--limit", "2", code=1)
    assert [line["message"] for line in json.loads(again.stdout)] == ["line 13", "line 14"]


def test_lines_are_followed_as_json(chatty: Cli) -> None:
    """With `-o json` each line is printed when it comes, on a line of its own; at the end all of it is one array."""
    chatty("job", "submit", "chat_until_stopped", "--id", "streamed")
    with chatty.process("job", "logs", "streamed", "--follow", "-o", "json") as following:
        text = [following.stdout.readline(), following.stdout.readline()]
        assert json.loads(text[1].lstrip(","))["message"] == "it begins"
        assert chatty.json("job", "show", "streamed")["state"] == "running"
        chatty("job", "cancel", "streamed")
        text += following.stdout.readlines()
        assert following.wait(30) == 3
    assert [line["level"] for line in json.loads("".join(text))] == ["INFO", "WARNING"]


def test_an_aborted_attempts_lines_are_kept(cli: Cli) -> None:
    """A worker that is stopped writes what its jobs have logged in their last second."""
    with cli.process("worker", "chatty", "--grace", "0", "-o", "json") as worker:
        first_document(worker)
        cli("job", "submit", "chat_until_stopped", "--id", "stopped")
        cli.until("stopped", lambda info: info.progress is not None)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    lines = cli.json("job", "logs", "stopped")
    assert [line["message"] for line in lines] == ["it begins", "it has to stop: node_stopping"]


def test_setup_and_doctor_know_the_stream(cli: Cli) -> None:
    """`setup` makes the stream of logs, `--dry-run` lists it, and doctor misses it where it is not."""
    name = f"{cli.namespace}_logs"

    def planned() -> list[str]:
        return [each["action"] for each in cli.json("setup", "--dry-run") if each["name"] == name]

    assert planned() == ["create"]
    cli("setup")
    assert planned() == ["keep"]
    asyncio.run(delete_stream(cli.url, name))
    found = [check["found"] for check in cli.json("doctor", code=1)["checks"] if check["check"] == "streams"]
    assert found == [f"{name} is missing"]
    cli("setup")
    assert "streams" not in {c["check"] for c in cli.json("doctor")["checks"] if c["verdict"] == "wrong"}


async def delete_stream(url: str, name: str) -> None:
    client = await nats.connect(url)
    await client.jetstream().delete_stream(name)
    await client.close()
