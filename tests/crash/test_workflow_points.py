"""A worker dies before each effect of a workflow's records, and another one goes on: nothing is lost, nothing hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.crash.flows import LINES, everything, long_one
from tests.crash.scene import Scene, scene
from tests.support.waiting import until
from turnout import WorkflowExists, WorkflowState
from turnout.testing import NatsServer

TOGETHER = 4
POINTS = (
    *("workflow.Dispatch", "workflow.Dispatch:3", "workflow.SetTimer", "workflow.ClearTimer", "workflow.CancelJob"),
    *("workflow.StartChild", "workflow.SendSignal", "workflow.SendCancel", "workflow.SendJoin", "workflow.Tell"),
    *("workflow.EndChild", "workflow.ClearTimers", "workflow.Wake", "workflow.PurgeRecords"),
    *("workflow.ScheduleCollection", "Completed.TellParent", "Cancelled.TellParent", "Failed.TellParent"),
)
"""Where the worker dies, and at which of the times that it is there."""

FORKING = ("fork.copied", "start.woken", "start.recorded", "workflow.Dispatch")
"""Where whoever forks dies."""


async def goes_on(s: Scene) -> None:
    """The workflow ends with the right result, each of its steps was taken, and nothing is left that waits for it."""
    path = s.gate.with_name("lines")
    victim = await s.victim()
    handle = await s.client.start(everything.options(id="w"), str(path))
    await s.died(victim)
    await s.healthy()
    assert await handle.result(timeout=s.patience_s) == 2
    assert set(path.read_text().splitlines()) == LINES

    async def nothing_left() -> bool:
        open_ones = [info async for info in s.client.workflows(state=["running", "stuck", "scheduled"])]
        inbox = await s.client.store.connection.api(
            f"STREAM.INFO.{s.client.store.names.inbox}", {"subjects_filter": ">"}
        )
        waiting = [subject for subject in inbox["state"].get("subjects") or {} if not subject.endswith(".gc")]
        jobs = await s.client.store.connection.api(f"STREAM.INFO.{s.client.store.names.work}")
        return not open_ones and not _awaited(waiting) and jobs["state"]["messages"] == 0

    await until(nothing_left, s.patience_s)
    assert (await s.client.count_workflows())[WorkflowState.completed] == 2  # itself, and the one that heard a word


def _awaited(subjects: Iterable[str]) -> list[str]:
    """What is not the timer of a collection that lies days ahead."""
    return [subject for subject in subjects if ".wftimers." not in subject]


@pytest.mark.timeout(900)
async def test_a_crash_before_every_effect_of_a_workflow(nats_server: NatsServer, tmp_path: Path) -> None:
    """Whatever was not done yet when the worker died is done by the next one, once."""
    together = asyncio.Semaphore(TOGETHER)
    wrong: dict[str, Exception] = {}

    async def one(number: int, point: str) -> None:
        directory = tmp_path / str(number)
        directory.mkdir()
        async with together:
            try:
                async with scene(nats_server, directory, point) as s:
                    await goes_on(s)
            except Exception as error:  # the other scenes go on
                wrong[point] = error

    await asyncio.gather(*(one(number, point) for number, point in enumerate(POINTS)))
    if wrong:
        raise ExceptionGroup(", ".join(wrong), list(wrong.values()))


def fork_of(point: str) -> str:
    """The id of the fork whose first client dies there."""
    return f"at-{point.replace('.', '-')}"


@pytest.mark.timeout(400)
async def test_a_fork_whose_client_and_worker_die(nats_server: NatsServer, tmp_path: Path) -> None:
    """Whoever forks dies between any two of its steps, asks again by the same id, and has one fork; the first worker
    that makes sure of it dies, too. What is shared is not run again, and what comes behind it is, in one job each."""
    async with scene(nats_server, tmp_path, "workflow.Dispatch") as s:
        path = str(tmp_path / "lines")
        first = await s.healthy("first")
        origin = await s.client.start(long_one.options(id="origin"), path, 1, 3)
        result = await origin.result(timeout=s.patience_s)
        asked = [n for n, event in enumerate(await origin.history(), 1) if event.kind == "ask_activity"]
        await first.kill()
        at = asked[1] + 1  # the second step is asked for, and has not ended there
        dead = await asyncio.gather(
            *(s.fleet.client("fork", fork_of(point), str(at), crash_at=point) for point in FORKING)
        )
        for client, point in zip(dead, FORKING, strict=True):
            await client.wait()
            assert f"dies at {point}" in client.log.read_text()
        taken = set()
        for point in FORKING:
            try:
                await origin.fork(at, fork_of(point))
            except WorkflowExists:
                taken.add(point)
        assert taken == {"start.recorded", "workflow.Dispatch"}
        await s.died(await s.victim())
        await s.healthy()
        for point in FORKING:
            fork = s.client.workflow(fork_of(point))
            assert await fork.result(timeout=s.patience_s) == result
            jobs = [job async for job in s.client.jobs(workflow=fork.id)]
            outcomes = [[attempt.outcome.value for attempt in job.attempts] for job in jobs]
            assert [each.count("completed") for each in outcomes] == [1, 1], outcomes
