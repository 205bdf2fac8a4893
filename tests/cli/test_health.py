"""`turnout worker`: what it tells of itself (over HTTP, into the log), draining from afar, and dying honestly."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import pytest

from tests.cli.conftest import Cli, first_document
from tests.support.forks import Piped
from turnout import Client
from turnout.cli.options import Address
from turnout.testing.server import NatsServer

T = TypeVar("T")


class Health:
    """Asks a worker for its health."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def status(self) -> Any:
        return json.loads(self.get("/status")[1])

    def until(self, path: str, code: int, within_s: float = 60.0) -> str:
        def body() -> str:
            status, text = self.get(path)
            return (text or "-") if status == code else ""

        return until(body, within_s)


def until(condition: Callable[[], T | Literal[False]], within_s: float = 60.0) -> T:
    give_up_at = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < give_up_at, "it never came"
        time.sleep(0.05)
    return answer


@contextmanager
def healthy(cli: Cli, *arguments: str) -> Iterator[tuple[Piped, Health]]:
    """A worker for modules/odd.py that tells its health."""
    with cli.process("worker", "odd", "--health-port", "127.0.0.1:0", "-o", "json", *arguments) as worker:
        yield worker, Health(first_document(worker)["health_port"])


def begin(cli: Cli, activity: str, payload: str = "{}") -> str:
    job_id = cli("job", "submit", activity, payload).stdout.strip()
    cli.until(job_id, lambda info: info.state == "running")
    return job_id


def test_slow_connections_keep_nobody_from_asking(cli: Cli) -> None:
    """Hundreds of connections that say nothing are dropped for the one that asks."""
    with healthy(cli) as (_, health), contextlib.ExitStack() as held:
        for _ in range(3):
            for _ in range(100):
                line = held.enter_context(socket.create_connection(("127.0.0.1", health.port), timeout=30))
                line.sendall(b"GET /livez")
            assert health.get("/livez") == (200, "ok\n")


def test_a_worker_that_is_started_before_its_server_waits_for_it() -> None:
    """It is alive and not ready, says so once, and works as soon as the server is there; a limit ends the wait."""
    with NatsServer() as server:
        cli = Cli(server.url, "early")
        server.stop()
        with cli.process("worker", "odd", "--wait", "0.5") as worker:
            assert worker.wait(30) == 1
        port = free_port()
        with cli.process("worker", "odd", "--health-port", str(port), "-o", "json") as worker:
            health = Health(port)

            def waits() -> str | Literal[False]:
                with contextlib.suppress(OSError):
                    status, text = health.get("/readyz")
                    return text if status == 503 else False
                return False

            assert "the NATS server is not there" in until(waits, 30)
            assert health.get("/livez")[0] == 200
            server.start()
            assert first_document(worker)["activities"]
            assert health.get("/readyz")[0] == 200


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_host_it_answers_this_machine_alone() -> None:
    """`--health-port 8080` is loopback; every address has to be asked for."""
    parse = Address().convert
    assert parse("8080", None, None) == ("127.0.0.1", 8080)
    assert parse("0.0.0.0:8080", None, None) == ("0.0.0.0", 8080)
    assert parse("[::]:0", None, None) == ("::", 0)


def test_a_working_worker_is_live_and_ready_and_tells_what_it_does(cli: Cli) -> None:
    """/livez and /readyz are 200; /status names the node, what runs and since when, and who supervises."""
    with healthy(cli, "--name", "here", "-c", "3") as (worker, health):
        assert health.get("/livez") == (200, "ok\n")
        assert health.until("/readyz", 200) == "ok\n"
        job_id = begin(cli, "wait")
        until(lambda: health.status()["supervisor"]["acting"])
        status = health.status()
        assert status["node"]["id"].startswith("here-")
        assert status["node"]["pid"] == worker.pid
        assert (status["live"], status["ready"], status["trouble"]) == (True, True, [])
        assert (status["slots"], status["leases"]) == ({"all": 3, "running": 1}, 1)
        (job,) = status["jobs"]
        assert (job["id"], job["activity"], job["attempt"]) == (job_id, "wait", 1)
        assert re.fullmatch(r"20\d\d-.*\.\d{3}Z", job["since"])
        assert status["connected"] == {"work": True, "leases": True}
        assert 0 <= status["liveness_age_s"] < 8
        assert health.get("/livez", "HEAD") == (200, "")
        assert (health.get("/elsewhere")[0], health.get("/livez", "POST")[0]) == (404, 405)


def test_it_answers_while_user_code_blocks_the_loop(cli: Cli) -> None:
    """Code that blocks the event loop keeps nobody from asking: alive, not ready, and says why; the job runs once."""
    with healthy(cli) as (_, health):
        health.until("/readyz", 200)
        job_id = cli("job", "submit", "block", '{"seconds": 6}').stdout.strip()
        told = health.until("/readyz", 503)
        assert "the event loop is blocked" in told
        assert health.get("/livez")[0] == 200
        assert [job["id"] for job in health.status()["jobs"]] == [job_id]  # so the loop is blocked still
        health.until("/readyz", 200)
        assert cli.json("job", "result", job_id) == 1


def test_it_is_not_ready_while_it_cannot_pull(cli: Cli) -> None:
    """Red when the server is away, green again when it is back; alive all the time."""
    with NatsServer() as server:
        away = Cli(server.url, "away")
        with healthy(away) as (worker, health):
            health.until("/readyz", 200)
            server.kill()
            until(lambda: "is not pulled" in health.until("/readyz", 503))
            assert health.get("/livez")[0] == 200
            assert health.status()["connected"]["work"] is False
            server.start()
            health.until("/readyz", 200, 30)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0


@pytest.mark.parametrize("stream", ["work", "inbox"])
def test_a_worker_that_may_not_pull_says_so(stream: str) -> None:
    """It is not ready and says what to allow, of activities and of workflows; whoever looks from afar sees it too."""
    pulls = f"$JS.API.CONSUMER.MSG.NEXT.few_{stream}.>"
    config = f"""authorization {{ users: [
        {{user: all, password: p}}
        {{user: few, password: p, permissions: {{publish: {{deny: ["{pulls}"]}}}}}}
    ] }}"""
    with NatsServer(config=config) as server:
        cli = Cli(server.url.replace("nats://", "nats://all:p@"), "few")
        few = {"NATS_URL": server.url.replace("nats://", "nats://few:p@")}
        line = ("worker", "flows", "--name", "few", "--health-port", "127.0.0.1:0", "-o", "json")
        with cli.process(*line, env=few) as worker:
            health = Health(first_document(worker)["health_port"])
            status, text = health.get("/readyz")
            assert status == 503
            assert f"is not pulled: these credentials may not publish to {pulls[:-1]}" in text
            assert health.get("/livez")[0] == 200
            assert health.status()["ready"] is False

            def told() -> str:
                (node,) = cli.json("node", "ls")
                return str(node["refused"])

            assert f"may not publish to {pulls[:-1]}" in until(told, 60)
            (check,) = [each for each in cli.json("doctor", code=1)["checks"] if each["check"] == "nodes"]
            assert (check["verdict"], "is not pulled" in check["found"]) == ("wrong", True)
            assert "refused" in cli("node", "ls").stdout


def test_it_is_not_ready_without_a_consumer(cli: Cli) -> None:
    """Red when the consumer is gone and can't be made anew, and green when it can; nobody has to restart it."""

    async def break_and_mend(health: Health) -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            await client.store.connection.api(f"STREAM.DELETE.{client.store.names.work}")
            await asyncio.to_thread(until, lambda: "is not pulled" in health.get("/readyz")[1])
            assert (await asyncio.to_thread(health.get, "/livez"))[0] == 200
        async with Client.connect(cli.url, namespace=cli.namespace) as client:  # connecting makes what is missing
            await asyncio.to_thread(health.until, "/readyz", 200)
            handle = await client.submit("block", {"seconds": 0})
            # A server that deletes a stream sometimes loses its word of it to some of the pulls: silence tells them.
            assert await handle.result(timeout=60) == 1

    with healthy(cli) as (_, health):
        health.until("/readyz", 200)
        asyncio.run(break_and_mend(health))


def test_odd_requests_do_it_no_harm(cli: Cli) -> None:
    """Garbage, half a request and many idle connections are outlived."""
    with healthy(cli) as (_, health):
        for garbage in (b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 500, b"x" * 100_000):
            with socket.create_connection(("127.0.0.1", health.port)) as odd:
                odd.settimeout(0.2)
                with contextlib.suppress(OSError):
                    odd.sendall(garbage)
                    odd.recv(100)
        idle = [socket.create_connection(("127.0.0.1", health.port)) for _ in range(30)]
        assert health.get("/livez")[0] == 200
        for connection in idle:
            connection.close()


def test_a_port_that_is_taken_is_told(cli: Cli) -> None:
    """The worker does not start without the health that it was asked for; a bad port is a wrong usage."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in cli.error("worker", "odd", "--health-port", f"127.0.0.1:{port}", code=1)
    for bad in ("x", "70000", "a:b:1"):
        cli.error("worker", "odd", "--health-port", bad, code=2)


@pytest.mark.parametrize("fault", ["cancels_everything", "cancels_pulling", "stops_supervisor"])
def test_a_worker_whose_loops_have_died_does_not_live_on(cli: Cli, fault: str) -> None:
    """User code that ends a loop of the worker ends the worker: it exits 1 and says why."""
    with cli.process("worker", "odd", "--grace", "0", "-o", "json") as worker:
        first_document(worker)
        cli("job", "submit", fault)
        _, told = worker.communicate(timeout=30)
    assert worker.returncode == 1
    assert re.search(r"turnout: (a loop of the worker|the supervisor) has ended", told)


def lines_of(worker: Piped) -> list[str]:
    """What the worker writes to its log from now on."""
    lines: list[str] = []

    def follow() -> None:
        nonlocal lines
        for line in worker.stderr:  # one by one, as they come
            lines += [line]

    threading.Thread(target=follow, daemon=True).start()
    return lines


def test_sigusr1_logs_what_runs_with_stacks(cli: Cli) -> None:
    """The log names each job and shows where its code is, on the loop and in threads; the worker works on."""
    with cli.process("worker", "odd", "-o", "json") as worker:
        first_document(worker)
        jobs = [begin(cli, "wait"), begin(cli, "sync_wait")]
        lines = lines_of(worker)

        def told() -> str:
            worker.send_signal(signal.SIGUSR1)  # again: a job is said to run a moment before its code does
            return text if "turnout-supervisor" in (text := "".join(lines)) and "wait_cancelled" in text else ""

        text = until(told)
        for job_id in jobs:
            assert f"job {job_id} " in text
        assert "await asyncio.Event().wait()" in text
        assert "in _deeper" in text
        assert worker.poll() is None


def test_sigusr1_tells_who_blocks_the_loop(cli: Cli) -> None:
    """When user code blocks the event loop the stacks say where."""
    with cli.process("worker", "odd", "-o", "json") as worker:
        first_document(worker)
        lines = lines_of(worker)
        cli("job", "submit", "block", '{"seconds": 8}')
        until(lambda: "has been blocked" in "".join(lines))
        del lines[:]
        worker.send_signal(signal.SIGUSR1)
        until(lambda: "SIGUSR1" in (text := "".join(lines)) and "time.sleep(seconds)" in text)


def test_a_node_is_drained_from_afar(cli: Cli) -> None:
    """It takes no more jobs, is shown as draining, aborts what runs after its grace, and exits 0; another goes on."""
    with healthy(cli, "--name", "first", "--grace", "6") as (worker, health):
        job_id = begin(cli, "wait")
        (node,) = cli.json("node", "ls")
        shown = cli.json("node", "show", "first")
        assert (shown["id"], [job["id"] for job in shown["jobs"]]) == (node["id"], [job_id])
        assert job_id in cli("node", "show", node["id"]).stdout
        assert cli.json("node", "drain", "first") == {"id": node["id"], "state": "draining"}
        told = health.until("/readyz", 503)
        assert told == "the node is draining\n"
        assert health.get("/livez")[0] == 200
        with cli.process("worker", "odd", "--name", "second", "-o", "json") as second:
            other = first_document(second)
            info = cli.until(job_id, lambda info: info.attempt == 2 and info.state == "running")
            assert info.node == other["id"]
        assert worker.wait(30) == 0
    assert (info.aborts, info.losses, info.failures) == (1, 0, 0)


def test_draining_waits_for_the_node_if_told_to(cli: Cli) -> None:
    """`--wait` returns when an idle node has left; an unknown node is not found, a name of several is refused."""
    with cli.process("worker", "odd", "--name", "a", "-o", "json") as worker:
        first_document(worker)
        assert cli.json("node", "drain", "a", "--wait", "--timeout", "60")["state"] == "gone"
        assert worker.wait(30) == 0
    cli.error("node", "drain", "a", code=4)
    cli.error("node", "show", "a", code=4)
    same = ("worker", "odd", "--name", "b", "-o", "json")
    with cli.process(*same) as one, cli.process(*same) as two:
        first_document(one)
        first_document(two)
        assert "several" in cli.error("node", "drain", "b", code=2)


def test_a_signal_shortens_a_drain(cli: Cli) -> None:
    """SIGQUIT aborts what still runs while the node drains, too."""
    with cli.process("worker", "odd", "--name", "a", "--grace", "60", "-o", "json") as worker:
        first_document(worker)
        begin(cli, "wait")
        cli("node", "drain", "a")
        worker.send_signal(signal.SIGQUIT)
        assert worker.wait(30) == 0
