"""Activities in child processes, with real ones: what they return, how they report, and that they can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from turnout.core.failure import Failure, FaultReason
from turnout.core.loglines import Line
from turnout.core.record import Progress
from turnout.definition import Activity, activity
from turnout.errors import DefinitionError, PayloadTooLarge
from turnout.worker.context import JobFacts
from turnout.worker.process.parent import ChildCall, ChildResult, locate, run_in_child

HERE = Path(__file__).parent


class Recorder:
    """A host that keeps what it is told."""

    def __init__(self, refuse: Exception | None = None) -> None:
        self.reports: list[Progress] = []
        self.beats = 0
        self.checkpoints: list[str] = []
        self.slowed_down: list[tuple[str, float]] = []
        self.lines: list[Line] = []
        self.refuse = refuse

    def report(self, progress: Progress) -> None:
        self.reports.append(progress)

    def beat(self) -> None:
        self.beats += 1

    def log(self, line: Line) -> None:
        self.lines.append(line)

    async def checkpoint(self, text: str) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.checkpoints.append(text)

    async def slow_down(self, limit: str, seconds: float) -> None:
        self.slowed_down.append((limit, seconds))


@pytest.fixture(scope="module")
def activities() -> Any:
    """The module of activities, importable by its name here and so in the children."""
    sys.path.insert(0, str(HERE))
    try:
        yield importlib.import_module("child_activities")
    finally:
        sys.path.remove(str(HERE))


def call(function: Activity[..., Any], *args: Any, restored: str | None = None) -> ChildCall:
    facts = JobFacts(
        id="j1",
        activity=function.name,
        attempt=2,
        node="n",
        labels={"k": "v"},
        submitted_at=dt.datetime(2030, 1, 1, tzinfo=dt.UTC).timestamp(),
        restored=restored,
    )
    return ChildCall(activity=function, payload=function.bind(*args), facts=facts)


async def run(function: Activity[..., Any], *args: Any, host: Recorder | None = None, **kwargs: Any) -> ChildResult:
    return await run_in_child(call(function, *args, **kwargs), host or Recorder())


async def fails(function: Activity[..., Any], *args: Any) -> Failure:
    result = await run(function, *args)
    assert result.text is None
    assert result.failure is not None
    return result.failure


async def until(condition: Callable[[], Any], limit_s: float = 60) -> Any:
    async with asyncio.timeout(limit_s):
        while not (value := condition()):
            await asyncio.sleep(0.01)
    return value


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# -- results and errors


async def test_a_child_has_no_credentials(activities: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the worker's environment a child gets where the server is, and nothing that lets it be the worker."""
    monkeypatch.setenv("NATS_URL", "nats://me:secret@here:4222,nats://token@there")
    for name in ("NATS_USER", "NATS_PASSWORD", "NATS_TOKEN", "NATS_CREDS", "NATS_NKEY", "NATS_CONTEXT"):
        monkeypatch.setenv(name, "mine")
    result = await run(activities.environment)
    assert json.loads(result.text or "") == {"NATS_URL": "nats://here:4222,nats://there"}


async def test_a_path_among_the_import_paths_is_as_good_as_its_text(
    activities: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What people put into `sys.path` reaches a child, text or not."""
    entries: list[Any] = sys.path
    monkeypatch.setattr(sys, "path", [*entries, tmp_path])
    assert (await run(activities.environment)).failure is None


async def test_a_result_comes_back_from_another_process(activities: Any) -> None:
    """The function runs in a process of its own, sees its job, and its result is encoded by its annotation."""
    result = await run(activities.look)
    assert result.text is not None
    found = activities.look.codec.decode_result(result.text)
    assert (found.job, found.attempt, found.labels) == ("j1", 2, {"k": "v"})
    assert found.pid not in (os.getpid(), found.parent)
    assert not alive(found.pid)
    assert not alive(found.parent)


async def test_large_values_go_there_and_back(activities: Any) -> None:
    """A payload and a result of several megabytes pass the pipe unharmed."""
    text = "ä\n" * 2_000_000
    result = await run(activities.echo, text)
    assert activities.echo.codec.decode_result(result.text or "") == text


async def test_an_exception_comes_with_its_traceback(activities: Any) -> None:
    """What the code raised is known by class, bases, message, and a traceback that begins in the user's code."""
    failure = await fails(activities.fail, "raise")
    assert (failure.fault, failure.error.type) == (None, "LookupError")
    assert failure.mro[:2] == ("builtins.LookupError", "builtins.Exception")
    assert failure.error.message.startswith("no such page")
    assert "_innermost" in failure.error.traceback
    assert "turnout/worker" not in failure.error.traceback


async def test_fatal_and_retry_later_are_recognised(activities: Any) -> None:
    """The two errors that steer retries keep their meaning across the process boundary."""
    assert (await fails(activities.fail, "fatal")).fault is FaultReason.fatal
    later = await fails(activities.fail, "later")
    assert (later.fault, later.retry_after, later.error.message) == (None, 7.0, "busy")


@pytest.mark.parametrize(
    ("how", "words"),
    [("os._exit", "exited with code 3"), ("segfault", "SIGSEGV"), ("kill", "SIGKILL")],
)
async def test_a_child_that_dies_says_how(activities: Any, how: str, words: str) -> None:
    """A process that ends without an answer is a failure that names its exit code or signal."""
    failure = await fails(activities.fail, how)
    assert (failure.fault, failure.error.type) == (None, "ChildDied")
    assert words in failure.error.message
    assert "builtins.Exception" in failure.mro


async def test_sys_exit_is_an_exception_like_others(activities: Any) -> None:
    """`sys.exit()` in an activity is a failure of the attempt, which the retry policy decides about."""
    failure = await fails(activities.fail, "sys.exit")
    assert (failure.fault, failure.error.type) == (None, "CodeExit")
    assert "builtins.Exception" in failure.mro


async def test_bad_payloads_and_results_are_told_apart(activities: Any) -> None:
    """What the codec refuses, before and after the function, is known as such."""
    bad = ChildCall(activity=activities.count_up, payload='{"until": "x"}', facts=call(activities.look).facts)
    refused = await run_in_child(bad, Recorder())
    assert refused.failure is not None
    assert refused.failure.fault is FaultReason.invalid_payload
    assert "until" in refused.failure.error.message
    assert (await fails(activities.wrong_result)).fault is FaultReason.invalid_result


# -- reports


async def test_checkpoints_and_progress_reach_the_host(activities: Any) -> None:
    """Every checkpoint is stored before the code goes on, progress arrives in order, and the last one always; and what
    slows a limit down."""
    host = Recorder()
    result = await run(activities.count_up, 5, host=host, restored="2")
    assert result.text == "2"
    assert host.checkpoints == ["3", "4", "5"]
    assert host.slowed_down == [("api", 30.0)]
    assert host.reports[-1] == Progress(5, 5, "step 5")
    assert [p.done for p in host.reports] == sorted(p.done for p in host.reports)


async def test_a_refused_checkpoint_raises_in_the_code(activities: Any) -> None:
    """When a checkpoint cannot be stored, the code that asked for it gets the worker's error."""
    result = await run(activities.store, {"a": 1}, host=Recorder(refuse=PayloadTooLarge("2 GB")))
    assert result.text == '"PayloadTooLarge: 2 GB"'
    result = await run(activities.store, {"a": 1}, host=Recorder(refuse=ValueError("odd")))
    assert result.text == '"TurnoutError: ValueError: odd"'


async def test_log_records_are_written_by_the_worker(activities: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Log lines of the child come out of the worker's own logging, with the job and the traceback; levels count."""
    with caplog.at_level(logging.INFO):
        await run(activities.talk)
    first, second = (r for r in caplog.records if r.name in ("turnout.job.talk", "some.library"))
    assert (first.getMessage(), first.levelname) == ("from the child", "WARNING")
    assert first.__dict__["turnout_job"] == "j1"
    assert second.getMessage() == "caught"
    assert "_innermost" in (second.exc_text or "")


async def test_a_clean_run_writes_nothing_to_stderr(activities: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """The machinery itself says nothing on the terminal."""
    await run(activities.look)
    assert capfd.readouterr() == ("", "")


# -- stopping


async def test_code_that_listens_stops_politely(activities: Any, tmp_path: Path) -> None:
    """A cancelled call tells the code its reason; what it then returns counts."""
    task = asyncio.create_task(
        run_in_child(call(activities.wait_politely, str(tmp_path / "s")), Recorder(), reason=lambda: "node_stopping")
    )
    await until((tmp_path / "s").exists)
    task.cancel()
    assert await task == ChildResult(text='"stopped: node_stopping"')


@pytest.mark.parametrize("how", ["c", pytest.param("python", marks=pytest.mark.breadth)])
async def test_code_that_does_not_listen_is_killed_with_all_it_started(
    activities: Any, tmp_path: Path, how: str
) -> None:
    """Code that holds the interpreter lock in C, or loops for ever, is gone after the grace, and so is its child."""
    file = tmp_path / "s"
    task = asyncio.create_task(run_in_child(call(activities.hold, str(file), how), Recorder(), kill_grace_s=0.2))
    await until(file.exists)
    pids = [int(pid) for pid in file.read_text().split()]
    assert all(alive(pid) for pid in pids)
    asked = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - asked < 20
    assert not any(alive(pid) for pid in pids)


async def test_a_second_cancel_does_not_leave_processes_behind(activities: Any, tmp_path: Path) -> None:
    """Cancelling again while the child has its grace kills it at once, and completely."""
    file = tmp_path / "s"
    task = asyncio.create_task(run_in_child(call(activities.hold, str(file), "python"), Recorder(), kill_grace_s=60))
    await until(file.exists)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)
    assert not any(alive(int(pid)) for pid in file.read_text().split())


async def test_what_a_returning_activity_left_behind_is_killed(activities: Any, tmp_path: Path) -> None:
    """An attempt that has returned leaves no process; threads that go on do not hold its result back for long."""
    result = await run(activities.leave_behind, str(tmp_path / "s"))
    assert not alive(int(result.text or ""))


@pytest.mark.parametrize("how", ["c", pytest.param("python", marks=pytest.mark.breadth)])
async def test_nothing_outlives_a_killed_worker(tmp_path: Path, how: str) -> None:
    """When the worker is killed with SIGKILL, the child and what it started are gone within seconds."""
    file = tmp_path / "s"
    worker = tmp_path / "worker.py"
    worker.write_text(
        textwrap.dedent(f"""
            import asyncio, sys
            sys.path.insert(0, {str(HERE)!r})
            import child_activities
            from turnout.worker.context import JobFacts
            from turnout.worker.process.parent import ChildCall, run_in_child
            class Host:
                def report(self, progress): ...
                def beat(self): ...
                def log(self, line): ...
                async def checkpoint(self, text): ...
                async def slow_down(self, limit, seconds): ...
            facts = JobFacts(id="j", activity="hold", attempt=1, node="n")
            payload = child_activities.hold.bind({str(file)!r}, {how!r})
            asyncio.run(run_in_child(ChildCall(activity=child_activities.hold, payload=payload, facts=facts), Host()))
        """)
    )
    process = subprocess.Popen([sys.executable, str(worker)])
    await until(file.exists)
    pids = [int(pid) for pid in file.read_text().split()]
    assert all(alive(pid) for pid in pids)
    process.send_signal(signal.SIGKILL)
    process.wait()
    await until(lambda: not any(alive(pid) for pid in pids), limit_s=5)


# -- what cannot run there


def test_a_function_must_be_importable(activities: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of the script that is run, local ones, and hidden ones are refused in words that say what to do."""

    @activity(run_in="process")
    def local() -> None: ...

    with pytest.raises(DefinitionError, match=r"local.*not at the top"):
        locate(local)
    monkeypatch.setattr(activities.echo.fn, "__module__", "__main__")
    with pytest.raises(DefinitionError, match="module of its own"):
        locate(activities.echo)
    monkeypatch.undo()
    hidden = activities.echo.options()
    monkeypatch.setattr(activities, "echo", lambda value: value)
    with pytest.raises(DefinitionError, match="something else"):
        locate(hidden)


def test_options_of_a_submission_do_not_hide_the_function(activities: Any) -> None:
    """An activity with `.options(...)`, or one whose name in the module is another, is found by its function."""
    assert locate(activities.look.options(id="a")) == (activities.__name__, "look")
