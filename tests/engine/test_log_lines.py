"""What the log of a program with a worker says of jobs and workflows: a line for each failure, more for who asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from tests.support.values import job_record
from tests.support.waiting import until
from turnout import Client, Fatal, JobFaulted, RetryPolicy, activity, current_job, workflow
from turnout.core.changes import changes
from turnout.core.record import AttemptRecord, JobState, Outcome
from turnout.errors import WorkflowFaulted
from turnout.telemetry import log_lines

TWICE = RetryPolicy(max_attempts=2, delay=0.3, jitter=0)


@activity(retry=TWICE)
async def flickers(until: int) -> int:
    attempt = current_job().attempt
    if attempt < until:
        raise LookupError("no such file")
    return attempt


@activity(timeout=0.05, retry=RetryPolicy.none())
async def dawdles() -> None:
    await asyncio.sleep(60)


@activity
async def gives_up() -> None:
    raise Fatal("100 % wrong")


@workflow(fail_on=(ValueError,))
async def greets(name: str) -> str:
    if name == "nobody":
        raise ValueError("no name")
    return f"hello {name}"


@workflow(fail_on=(ValueError,))
async def stumbles() -> None:
    raise ValueError("again")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The lines about jobs and workflows, from INFO up."""
    with (
        caplog.at_level(logging.INFO, log_lines.attempts.name),
        caplog.at_level(logging.INFO, log_lines.runs.name),
    ):
        yield caplog


def of(log: pytest.LogCaptureFixture, subject: str) -> list[tuple[str, str]]:
    """Level and text of the lines about this job or workflow, with the durations taken out."""
    wanted = ("turnout_job", "turnout_workflow")
    found = [each for each in log.records if subject in [getattr(each, key, None) for key in wanted]]
    return [(each.levelname, _without_times(each.getMessage())) for each in found if each.name in log_lines.OF_EACH_JOB]


def _without_times(text: str) -> str:
    words = text.split(" ")
    return " ".join("T" if words[n + 1 : n + 2] in (["s"], ["s:"], ["s,"]) else word for n, word in enumerate(words))


async def said(log: pytest.LogCaptureFixture, subject: str, count: int) -> None:
    """Return when so many lines are about the subject."""

    async def enough() -> bool:
        return len(of(log, subject)) >= count

    await until(enough)


async def test_a_failure_is_a_warning_and_an_end_has_its_duration(
    turnout_client: Client, turnout_worker: Any, lines: pytest.LogCaptureFixture
) -> None:
    """A start and a good end are INFO, a failure a WARNING with why, its traceback and when it is tried again."""
    async with turnout_worker(flickers):
        handle = await turnout_client.submit(flickers, until=2)
        await handle.result(timeout=30)
    assert of(lines, handle.id) == [
        ("INFO", f"job {handle.id} attempt 1 has started"),
        (
            "WARNING",
            f"job {handle.id} attempt 1 has failed after T s, the next one is due in T s: LookupError: no such file",
        ),
        ("INFO", f"job {handle.id} attempt 2 has started"),
        ("INFO", f"job {handle.id} attempt 2 has completed after T s"),
    ]
    info = await handle.info()
    [failed] = [
        each for each in lines.records if each.levelno == logging.WARNING and each.__dict__["turnout_job"] == handle.id
    ]
    given = {
        name: failed.__dict__[name] for name in ("turnout_activity", "turnout_attempt", "turnout_node", "trace_id")
    }
    assert given == {
        "turnout_activity": "flickers",
        "turnout_attempt": 1,
        "turnout_node": info.attempts[0].node,
        "trace_id": info.trace_id,
    }
    assert 'raise LookupError("no such file")' in (text := logging.Formatter().format(failed))
    assert "due in 0.3 s" in text


@pytest.mark.parametrize(
    ("each", "arguments", "text"),
    [
        (flickers, {"until": 9}, "has faulted with attempt 2 (failed): LookupError: no such file"),
        (dawdles, {}, "has faulted with attempt 1 (timed_out): TimeoutError: the attempt took longer than T s"),
        (gives_up, {}, "has faulted with attempt 1 (fatal): Fatal: 100 % wrong"),
    ],
    ids=["failed", "timed out", "fatal"],
)
async def test_a_fault_is_an_error(
    turnout_client: Client,
    turnout_worker: Any,
    lines: pytest.LogCaptureFixture,
    each: Any,
    arguments: dict[str, Any],
    text: str,
) -> None:
    """The end of a job by failure is one line at ERROR, with the reason; the attempt that it was is no line more."""
    async with turnout_worker(each):
        handle = await turnout_client.submit(each, **arguments)
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
    worst = [line for line in of(lines, handle.id) if line[0] != "INFO"]
    assert worst[-1] == ("ERROR", f"job {handle.id} {text}")
    assert len(worst) == (2 if each is flickers else 1)


async def test_what_a_supervisor_ends_is_a_line_as_well(
    turnout_client: Client, turnout_worker: Any, lines: pytest.LogCaptureFixture
) -> None:
    """A job that expires before anybody has begun it is an ERROR of whoever supervises."""
    handle = await turnout_client.submit(flickers.options(expires_in=0.2, delay=60), until=1)
    async with turnout_worker(gives_up):
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        await said(lines, handle.id, 1)
    [(level, text)] = of(lines, handle.id)
    assert level == "ERROR"
    assert text.startswith(f"job {handle.id} has faulted (expired): ")


async def test_a_lost_attempt_is_a_warning_that_names_its_node(lines: pytest.LogCaptureFixture) -> None:
    """Also where the same write begins the next attempt: what is lost is said of the one that was."""
    first = AttemptRecord(1, 1, "gone-1", 1_000.0, span_id="aa" * 8)
    before = job_record("j", "act", JobState.running, attempt=1, attempts=(first,))
    ended = attrs.evolve(first, outcome=Outcome.lost, ended_at=1_010.0)
    second = AttemptRecord(2, 1, "here-2", 1_010.0)
    after = attrs.evolve(before, attempt=2, losses=1, attempts=(ended, second))
    log_lines.saved(after, changes(before, after))
    assert of(lines, "j") == [
        ("WARNING", "job j attempt 1 is lost: node gone-1 has vanished"),
        ("INFO", "job j attempt 2 has started"),
    ]
    given = [(each.__dict__["turnout_attempt"], each.__dict__["turnout_node"]) for each in lines.records]
    assert given == [(1, "gone-1"), (2, "here-2")]


async def test_a_stop_and_a_cancel_are_no_warnings(
    turnout_client: Client, turnout_worker: Any, lines: pytest.LogCaptureFixture
) -> None:
    """An attempt that an ordered stop has ended, and a job that somebody has cancelled, are lines at INFO."""
    handle = await turnout_client.submit(dawdles.options(timeout=60))
    async with turnout_worker(dawdles) as worker:
        await said(lines, handle.id, 1)
        await worker.stop(0)
    async with turnout_worker(dawdles):
        await said(lines, handle.id, 3)
        await handle.cancel()
        await said(lines, handle.id, 4)
    assert of(lines, handle.id) == [
        ("INFO", f"job {handle.id} attempt 1 has started"),
        ("INFO", f"job {handle.id} attempt 1 is aborted after T s: its node stops"),
        ("INFO", f"job {handle.id} attempt 2 has started"),
        ("INFO", f"job {handle.id} is cancelled in attempt 2"),
    ]


async def test_runs_of_workflows_have_the_same_lines(
    turnout_client: Client, turnout_worker: Any, lines: pytest.LogCaptureFixture
) -> None:
    """A run's start and good end are INFO, one that is tried again is a WARNING, the fault of a workflow an ERROR."""
    async with turnout_worker(workflows=[greets, stumbles]):
        well = await turnout_client.start(greets, "Ann")
        await well.result(timeout=30)
        badly: list[Any] = [
            await turnout_client.start(greets, "nobody"),
            await turnout_client.start(stumbles.options(retry=TWICE)),
        ]
        for each in badly:
            with pytest.raises(WorkflowFaulted):
                await each.result(timeout=30)
    assert of(lines, well.id) == [
        ("INFO", f"workflow {well.id} run 1 has started"),
        ("INFO", f"workflow {well.id} run 1 has completed after T s"),
    ]
    assert of(lines, badly[0].id)[1:] == [
        ("ERROR", f"workflow {badly[0].id} run 1 has faulted after T s (failed): ValueError: no name")
    ]
    assert of(lines, badly[1].id) == [
        ("INFO", f"workflow {badly[1].id} run 1 has started"),
        ("WARNING", f"workflow {badly[1].id} run 1 has failed, the next one is due in T s: ValueError: again"),
        ("INFO", f"workflow {badly[1].id} run 2 has started"),
        ("ERROR", f"workflow {badly[1].id} run 2 has faulted after T s (failed): ValueError: again"),
    ]
    [fault] = [line for line in lines.records if line.levelno == logging.ERROR and badly[0].id in line.getMessage()]
    assert 'raise ValueError("no name")' in logging.Formatter().format(fault)
    assert (fault.__dict__["turnout_workflow_name"], fault.__dict__["turnout_run"]) == ("greets", 1)


async def test_a_level_that_is_off_costs_nothing(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """At WARNING there is no line for what goes well, neither of jobs nor of workflows."""
    with caplog.at_level(logging.WARNING, "turnout"):
        async with turnout_worker(flickers, workflows=[greets]):
            await (await turnout_client.submit(flickers, until=1)).result(timeout=30)
            await (await turnout_client.start(greets, "Ann")).result(timeout=30)
    assert [each for each in caplog.records if each.name in log_lines.OF_EACH_JOB] == []
