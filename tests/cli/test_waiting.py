"""Ctrl-C while a verb waits: the reader learns that what was waited for goes on, and how to stop it; exit code 130."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import urllib.request
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Cli, first_document
from tests.support.waiting import until
from turnout.store.names import Names
from turnout.testing import NatsServer
from turnout.testing.server import _free_port


@pytest.fixture(scope="module")
def monitored() -> Iterator[tuple[NatsServer, int]]:
    """A server that tells at a port who listens to what."""
    port = _free_port()
    with NatsServer(config=f'http: "127.0.0.1:{port}"') as server:
        yield server, port


@pytest.fixture(scope="module")
def server(monitored: tuple[NatsServer, int]) -> NatsServer:
    return monitored[0]


@pytest.fixture
def port(monitored: tuple[NatsServer, int]) -> int:
    return monitored[1]


@pytest.fixture(scope="module")
def flows(server: NatsServer) -> Iterator[Cli]:
    """In a namespace with a worker for the workflows of modules/flows.py."""
    cli = Cli(server.url, "flowing")
    with cli.process("worker", "flows", "--grace", "0", "-o", "json") as worker:
        first_document(worker)
        yield cli


async def until_somebody_listens(port: int, subject: str) -> None:
    """Until somebody hears what is told of this job. Supervisors may hear what is told of any."""

    async def heard() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/connz?subs=1", timeout=30) as answer:
            told = json.load(answer)
        return any(subject in each.get("subscriptions_list", ()) for each in told["connections"])

    await until(heard, 60)


def interrupted(cli: Cli, port: int, line: list[str], subject: str) -> str:
    """What it says when it waits and is interrupted."""
    with cli.process(*line) as process:
        asyncio.run(until_somebody_listens(port, subject))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        return process.stderr.read()


@pytest.mark.parametrize("verb", ["job follow", "job result", "job logs --follow"])
def test_an_interrupted_wait_says_that_the_job_goes_on(busy: Cli, port: int, verb: str) -> None:
    """It ends the wait and not the job."""
    job_id = busy("job", "submit", "slow", '{"seconds": 60}').stdout.strip()
    busy.until(job_id, lambda info: info.state == "running")
    said = interrupted(busy, port, [*verb.split(), job_id], Names(busy.namespace).stored("slow", job_id))
    assert f"job {job_id} goes on; to stop it: turnout job cancel {job_id} -n busy" in said
    assert busy.json("job", "show", job_id)["state"] == "running"
    busy("job", "cancel", job_id)


@pytest.mark.parametrize("verb", ["workflow follow", "workflow result"])
def test_an_interrupted_wait_says_that_the_workflow_goes_on(flows: Cli, port: int, verb: str) -> None:
    """It ends the wait and not the workflow."""
    workflow_id = flows("workflow", "start", "napping").stdout.strip()
    said = interrupted(flows, port, [*verb.split(), workflow_id], Names(flows.namespace).recorded(workflow_id))
    assert f"workflow {workflow_id} goes on; to stop it: turnout workflow cancel {workflow_id} -n flowing" in said
    assert flows.json("workflow", "show", workflow_id)["state"] == "running"
    flows("workflow", "terminate", workflow_id)


@pytest.mark.parametrize("wait", ["--wait", "--follow"])
@pytest.mark.parametrize("what", ["job submit nobody", "workflow start nobody"])
def test_what_was_just_begun_is_told_as_well(cli: Cli, what: str, wait: str) -> None:
    """From the moment that it is stored, whatever else is looked at before the wait."""
    kind = what.split(maxsplit=1)[0]
    with cli.process(*what.split(), "--id", "new", wait) as process:
        said = ""
        while f"{kind} new " not in said:
            said = process.stderr.readline()
            assert said
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert f"{kind} new goes on; to stop it: turnout {kind} cancel new -n {cli.namespace}" in process.stderr.read()
    assert cli.json(kind, "show", "new")["id"] == "new"


@pytest.mark.parametrize(
    "verb",
    ["job follow", "job result", "job logs --follow", "workflow follow", "workflow result", "group results"],
)
def test_a_server_that_says_nothing_is_waited_for_as_well(cli: Cli, verb: str) -> None:
    """The wait begins with the connection: a slow server does not make the interrupted reader wonder."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"nats://127.0.0.1:{deaf.getsockname()[1]}"
        with cli.process(*verb.split(), "x-1", env={"NATS_URL": url}) as process:
            deaf.settimeout(60)
            line, _ = deaf.accept()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            line.close()
            kind = verb.split(maxsplit=1)[0]
            assert f"{kind} x-1 goes on; to stop it: turnout {kind} cancel x-1" in process.stderr.read()


def test_an_interrupted_update_says_how_to_get_its_answer(flows: Cli, port: int) -> None:
    """The same id gets the answer later."""
    flows("workflow", "start", "Basket", "--id", "basket")
    line = ["workflow", "update", "basket", "full", "--id", "u-1"]
    with flows.process(*line) as process:
        asyncio.run(until_somebody_listens(port, Names(flows.namespace).recorded("basket")))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "the same id gets its answer: turnout workflow update basket full --id u-1" in process.stderr.read()
    for item in ("salt", "bread"):
        flows("workflow", "signal", "basket", "add", json.dumps({"item": item}))
    assert flows(*line).stdout.strip() == "2"
