"""`node`, `activity`, `fault`, `setup` and `doctor`."""

from __future__ import annotations

import asyncio
import re
import signal

from tests.cli.conftest import Cli, first_document
from tests.cli.test_health import until
from tests.support.rawsocket import raw_publish
from turnout.nats.connection import Connection, ConnectOptions
from turnout.store.names import Names
from turnout.store.topology import ConsumerOptions, consumer_config
from turnout.testing.server import NatsServer


async def api(url: str, verb: str, body: dict[str, object] | None = None) -> dict[str, object]:
    connection = await Connection.open(ConnectOptions(servers=(url,)), name="test")
    try:
        return await connection.api(verb, body)
    finally:
        await connection.close()


def checks(cli: Cli, code: int) -> dict[str, list[dict[str, str]]]:
    """doctor's checks by name."""
    report = cli.json("doctor", code=code)
    assert report["ok"] == (code == 0)
    found: dict[str, list[dict[str, str]]] = {}
    for check in report["checks"]:
        found.setdefault(check["check"], []).append(check)
    return found


def test_node_ls(busy: Cli, cli: Cli) -> None:
    """node ls shows the living nodes and what they work on; instants are RFC 3339 in JSON."""
    (node,) = busy.json("node", "ls")
    assert node["name"] == "shop"
    assert re.fullmatch(r"\d{4}-.*Z", node["started_at"])
    assert "add" in node["activities"]
    assert re.search(r"shop-\w+ .* 0/10 +working", busy("node", "ls").stdout)
    assert cli.json("node", "ls") == []


def test_activity_ls_and_schema(busy: Cli) -> None:
    """activity ls tells how many nodes work on each; schema shows the contract and how to submit."""
    found = {each["name"]: each for each in busy.json("activity", "ls")}
    assert found["add"]["nodes"] == 1
    assert found["add"]["doc"] == "Add two numbers."
    assert re.search(r"add +1 +Add two numbers\.", busy("activity", "ls").stdout)
    schema = busy.json("activity", "schema", "add")
    assert schema["payload_schema"]["required"] == ["a"]
    assert schema["result_schema"] == {"type": "integer"}
    assert """turnout job submit add '{"a": 1}'""" in busy("activity", "schema", "add").stdout
    told = busy.error("activity", "schema", "ad", code=4)
    assert "those known are: add, assassin" in told


def test_activity_pause_and_resume(busy: Cli) -> None:
    """A paused activity and its jobs say so, with the note; resumed, they run. An unknown one is exit code 4."""
    assert "add is paused for 1h00m" in busy("activity", "pause", "add", "--note", "no ink", "--for", "1h").stdout
    try:
        assert re.search(r"add +1 +no ink +Add two", busy("activity", "ls").stdout)
        assert re.search(r"paused +no ink\n", busy("activity", "schema", "add").stdout)
        busy("job", "submit", "add", '{"a": 1}', "--id", "dry")
        assert re.search(r"waits +add is paused: turnout activity resume add", busy("job", "show", "dry").stdout)
        assert re.search(r"dry +add +queued \(paused\)", busy("job", "ls", "--activity", "add").stdout)
        assert busy.json("job", "show", "dry")["waiting_for"]["kind"] == "paused"
        assert "add is paused: no ink" in busy("doctor").stdout
    finally:
        assert busy.json("activity", "resume", "add") == {"name": "add", "paused": False, "note": ""}
    busy("job", "result", "dry", "--timeout", "5")
    for verb in ("pause", "resume"):
        assert "those known are: add, assassin" in busy.error("activity", verb, "ad", code=4)


def test_limit_set_show_and_clear(busy: Cli) -> None:
    """A set limit is listed and shown, with how long it holds; cleared, it is gone. A bad one is exit code 2."""
    said = busy("limit", "set", "api", "--concurrency", "5", "--for", "1h").stdout
    assert "api: 5 at once, for 1h00m" in said
    assert "no worker has declared it, so it holds nothing up yet; those declared are: none" in said
    assert "the limit api is set, and no worker has declared it" in busy("doctor").stdout
    assert re.search(r"api +5 +any +0 +0 +set, not declared, for another ", busy("limit", "ls").stdout)
    assert re.search(r"concurrency +5\n", busy("limit", "show", "api").stdout)
    shown = busy.json("limit", "show", "api")
    assert (shown["concurrency"], shown["holders"], shown["source"]) == (5, [], "set")
    assert "those known are: api" in busy.error("limit", "show", "apo", code=4)
    assert "api: 6 in 1m00s, 2 of them in one burst, until it is cleared" in (
        busy("limit", "set", "api", "--rate", "6", "--per", "1m", "--burst", "2").stdout
    )
    assert re.search(r"concurrency +any number\nrate +6 in 1m00s, burst 2\n", busy("limit", "show", "api").stdout)
    shown = busy.json("limit", "show", "api")
    assert (shown["concurrency"], shown["rate"], shown["per"], shown["burst"]) == (None, 6, 60, 2)
    busy.error("limit", "set", "api", "--concurrency", "-1", code=2)
    assert "needs a concurrency or a rate" in busy.error("limit", "set", "api", code=2)
    assert busy.json("limit", "clear", "api") == {"name": "api", "cleared": True}
    assert busy.json("limit", "ls") == []
    assert "there is no limit api" in busy.error("limit", "clear", "api", code=4)


def test_a_key_that_nobody_uses_goes_by_its_limit(busy: Cli) -> None:
    """A key of a limit with braces in its name is shown, though nobody holds it or waits for it; and may be cleared."""
    busy("limit", "set", "tenant:{tenant}", "--concurrency", "2")
    shown = busy.json("limit", "show", "tenant:42")
    assert (shown["name"], shown["concurrency"], shown["held"], shown["waiting"]) == ("tenant:42", 2, 0, 0)
    busy("limit", "clear", "tenant:42")
    busy.error("limit", "show", "tenants:42", code=4)
    busy("limit", "clear", "tenant:{tenant}")
    busy.error("limit", "show", "tenant:42", code=4)


def test_a_job_that_waits_for_a_limit_says_so(cli: Cli) -> None:
    """ls and show name the limit, and show the command that tells who has its places."""
    with cli.process("worker", "metered", "--name", "east", "-o", "json") as worker:
        first_document(worker)
        cli("limit", "set", "stays", "--concurrency", "0")
        cli("job", "submit", "stay", "--id", "held-up")
        cli.until("held-up", lambda info: info.waiting_for is not None and info.waiting_for.kind == "limit")
        assert re.search(r"held-up +stay +queued \(limit stays\)", cli("job", "ls").stdout)
        shown = cli("job", "show", "held-up").stdout
        assert re.search(r"waits +the limit stays lets no more in: turnout limit show stays", shown)
        assert cli.json("job", "cancel", "held-up")["state"] == "cancelled"


def test_fault_ls_and_show(busy: Cli) -> None:
    """A dead letter is listed, and shown with its reason, error, attempts and payload."""
    busy("job", "submit", "broken", '{"what": "disk"}', "--id", "dead", "--wait", code=1)
    busy.until_dead("dead")
    assert [each["id"] for each in busy.json("fault", "ls", "--activity", "broken")] == ["dead"]
    assert busy.json("fault", "ls", "--activity", "add") == []
    assert busy.json("fault", "ls", "--since", "2100-01-01T00:00:00Z") == []
    assert "Fatal: no such disk" in busy("fault", "ls").stdout
    shown = busy("fault", "show", "dead").stdout
    for word in ("no such disk", '{"what": "disk"}', "shop-", "faulted"):
        assert word in shown
    assert busy.json("fault", "show", "dead")["payload"] == {"what": "disk"}
    busy.error("fault", "show", "alive", code=4)


def test_setup_creates_then_keeps(cli: Cli) -> None:
    """setup creates what is missing, alarms first; the second time nothing is to do; --dry-run only tells."""
    planned = cli.json("setup", "--dry-run")
    assert {each["action"] for each in planned} == {"create"}
    assert "there is no namespace" in cli("job", "ls").stderr
    done = cli("setup").stdout
    assert done.splitlines()[1].split() == [f"{cli.namespace}_alarms", "create"]
    assert {each["action"] for each in cli.json("setup")} == {"keep"}


def test_setup_changes_what_differs_and_keeps_what_was_chosen(cli: Cli) -> None:
    """A stream that was changed is set right; how long letters are kept is the operator's choice and stays."""
    cli("setup")
    stream = f"{cli.namespace}_faults"
    config = dict(asyncio.run(api(cli.url, f"STREAM.INFO.{stream}"))["config"])  # type: ignore[call-overload]
    asyncio.run(api(cli.url, f"STREAM.UPDATE.{stream}", config | {"max_age": 3600 * 10**9, "allow_direct": False}))
    changed = {each["name"]: each for each in cli.json("setup")}
    assert changed[stream]["action"] == "update"
    assert changed[stream]["fields"] == ["allow_direct"]
    config = dict(asyncio.run(api(cli.url, f"STREAM.INFO.{stream}"))["config"])  # type: ignore[call-overload]
    assert (config["allow_direct"], config["max_age"]) == (True, 3600 * 10**9)


def test_replicas_that_cannot_be_are_told(cli: Cli) -> None:
    """A single server can't keep three replicas: its refusal is passed on."""
    assert "refused to create stream" in cli.error("setup", "--replicas", "3", code=1)


def test_doctor_finds_nothing_wrong(busy: Cli) -> None:
    """With a worker and all set up doctor exits 0, and mentions what can't be seen."""
    found = checks(busy, 0)
    for name in ("server", "version", "jetstream", "streams", "clock", "nodes", "consumers", "queues", "alarms"):
        assert [each["verdict"] for each in found[name]] == ["ok"], found[name]
    assert "sync_interval" in found["durability"][0]["remedy"]
    assert re.search(r"ok +streams +all \d+ are as they should be", busy("doctor").stdout)


def test_doctor_sees_what_is_not_set_up(cli: Cli) -> None:
    """Missing streams are wrong, and the remedy is named; doctor itself creates nothing."""
    (check,) = checks(cli, 1)["streams"]
    assert check["remedy"] == f"run: turnout setup -n {cli.namespace}"
    checks(cli, 1)
    cli("setup")
    found = checks(cli, 0)
    assert found["nodes"][0]["verdict"] == "note"


def test_doctor_sees_jobs_that_nobody_works_on(cli: Cli) -> None:
    """Jobs of an activity without a node are wrong."""
    cli("job", "submit", "add", "{}")
    (check,) = checks(cli, 1)["queues"]
    assert "1 job of add in the queue, and no node works on it" in check["found"]


def test_doctor_sees_workflows_that_are_stuck_or_wait_for_a_worker(cli: Cli) -> None:
    """Stuck ones are named with how to find out why; what no node works on is told, also a bare start."""
    with cli.process("worker", "metered", "-o", "json") as worker:
        first_document(worker)
        assert checks(cli, 0)["workflows"][0]["found"] == "0 workflows open, none stuck"
        cli("workflow", "start", "broken", "--id", "b-1")
        cli("workflow", "start", "listening")
        until(lambda: cli.json("workflow", "show", "b-1")["state"] == "stuck")
        [stuck] = checks(cli, 1)["workflows"]
        assert (stuck["verdict"], stuck["found"]) == ("wrong", "1 workflow of broken stuck: b-1")
        assert "workflow show b-1" in stuck["remedy"]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    raw_publish(cli.url, f"{cli.namespace}.workflows.nobody", b"{}")
    found = {each["found"] for each in checks(cli, 1)["workflows"]}
    assert found >= {f"1 workflow of {name} not ended, and no node works on it" for name in ("listening", "nobody")}


def test_doctor_sees_changed_streams_and_consumers(server: NatsServer) -> None:
    """A stream or a consumer whose settings somebody changed is wrong, and named."""
    cli = Cli(server.url, "changed")
    with cli.process("worker", "shop:add"):
        cli("job", "submit", "add", '{"a": 1}', "--wait")
        base = "changed_work.add"
        config = dict(asyncio.run(api(cli.url, f"CONSUMER.INFO.{base}"))["config"])  # type: ignore[call-overload]
        body = {"stream_name": "changed_work", "config": config | {"ack_wait": 77 * 10**9}}
        asyncio.run(api(cli.url, f"CONSUMER.DURABLE.CREATE.{base}", body))
        asyncio.run(api(cli.url, "STREAM.DELETE.changed_alarms"))
        found = checks(cli, 1)
        assert found["consumers"][0]["found"] == "the consumer of add differs in ack_wait"
        assert found["streams"][0]["verdict"] == "wrong"


async def swallow(url: str, namespace: str, activity: str) -> None:
    """Have a consumer hand a message over for the last time it may, to nobody."""
    connection = await Connection.open(ConnectOptions(servers=(url,)), name="test")
    names = Names(namespace)
    usual = consumer_config(names, activity, ConsumerOptions(lease=1, max_attempts=1, max_lost=0))
    body = {"stream_name": names.work, "config": usual | {"max_deliver": 1}}
    base = f"{names.work}.{activity}"
    try:
        await connection.api(f"CONSUMER.DURABLE.CREATE.{base}", body)
        heard = asyncio.Event()
        await connection.subscribe("_INBOX.swallow", lambda _: heard.set())
        connection.send(f"$JS.API.CONSUMER.MSG.NEXT.{base}", b'{"batch": 1}', reply="_INBOX.swallow")
        await heard.wait()
        async with asyncio.timeout(30):
            while (await connection.api(f"CONSUMER.INFO.{base}"))["num_ack_pending"]:
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


def test_doctor_sees_stuck_jobs(cli: Cli) -> None:
    """A message whose deliveries are used up waits for nobody: doctor counts it, though no consumer does."""
    cli("job", "submit", "add", '{"a": 1}')
    asyncio.run(swallow(cli.url, cli.namespace, "add"))
    found = [check["found"] for check in checks(cli, 1)["queues"]]
    assert any(text.startswith("1 job of add stuck") for text in found)


def test_doctor_without_a_server_is_1() -> None:
    """Where nothing answers doctor says so in its report, and what to do."""
    (check,) = checks(Cli("nats://127.0.0.1:1", "x"), 1)["server"]
    assert check["verdict"] == "wrong"
    assert "127.0.0.1:1" in check["found"]
