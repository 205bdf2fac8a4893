"""What jobs log: every line knows its job, and the last ones are kept; all on a real server."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.log_activities import (
    flood,
    library,
    odd,
    said,
    silent,
    steadily,
    tell,
    tell_in_process,
    tell_in_thread,
)
from tests.support.waiting import until
from turnout import Client, JobContextFilter, JobHandle, JobNotFound, LogLine, Worker
from turnout.client import job_logs
from turnout.core.loglines import LINE_BYTES, Line, cut
from turnout.nats import link
from turnout.store.job_logs import JobLogs
from turnout.store.topology import Topology, TopologyOptions, stream_configs
from turnout.testing import ActivityEnvironment, NatsServer
from turnout.worker.log_buffer import LINES_MAX

FIELDS = ("turnout_job", "turnout_activity", "turnout_attempt", "turnout_node", "trace_id", "span_id")


class Kept(logging.Handler):
    """A program's handler that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(JobContextFilter())
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, name: str) -> list[logging.LogRecord]:
        return [record for record in self.records if record.name == name]


@pytest.fixture
def handler() -> Iterator[Kept]:
    """A handler of the root logger, which lets INFO through."""
    kept, root = Kept(), logging.getLogger()
    level = root.level
    root.addHandler(kept)
    root.setLevel(logging.INFO)
    yield kept
    root.removeHandler(kept)
    root.setLevel(level)


def messages(lines: list[LogLine]) -> list[str]:
    return [line.message.partition("\n")[0] for line in lines]


# -- every line knows its job


async def test_every_line_inside_a_job_carries_the_job(
    turnout_client: Client, turnout_worker: Any, handler: Kept
) -> None:
    """job.log and a library's logger, on the loop, in a thread and in a child process: the same six fields."""
    async with turnout_worker(tell, tell_in_thread, tell_in_process) as worker:
        for activity in (tell, tell_in_thread, tell_in_process):
            handle = await turnout_client.submit(activity)
            await handle.result(timeout=30)
            info = await handle.info()
            of_it = [r for r in handler.records if r.__dict__["turnout_job"] == handle.id]
            records = [r for r in of_it if r.name != "turnout.attempts"]  # the worker's own
            assert {r.name for r in records} == {f"turnout.job.{activity.name}", "some.library"}
            for record in records:
                carried = [record.__dict__[name] for name in FIELDS]
                assert carried[:5] == [handle.id, activity.name, 1, worker.id, info.trace_id]
                assert re.fullmatch("[0-9a-f]{16}", carried[5])
    assert handler.of("some.library")[-1].__dict__["order"] == 7


async def test_a_line_names_where_it_was_logged(turnout_client: Client, turnout_worker: Any, handler: Kept) -> None:
    """`job.log` does not hide the user's line behind one of turnout."""
    async with turnout_worker(tell):
        await (await turnout_client.submit(tell)).result(timeout=30)
    assert {(r.filename, r.funcName) for r in handler.of("turnout.job.tell")} == {("log_activities.py", "tell")}


async def test_outside_of_a_job_the_fields_are_empty(handler: Kept) -> None:
    """A format may name the fields: a line that is about no job has them, too."""
    library.warning("nobody's")
    assert [handler.records[-1].__dict__[name] for name in FIELDS] == ["", "", 0, "", "", ""]


async def test_the_workers_own_lines_about_a_job_carry_it(
    turnout_client: Client, turnout_worker: Any, handler: Kept
) -> None:
    """What the worker says of an attempt whose lease it has lost is found by the job's id."""
    async with turnout_worker(steadily):
        handle = await turnout_client.submit(steadily, lines=600, pause=0.05)
        stored = turnout_client.store.names.record("steadily", handle.id)

        async def running() -> bool:
            return (await handle.info()).state == "running"

        await until(running)
        await turnout_client.store.connection.store(stored, b"", {"KV-Operation": "DEL"})

        async def warned() -> list[logging.LogRecord]:
            return [r for r in handler.of("turnout.worker") if "lease is lost" in r.getMessage()]

        [record] = await until(warned)
        assert record.__dict__["turnout_job"] == handle.id
        assert record.__dict__["turnout_attempt"] == 1


# -- the lines are kept


async def test_the_lines_are_there_after_the_end_for_anybody(
    turnout_client: Client, turnout_worker: Any, nats_server: NatsServer
) -> None:
    """Another client reads the lines of every attempt, in order, with level, node, time and the exception's text."""
    async with turnout_worker(tell) as worker:
        handle = await turnout_client.submit(tell, fail=True)
        assert await handle.result(timeout=30) == 2
    async with Client.connect(nats_server.url, namespace=turnout_client.namespace) as other:
        lines = await other.job(handle.id).logs()
    assert messages(lines) == ["it begins with 1", "it went wrong", "it begins with 2", "it went wrong"]
    assert [(line.level, line.attempt) for line in lines] == [("INFO", 1), ("ERROR", 1), ("INFO", 2), ("ERROR", 2)]
    assert {line.node for line in lines} == {worker.id}
    assert lines[1].message.endswith("LookupError: deep down")
    info = await handle.info()
    assert info.started_at is not None
    assert info.finished_at is not None
    late = dt.timedelta(seconds=1)  # their clocks are the node's and the server's
    assert [line.time for line in lines] == sorted(line.time for line in lines)
    assert info.submitted_at - late <= lines[0].time <= lines[-1].time <= info.finished_at + late
    assert await handle.logs(attempt=2) == lines[2:]
    assert await handle.logs(3) == lines[1:]


@pytest.mark.parametrize(("level", "kept"), [(logging.CRITICAL, 2), (logging.DEBUG, 3)])
async def test_levels_of_the_program_do_not_decide(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture, level: int, kept: int
) -> None:
    """INFO and above is kept though the program shows nothing of it; DEBUG where the logger is enabled for it."""
    caplog.set_level(level, "turnout.job.tell")
    async with turnout_worker(tell):
        handle = await turnout_client.submit(tell)
        await handle.result(timeout=30)
    assert len(await handle.logs()) == kept


async def test_an_odd_line_ends_nothing(turnout_client: Client, turnout_worker: Any) -> None:
    """Arguments by name, a bad format, half a surrogate pair, control characters, an endless line: the job goes on."""
    async with turnout_worker(odd):
        handle = await turnout_client.submit(odd)
        await handle.result(timeout=30)
    named, bad, half, control, endless = await handle.logs()
    assert named.message == "7 of {'n': 7}"
    assert "can't be told: TypeError" in bad.message
    assert half.message == "a \\udc80"
    assert control.message == "\x1b[31m\x00"
    assert len(endless.message.encode()) <= LINE_BYTES
    assert re.fullmatch(r"é+\.\.\. \(\d+ bytes\) \.\.\.é+", endless.message)


def test_a_long_line_keeps_both_ends() -> None:
    """What is cut is in the middle: the beginning says what happened, and the end of a traceback why."""
    text = cut("begin" + "x" * 10_000 + "end")
    assert text.startswith("begin")
    assert text.endswith("end")
    assert len(text) <= LINE_BYTES


async def test_a_job_that_never_logs_leaves_nothing(turnout_client: Client, turnout_worker: Any) -> None:
    """No message is written for it, and its lines are an empty list."""
    async with turnout_worker(silent):
        handle = await turnout_client.submit(silent)
        await handle.result(timeout=30)
    assert await handle.logs() == []
    connection, names = turnout_client.store.connection, turnout_client.store.names
    assert (await connection.api(f"STREAM.INFO.{names.logs}"))["state"]["last_seq"] == 0


@pytest.mark.parametrize("activity", [flood, tell_in_process], ids=["loop", "child"])
async def test_a_flood_is_bounded(turnout_client: Client, turnout_worker: Any, activity: Any) -> None:
    """Of 20,000 lines within a moment about 200 a second are kept, the newest, and it is said how many are not."""
    async with turnout_worker(activity):
        handle = await turnout_client.submit(activity, lines=20_000)
        await handle.result(timeout=60)
        lines = await handle.logs()
        info = await handle.info()
    assert info.finished_at is not None
    assert info.started_at is not None
    took_s = (info.finished_at - info.started_at).total_seconds()
    gaps = [line for line in lines if re.fullmatch(r"\.\.\. \d+ lines dropped", line.message)]
    dropped = sum(int(line.message.split()[1]) for line in gaps)
    told = len(lines) - len(gaps)
    assert gaps
    assert told <= LINES_MAX * (took_s + 1)
    assert "line 19999" in lines[-1].message
    if activity is flood:
        assert told + dropped == 20_000


async def test_nothing_waits_for_a_server_that_is_away_and_the_lines_come_later() -> None:
    """While the server is dead a job logs on; the lines are there when it is back, each once."""
    with NatsServer() as server:
        async with Client.connect(server.url) as client, Worker(client, activities=[steadily]):
            handle = await client.submit(steadily, lines=60, pause=0.05)

            async def some() -> list[LogLine]:
                return await handle.logs()

            await until(some)
            server.kill()
            told = said["steadily"]

            async def told_on() -> bool:
                return said["steadily"] > told + 10

            await until(told_on)
            server.start()
            await handle.result(timeout=30)
            lines = await handle.logs()
            assert messages(lines) == [f"line {n}" for n in range(60)]
            assert (await handle.info()).attempt == 1


async def test_a_frozen_server_costs_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent to a server that had frozen is sent again, and stored once."""
    monkeypatch.setattr(link, "WATCH_MISSES", 1)
    with NatsServer() as server:
        async with Client.connect(server.url) as client, Worker(client, activities=[steadily]):
            handle = await client.submit(steadily, lines=80, pause=0.05)

            async def some() -> list[LogLine]:
                return await handle.logs()

            await until(some)
            server.pause()

            async def noticed() -> bool:
                return not client.store.connection.up

            await until(noticed)
            server.resume()
            await handle.result(timeout=30)
            assert messages(await handle.logs()) == [f"line {n}" for n in range(80)]


async def test_new_lines_are_followed_to_the_end(turnout_client: Client, turnout_worker: Any) -> None:
    """Whoever follows gets the lines that are kept, then the new ones while the job runs, and an end with the job."""
    async with turnout_worker(steadily):
        handle = await turnout_client.submit(steadily, lines=40, pause=0.05)
        states = []
        lines: list[LogLine] = []
        async with asyncio.timeout(30):
            async for line in handle.follow_logs():
                if not lines:
                    states.append((await handle.info()).state)
                lines.append(line)
        states.append((await handle.info()).state)
    assert messages(lines) == [f"line {n}" for n in range(40)]
    assert states == ["running", "completed"]


async def test_lines_that_are_stored_behind_the_end_are_read(
    turnout_client: Client, turnout_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines and records have streams of their own: where that of the lines is slower nobody misses the last ones."""
    append = JobLogs.append

    def late(self: JobLogs, *args: Any) -> None:
        asyncio.get_running_loop().call_later(0.15, append, self, *args)

    monkeypatch.setattr(JobLogs, "append", late)
    async with turnout_worker(steadily):
        handle = await turnout_client.submit(steadily, lines=3, pause=0.01)
        followed = asyncio.ensure_future(followed_to_the_end(handle))
        await handle.result(timeout=30)
        assert messages(await handle.logs()) == [f"line {n}" for n in range(3)]
        assert messages(await followed) == [f"line {n}" for n in range(3)]


async def followed_to_the_end(handle: JobHandle[Any]) -> list[LogLine]:
    return [line async for line in handle.follow_logs()]


async def test_following_survives_the_server(turnout_worker: Any) -> None:
    """Whoever follows gets every line once, though the server was killed and came back while the job ran."""
    with NatsServer() as server:
        async with Client.connect(server.url) as client, turnout_worker(steadily, client=client):
            handle = await client.submit(steadily, lines=50, pause=0.1)
            lines: list[LogLine] = []

            async def follow() -> None:
                async for line in handle.follow_logs():
                    lines.append(line)

            following = asyncio.create_task(follow())
            while not lines:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(3)  # it reads in vain meanwhile
            assert not client.store.connection.up
            assert not following.done()
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(following, 60)
            assert messages(lines) == [f"line {n}" for n in range(50)]


async def test_deleting_a_job_purges_its_lines(turnout_client: Client, turnout_worker: Any) -> None:
    """After delete() nothing of them is left, and those of other jobs are."""
    async with turnout_worker(tell):
        handles = [await turnout_client.submit(tell) for _ in range(2)]
        for handle in handles:
            await handle.result(timeout=30)
    gone, stays = handles
    await gone.delete()
    with pytest.raises(JobNotFound):
        await gone.logs()
    connection, names = turnout_client.store.connection, turnout_client.store.names
    info = await connection.api(f"STREAM.INFO.{names.logs}", {"subjects_filter": ">"})
    assert list(info["state"]["subjects"]) == [names.log("tell", stays.id)]


async def test_a_new_job_of_an_old_id_has_its_own_lines_alone(
    turnout_client: Client, turnout_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines outlive the record of a completed job: they do not show as those of the next job of its id."""
    monkeypatch.setattr(job_logs, "_LIVES_APART_S", 0.0)
    logs = turnout_client.store.logs
    logs.append("tell", "again", [Line(0.0, "INFO", 1, "n", "of the first life")])

    async def stored() -> list[Any]:
        return [batch async for batch in logs.read("tell", "again")]

    await until(stored)
    async with turnout_worker(tell):
        handle = await turnout_client.submit(tell.options(id="again"))
        await handle.result(timeout=30)
    assert messages(await handle.logs()) == ["it begins with 1", "it went wrong"]


async def test_an_unknown_job_has_no_logs(turnout_client: Client) -> None:
    """JobNotFound, with and without the activity's name."""
    for activity in (None, "tell"):
        with pytest.raises(JobNotFound):
            await turnout_client.job("nobody", activity).logs()
        with pytest.raises(JobNotFound):
            async for _ in turnout_client.job("nobody", activity).follow_logs():
                pass


# -- the stream


async def test_a_namespace_without_the_stream_works_and_gets_one(turnout_client: Client, turnout_worker: Any) -> None:
    """Before there is a stream of logs a job has no lines; the next worker that starts creates it."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    await connection.api(f"STREAM.DELETE.{names.logs}")
    handle = await turnout_client.submit(tell)
    assert await handle.logs() == []
    async with turnout_worker(tell):
        await handle.result(timeout=30)
    assert len(await handle.logs()) == 2
    config = (await connection.api(f"STREAM.INFO.{names.logs}"))["config"]
    [wanted] = [each for each in stream_configs(names, TopologyOptions()) if each["name"] == names.logs]
    assert {name: config.get(name) for name in wanted} == wanted


async def test_a_stream_that_vanishes_costs_one_warning(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """When nobody takes the lines, jobs complete all the same, and it is said once."""
    async with turnout_worker(tell):
        connection, names = turnout_client.store.connection, turnout_client.store.names
        await connection.api(f"STREAM.DELETE.{names.logs}")
        for handle in [await turnout_client.submit(tell) for _ in range(3)]:
            await handle.result(timeout=30)
            assert await handle.logs() == []
    told = [r for r in caplog.records if "can't be kept" in r.getMessage()]
    assert [r.levelname for r in told] == ["WARNING"]


OLD_PERMISSIONS = """
authorization { users = [
    { user: all, password: secret }
    { user: old, password: secret, permissions: { publish: { deny: [%s] } } }
] }
"""


@pytest.mark.parametrize(
    "denied", ['"turnout.logs.>"', '"turnout.logs.>", "$JS.API.STREAM.*.turnout_logs"'], ids=["publish", "everything"]
)
async def test_a_worker_that_may_not_write_there_works(denied: str, caplog: pytest.LogCaptureFixture) -> None:
    """With permissions from before there were logs every job completes, and one warning tells about the lines."""
    with NatsServer(config=OLD_PERMISSIONS % denied) as server:
        async with Client.connect(server.url, user="all", password="secret") as admin:
            async with Client.connect(server.url, user="old", password="secret") as client:
                caplog.clear()
                async with Worker(client, activities=[tell], concurrency=10):
                    handles = await admin.submit_many(tell, [{}] * 20)
                    for handle in handles:
                        await handle.result(timeout=30)
            assert await handles[0].logs() == []
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "job.tell" not in r.name]
    warnings = [told for told in warnings if "event loop has been blocked" not in told]  # by a busy machine
    assert len([told for told in warnings if "turnout.logs." in told]) == 1
    assert len(warnings) == (1 if "API" not in denied else 2), warnings


async def test_setup_keeps_what_was_chosen_for_the_stream(turnout_client: Client) -> None:
    """The stream of logs is one of those that `setup` looks after."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    changes = await Topology(connection, names).setup(TopologyOptions(log_days=3, log_bytes=10_000_000), dry_run=True)
    assert [(c.action, c.fields) for c in changes if c.name == names.logs] == [("update", ("max_age", "max_bytes"))]


async def test_without_a_server_the_environment_has_the_lines() -> None:
    """`ActivityEnvironment.logs` lists what a worker would keep."""
    env = ActivityEnvironment(attempt=2)
    await env.run(tell)
    assert messages(env.logs) == ["it begins with 2", "it went wrong"]
    assert {(line.attempt, line.node) for line in env.logs} == {(2, "test-node")}
