"""`turnout doctor` and /readyz where a worker is busy, and where nothing can be stored."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from typing import Any

from tests.cli.conftest import Cli, first_document
from tests.cli.test_health import until
from turnout import Client, JobState


def storage_check(cli: Cli, code: int) -> Any:
    """What doctor says of the storage."""
    return next(each for each in cli.json("doctor", code=code)["checks"] if each["check"] == "storage")


def limit_registry(cli: Cli, max_bytes: int) -> None:
    """Give the stream of the records another limit."""

    async def update() -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            connection = client.store.connection
            stream = f"KV_{cli.namespace}_jobs"
            config = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
            await connection.api(f"STREAM.UPDATE.{stream}", {**config, "max_bytes": max_bytes, "discard": "new"})

    asyncio.run(update())


def test_where_nothing_can_be_stored_that_is_said_and_there_is_a_way_out(cli: Cli) -> None:
    """Doctor and /readyz are red while no record can be stored, errors name the remedy, and deleting jobs helps."""
    with cli.process("worker", "shop", "--health-port", "127.0.0.1:0", "-o", "json") as worker:
        port = first_document(worker)["health_port"]
        ended = [cli("job", "submit", "add", '{"a": 1}', "--wait", "-o", "json") for _ in range(2)]
        ids = [json.loads(each.stdout)["id"] for each in ended]
        limit_registry(cli, 1)
        waiting = cli("job", "submit", "add", '{"a": 3}').stdout.strip()
        storage = storage_check(cli, 1)
        assert storage["verdict"] == "wrong"
        assert "max_bytes" in storage["remedy"]
        assert until_ready(port, 503).startswith("no record can be stored")
        assert "turnout doctor shows what is full" in cli.error(
            "job", "submit", "add", '{"a": 1}', "--delay", "60", code=1
        )
        cli("job", "delete", *ids)
        cli("job", "show", ids[0], code=4)
        limit_registry(cli, -1)
        assert cli.json("job", "result", waiting) == 5
        assert until_ready(port, 200) == "ok\n"
        assert storage_check(cli, 0)["verdict"] == "ok"


def test_where_nothing_can_be_stored_nobody_is_told_to_start_a_node(cli: Cli) -> None:
    """The nodes that there are may be those that can't have it stored that they live."""
    cli("setup")
    limit_registry(cli, 1)
    (check,) = [each for each in cli.json("doctor", code=1)["checks"] if each["check"] == "nodes"]
    assert check["remedy"] == "mend the storage first"


def until_ready(port: int, status: int) -> str:
    """What /readyz says when it has this status."""
    text = ""
    for _ in range(200):
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        line.request("GET", "/readyz")
        answer = line.getresponse()
        text = answer.read().decode()
        if answer.status == status:
            return text
        time.sleep(0.1)
    raise AssertionError(f"/readyz is not {status}: {text}")


def test_doctor_calls_nothing_stuck_that_a_busy_worker_works_off(cli: Cli) -> None:
    """While thousands of quick jobs come and go, what moves between two counts is not stuck."""
    cli("job", "submit", "add", '{"a": 1}')
    with cli.process("worker", "shop", "-c", "50", "-o", "json") as worker:
        first_document(worker)

        async def examine() -> None:
            async with Client.connect(cli.url, namespace=cli.namespace) as client:
                submitting = asyncio.create_task(client.submit_many("add", [{"a": n} for n in range(6000)]))
                looks = 0
                while not submitting.done() or (await client.count(state="queued"))[JobState.queued]:
                    report = await asyncio.to_thread(cli.json, "doctor")
                    assert not [each for each in report["checks"] if "stuck:" in each["found"]]
                    looks += 1
                assert looks

        asyncio.run(examine())


def test_slots_that_all_wait_for_jobs_are_told_of(cli: Cli) -> None:
    """Where every slot of a node is held by code that waits for other jobs, doctor and `node show` say so."""
    with cli.process("worker", "asking", "-c", "1", "--name", "full", "--grace", "0", "-o", "json") as worker:
        node = first_document(worker)["id"]
        cli("job", "submit", "ask_another", "{}")
        until(lambda: [each["waiting"] for each in cli.json("node", "ls")] == [1])
        (check,) = [each for each in cli.json("doctor")["checks"] if each["check"] == "nodes"]
        said = f"all slots of {node} are held by jobs that wait for other jobs"
        assert (check["verdict"], check["found"]) == ("note", said)
        assert "1 of 1, 1 wait for other jobs" in cli("node", "show", "full").stdout


def test_what_names_no_activity_or_workflow_is_told_of(cli: Cli) -> None:
    """Messages on subjects that nothing can be called by lie there for ever: doctor names them, and how to go on."""
    cli("setup")

    async def publish() -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            for subject in ("jobs.ordér", "jobs.a+b.c", "jobs.add.ordér", "workflows.größe", "workflows.a.b"):
                await client.store.connection.store(f"{cli.namespace}.{subject}", b"{}")

    asyncio.run(publish())
    checks = cli.json("doctor", code=1)["checks"]
    jobs, flows = [each for each in checks if " lie where " in each["found"]]
    ns = cli.namespace
    assert (jobs["check"], jobs["verdict"], flows["check"], flows["verdict"]) == (
        "queues",
        "wrong",
        "workflows",
        "wrong",
    )
    assert "2 messages lie where no activity can be named" in jobs["found"]
    assert {f"{ns}.jobs.ordér", f"{ns}.jobs.a+b.c"} <= set(jobs["found"].replace(",", "").split())
    assert f"{ns}.jobs.ACTIVITY.ID" in jobs["remedy"]
    assert f"stream purge {ns}_work --subject={ns}.jobs." in jobs["remedy"].replace("'", "")
    assert {f"{ns}.workflows.größe", f"{ns}.workflows.a.b"} <= set(flows["found"].replace(",", "").split())
    assert "1 job of add in the queue" in " ".join(each["found"] for each in checks), (
        "its id is odd, its activity is not"
    )
    assert not [each for each in checks if "of größe" in each["found"]]


def test_nothing_is_said_of_messages_where_all_of_them_name_something(cli: Cli) -> None:
    """Bare and named jobs and starts are no strays."""
    cli("setup")
    cli("job", "submit", "add", '{"a": 1}')
    cli("workflow", "start", "add", "{}")
    assert not [each for each in cli.json("doctor", code=1)["checks"] if "can be named" in each["found"]]
