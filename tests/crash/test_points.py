"""A process dies at every named point there is; each time the job ends once, and as it should.

A matrix of fault x phase of the job. Each scene has a namespace of its own, a victim that dies at the point (that it
did is asserted), and healthy processes that come afterwards.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.crash import test_workflow_points as workflow_points
from tests.crash.activities import count_ends, play, play_limited, play_long, play_once
from tests.crash.scene import Scene, scene
from tests.support.values import job_record
from tests.support.waiting import until
from turnout import Schedule, crashpoints, wire
from turnout.core.lifecycle import record_of
from turnout.core.record import JobState
from turnout.core.spec import Body
from turnout.definition.fairness import Fairness
from turnout.testing import NatsServer

Play = Callable[[Scene], Awaitable[None]]
TOGETHER = 4
HIT: set[str] = set()
UNTRIED = {
    f"{event}.TellParent"
    for event in ("Aborted", "CancelRequested", "Expired", "Leftover", "Lost", "Received", "RetryRequested", "Stuck")
}
"""The rarer ways in which a workflow hears of a job's end: no scene dies there."""

UNTRIED |= {
    f"{event}.{effect}"
    for event in ("Snoozed", "Deferred")
    for effect in ("WriteDeadLetter", "Ack", "Replace", "Remove", "Abandon", "TellParent")
}
UNTRIED |= {f"Answered.{effect}" for effect in ("Save", "WriteDeadLetter", "Replace", "Remove", "TellParent", "done")}
UNTRIED |= {f"{event}.TakeOff" for event in ("Received", "Answered", "Lost", "Stuck", "Leftover")}
UNTRIED |= {"KeptAlive.Save", "KeptAlive.done"}
UNTRIED |= {f"Resubmitted.{effect}" for effect in ("WriteDeadLetter", "TellParent", "Remove", "Schedule")}
"""Effects that these share with other ends of attempts, and what a client does from outside."""


# --- a worker dies on the way of a delivery --------------------------------------------------------------------------


async def plain(s: Scene) -> None:
    """A job that reports a checkpoint and completes."""
    victim = await s.victim()
    handle = await s.client.submit(play, end="report")
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "completed")


async def invalid(s: Scene) -> None:
    """A message that makes no sense: faulted without an attempt."""
    victim = await s.victim()
    handle = s.client.job("j", "play")
    await s.client.store.connection.store(s.client.store.names.jobs("play", "j"), b"{}", {wire.OPTIONS: "nonsense"})
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "faulted")


async def fails_once(s: Scene) -> None:
    """The first attempt fails, the second completes."""
    victim = await s.victim()
    handle = await s.client.submit(play, end="fail")
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "completed")


async def fatal(s: Scene) -> None:
    """The first failure is final."""
    victim = await s.victim()
    handle = await s.client.submit(play, end="fatal")
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "faulted")


async def snoozes(s: Scene) -> None:
    """The code has nothing to do yet when it runs for the first time."""
    victim = await s.victim()
    handle = await s.client.submit(play, end="snooze")
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "completed")


async def left_to_others(s: Scene) -> None:
    """The code leaves it to somebody outside to complete the job."""
    victim = await s.victim()
    handle = await s.client.submit(play, end="later")
    await s.died(victim)
    await s.healthy()

    async def left() -> bool:
        info = await handle.info()
        return info.state == "running" and info.node is None

    await until(left, within_s=120.0)
    await handle.complete(1)
    await s.ends(handle, "completed")


async def early(s: Scene) -> None:
    """The message of a job that waits for its retry comes too early."""
    victim = await s.victim()
    handle = await s.client.submit(play, end="fail")
    await s.state(handle, "retrying")
    await s.give_back(handle)
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "completed")


async def early_and_worn_out(s: Scene, *, bare: bool) -> None:
    """It comes too early so often that the server delivers it no more."""
    victim = await s.victim()
    handle = await submit(s, bare=bare, end="fail")
    await s.state(handle, "retrying")
    await s.wear_out(handle, victim)
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "completed")


async def asked(s: Scene) -> None:
    """The message of a running job is delivered again, and its owner is asked."""
    victim = await s.victim()
    handle = await s.client.submit(play, gate=str(s.gate))
    await s.state(handle, "running")
    await s.give_back(handle)
    await s.died(victim)
    await s.healthy()
    s.gate.touch()
    await s.ends(handle, "completed")


async def worn_out(s: Scene, *, bare: bool) -> None:
    """The message of a running job has no deliveries left when the code fails."""
    victim = await s.victim()
    handle = await submit(s, bare=bare, end="fail", gate=str(s.gate))
    await s.state(handle, "running")
    await s.wear_out(handle, victim)
    s.gate.touch()
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "completed")


async def overtaken(s: Scene, *, end: str) -> None:
    """The owner lives, but was declared dead: when its code ends it finds out."""
    victim = await s.victim()
    handle = await s.client.submit(play_long, end=end, gate=str(s.gate))
    await s.state(handle, "running")
    await s.overtake(handle)
    s.gate.touch()
    await s.died(victim)
    await s.healthy()
    info = await s.ends(handle, "completed")
    assert info.attempts[0].outcome == "lost"


# --- while cancelling, while stopping --------------------------------------------------------------------------------


async def cancelled(s: Scene) -> None:
    """The code ends by the cancel that was asked for."""
    victim = await s.victim()
    handle = await s.client.submit(play, gate=str(s.gate))
    await s.state(handle, "running")
    await handle.cancel("enough")
    await s.died(victim)
    await s.healthy()
    info = await s.ends(handle, "cancelled")
    assert "enough" in (info.reason or "")


async def cancelled_and_overtaken(s: Scene) -> None:
    """While the code cleans up, its node is declared dead, which fulfils the cancel."""
    victim = await s.victim()
    handle = await s.client.submit(play_long, gate=str(s.gate), cleanup=4)
    await s.state(handle, "running")
    await handle.cancel("enough")
    await s.cleans_up()
    await s.overtake(handle)
    s.gate.with_name("gate-clean").touch()
    await s.died(victim)
    await s.healthy()
    info = await s.ends(handle, "cancelled")
    assert [a.outcome for a in info.attempts] == ["lost"]


async def aborted(s: Scene) -> None:
    """The node is stopped in order while the code runs."""
    victim = await s.victim()
    handle = await s.client.submit(play, gate=str(s.gate))
    await s.state(handle, "running")
    victim.send(signal.SIGTERM)
    await s.died(victim)
    await s.healthy()
    s.gate.touch()
    info = await s.ends(handle, "completed")
    assert info.failures == 0


async def aborted_and_cancelled(s: Scene) -> None:
    """While the code cleans up because its node stops, somebody asks for a cancel."""
    victim = await s.victim()
    handle = await s.client.submit(play_long, gate=str(s.gate), cleanup=4)
    await s.state(handle, "running")
    victim.send(signal.SIGTERM)
    await s.cleans_up()
    await handle.cancel("enough")
    s.gate.with_name("gate-clean").touch()
    await s.died(victim)
    await s.healthy()
    await s.supervisor()
    await s.ends(handle, "cancelled")


async def aborted_and_worn_out(s: Scene, *, bare: bool) -> None:
    """The node stops, and the message has no deliveries left to be given back with."""
    victim = await s.victim()
    handle = await submit(s, bare=bare, gate=str(s.gate))
    await s.state(handle, "running")
    await s.wear_out(handle, victim)
    victim.send(signal.SIGTERM)
    await s.died(victim)
    await s.healthy()
    s.gate.touch()
    await s.ends(handle, "completed")


async def aborted_and_overtaken(s: Scene) -> None:
    """While the code cleans up because its node stops, that node is declared dead."""
    victim = await s.victim()
    handle = await s.client.submit(play_long, gate=str(s.gate), cleanup=4)
    await s.state(handle, "running")
    victim.send(signal.SIGTERM)
    await s.cleans_up()
    await s.overtake(handle)
    s.gate.with_name("gate-clean").touch()
    await s.died(victim)
    await s.healthy()
    s.gate.touch()
    await s.ends(handle, "completed")


# --- a client dies ----------------------------------------------------------------------------------------------------


async def submits(s: Scene, *, verb: str) -> None:
    """A submitter dies: the job is there or it is not, and submitting its id again is safe."""
    await s.died(await s.fleet.client(verb, "j", crash_at=s.point))
    if verb == "submit-delayed":
        await s.supervisor()
    await s.healthy()
    handle = await s.client.submit(play.options(id="j", if_exists="join"))
    await s.ends(handle, "completed")


async def replaces(s: Scene) -> None:
    """Whoever replaces a job dies: that one has ended, and the new one is there, or is when it is submitted again."""
    await s.client.submit(play.options(id="j"), gate=str(s.gate))
    await s.died(await s.fleet.client("replace", "j", crash_at=s.point))
    await s.supervisor()
    await s.healthy()
    if s.point == "Resubmitted.Save":
        await s.client.submit(play.options(id="j", if_exists="replace"))
    info = await s.ends(s.client.job("j", "play"), "completed")
    assert (info.generation, info.attempt, info.payload) == (2, 1, {})


async def debounces(s: Scene) -> None:
    """Who submits the first of a burst dies: the next submission goes into the same job, or the sweep makes it run."""
    await s.died(await s.fleet.client("debounce", "k", crash_at=s.point))
    await s.supervisor()
    await s.healthy()
    if s.point != "Debounced.Schedule":
        await s.client.submit(play.options(debounce=2, debounce_key="k"), "report")
    for info in [info async for info in s.client.jobs()]:
        ended = await s.ends(s.client.job(info.id, "play"), "completed")
        assert ended.attempt == 1
    jobs = [info async for info in s.client.jobs()]
    assert len(jobs) <= 1 + (s.point == "Debounced.done"), "only what was submitted whole may have run before"


async def cancels_running(s: Scene) -> None:
    """Whoever cancels a running job dies: asking again is safe."""
    await s.healthy()
    handle = await s.client.submit(play, gate=str(s.gate))
    await s.state(handle, "running")
    await s.died(await s.fleet.client("cancel", handle.id, crash_at=s.point))
    if s.point == "CancelRequested.Save":
        await handle.cancel("again")
    await s.ends(handle, "cancelled")


async def cancels_queued(s: Scene) -> None:
    """Whoever cancels a queued job dies: it never starts, or has not been cancelled yet."""
    handle = await s.client.submit(play, gate=str(s.gate))
    await s.died(await s.fleet.client("cancel", handle.id, crash_at=s.point))
    await s.supervisor()
    await s.healthy()
    info = await s.ends(handle, "cancelled")
    assert info.attempt == 0


async def prioritizes(s: Scene, *, verb: str, delay_s: float = 0.0) -> None:
    """Whoever wants a job to be of another priority, or to run now, dies: it runs once, in time, from either lane."""
    await s.died(await s.fleet.client(verb, "j", crash_at=s.point))
    await s.healthy()
    info = await s.ends(s.client.job("j"), "completed")
    assert [attempt.number for attempt in info.attempts] == [1]
    waited = info.attempts[0].started_at - info.submitted_at
    assert timedelta(seconds=delay_s - 0.5) < waited < timedelta(seconds=3600)


async def prioritizes_parked(s: Scene) -> None:
    """Whoever wants a job to be of another priority that waits for a place dies: it runs when there is one."""
    await s.client.set_limit("crash", 0)
    await s.healthy()
    handle = await s.client.submit(play_limited)
    await s.waits_for(handle, "crash")
    await s.died(await s.fleet.client("set-priority", handle.id, crash_at=s.point))
    await s.client.clear_limit("crash")
    info = await s.ends(handle, "completed")
    assert [attempt.number for attempt in info.attempts] == [1]
    await s.no_place_is_held()


async def replays(s: Scene) -> None:
    """Whoever retries a faulted job dies: it has one life more, or none, and asking again is safe."""
    await s.healthy()
    handle = await s.client.submit(play, end="fatal")
    await s.ends(handle, "faulted")
    if s.point == "RetryRequested.Save":
        record = await s.record(handle)
        await s.client.store.registry.delete(record, await revision(s, handle), record.message)
    await s.died(await s.fleet.client("retry", handle.id, crash_at=s.point))
    if s.point != "RetryRequested.done":
        await handle.retry()
    await s.ends(handle, "completed", faults=1)


# --- a supervisor dies ------------------------------------------------------------------------------------------------


async def node_lost(s: Scene) -> None:
    """A supervisor dies while it counts the loss of a dead node's job."""
    node = await s.healthy("lost")
    handle = await s.client.submit(play, gate=str(s.gate))
    await s.state(handle, "running")
    victim = await s.supervisor(dies=True)
    await node.kill()
    await s.died(victim)
    await s.healthy()
    s.gate.touch()
    info = await s.ends(handle, "completed")
    assert [a.outcome for a in info.attempts] == ["lost", "completed"]


async def node_lost_once_too_often(s: Scene) -> None:
    """A supervisor dies while it faults a job whose losses are used up."""
    node = await s.healthy("lost")
    handle = await s.client.submit(play_once, gate=str(s.gate))
    await s.state(handle, "running")
    victim = await s.supervisor(dies=True)
    await node.kill()
    await s.died(victim)
    await s.supervisor()
    await s.ends(handle, "faulted")


async def looks_at_places(s: Scene) -> None:
    """A supervisor dies when it has looked at the limits: it does where one was ever used."""
    await s.client.set_limit("crash", 1)
    await elected(s)


async def elected(s: Scene) -> None:
    """A supervisor dies at a step that it takes whatever there is to do."""
    victim = await s.supervisor(dies=True)
    handle = await s.client.submit(play)
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "completed")


async def resigned(s: Scene) -> None:
    """A supervisor dies just after it handed over."""
    victim = await s.supervisor(dies=True)
    handle = await s.client.submit(play)
    await s.led_by(victim)
    victim.send(signal.SIGTERM)
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "completed")


async def expires(s: Scene) -> None:
    """A supervisor dies while it faults a job that no worker took in time."""
    handle = await s.client.submit(play.options(expires_in=1))
    victim = await s.supervisor(dies=True)
    await s.died(victim)
    await s.supervisor()
    info = await s.ends(handle, "faulted")
    assert info.reason == "expired"


async def fires(s: Scene) -> None:
    """A supervisor dies on the way of a tick, while another one lives: each tick has one run, none is left out."""
    await s.healthy()
    victim = await s.supervisor(dies=True)
    plan = Schedule(every=1, overlap="allow", catch_up="all")
    # The ticks of one schedule alone may all go to the other one.
    others = [await s.client.add_schedule(f"other{number}", plan, play) for number in range(4)]
    schedule = await s.client.add_schedule("each", plan, play)
    await s.died(victim)
    for other in others:
        await other.delete()

    async def enough() -> list[str] | None:
        runs = [run.id for run in (await schedule.info()).recent if run.state == "completed"]
        return runs if len(runs) >= 6 else None

    await until(enough, s.patience_s)
    await schedule.pause()
    runs = (await schedule.info()).recent
    first = runs[0].due_at
    assert [run.due_at - first for run in runs] == [timedelta(seconds=number) for number in range(len(runs))]
    for run in runs:
        await s.ends(s.client.job(run.id), "completed")
    # The pause may have come between a run and its note: that one is later than all that are noted.
    begun = sorted([info.id async for info in s.client.jobs(schedule="each") if info.id <= runs[-1].id])
    assert begun[-len(runs) :] == [run.id for run in runs]
    assert {info.attempt async for info in s.client.jobs()} == {1}


async def group_ends(s: Scene, group: str, *states: str) -> None:
    """The group finishes with these states of its members, and what follows runs once."""
    handle = s.client.group(group)
    results = await handle.results(timeout=s.patience_s)
    info = await handle.info()
    assert Counter(states) == Counter({state.value: count for state, count in info.counts.items() if count})
    assert len(results) == info.total == len(states)
    for number in range(info.total):
        await s.ends(s.client.job(f"{group}-{number}", play), states[number])
    assert info.then is not None
    then = s.client.job(info.then, count_ends)
    assert await then.result(timeout=s.patience_s) == info.total
    assert (await s.ends(then, "completed")).attempt == 1


async def submits_group(s: Scene) -> None:
    """Whoever submits a group dies once its record is there: so are all of its members, once each."""
    await s.died(await s.fleet.client("submit-group", "batch", crash_at=s.point))
    await s.healthy()
    await group_ends(s, "batch", *["completed"] * 5)
    assert {info.attempt async for info in s.client.group("batch").jobs()} == {1}


async def cancels_group(s: Scene) -> None:
    """Whoever cancels a group dies among its members: all of them are cancelled."""
    await s.client.submit_group(play, [{"gate": str(s.gate)}] * 3, id="batch", then=count_ends)
    await s.died(await s.fleet.client("cancel-group", "batch", crash_at=s.point))
    await s.healthy()
    await group_ends(s, "batch", *["cancelled"] * 3)


async def folds_group(s: Scene) -> None:
    """A supervisor dies between the ends of a group's members, what follows them, and the word that it has finished."""
    victim = await s.supervisor(dies=True)
    await s.led_by(victim)
    await s.healthy()
    await s.client.submit_group(play, [{}, {"end": "fatal"}, {}], id="batch", then=count_ends)
    await s.died(victim)
    await group_ends(s, "batch", "completed", "faulted", "completed")


async def swallowed(s: Scene, *, bare: bool) -> None:
    """A supervisor dies while it puts a job in anew whose deliveries ran out before anybody started it."""
    await s.consumer("play")
    handle = await submit(s, bare=bare)
    await s.swallow("play")
    await s.died(await s.supervisor(dies=True))
    await s.healthy()
    await s.ends(handle, "completed")


async def swallowed_again_and_again(s: Scene) -> None:
    """A supervisor dies while it gives up a job that never started, however often it was put in anew."""
    await s.consumer("play")
    body = Body(text="{}", size=2)
    now = s.client.store.connection.now()
    record = job_record("j", "play", JobState.queued, payload=body, submitted_at=now)
    await s.client.store.queue.replace(record.spec, 0, 3, "nonce")
    await s.swallow("play")
    await s.died(await s.supervisor(dies=True))
    await s.supervisor()
    await s.ends(s.client.job("j", "play"), "faulted")


async def left_over(s: Scene) -> None:
    """A worker dies before the letter of a faulted job, a supervisor while it puts that right."""
    point, s.point = s.point, "Failed.WriteDeadLetter"
    victim = await s.victim()
    handle = await s.client.submit(play, end="fatal")
    await s.died(victim)
    s.point = point
    await s.died(await s.supervisor(dies=True))
    await s.supervisor()
    await s.ends(handle, "faulted")


# --- places of limits -------------------------------------------------------------------------------------------------


async def limited(s: Scene) -> None:
    """A worker dies on the way of a job that needs a place; whoever comes next begins it within its limit."""
    victim = await s.victim()
    handle = await s.client.submit(play_limited)
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "completed")
    await s.no_place_is_held()


async def limited_by_a_deadline(s: Scene) -> None:
    """The same for a job that may have come too late: that is looked at first, then it is decided that it needs a
    place."""
    victim = await s.victim()
    handle = await s.client.submit(play_limited.options(expires_in=600))
    await s.died(victim)
    await s.healthy()
    await s.ends(handle, "completed")
    await s.no_place_is_held()


async def held_up(s: Scene) -> None:
    """A worker dies while it parks a job whose limit has no place."""
    await s.client.set_limit("crash", 0)
    victim = await s.victim()
    handle = await s.client.submit(play_limited)
    await s.died(victim)
    await s.healthy()
    await s.client.clear_limit("crash")
    await s.ends(handle, "completed")
    await s.no_place_is_held()


async def hands_on(s: Scene) -> None:
    """A worker dies while it hands the place of a job that has ended to the one that waits for it."""
    victim = await s.victim()
    first = await s.client.submit(play_limited, gate=str(s.gate))
    await s.state(first, "running")
    second = await s.client.submit(play_limited)
    await s.waits_for(second, "crash")
    s.gate.touch()
    await s.died(victim)
    await s.healthy()
    for handle in (first, second):
        await s.ends(handle, "completed")
    await s.no_place_is_held()


async def cancels_parked(s: Scene) -> None:
    """Whoever cancels a parked job dies: it never starts, and waits in no line."""
    await s.client.set_limit("crash", 0)
    await s.healthy()
    handle = await s.client.submit(play_limited)
    await s.waits_for(handle, "crash")
    await s.died(await s.fleet.client("cancel", handle.id, crash_at=s.point))
    await s.client.clear_limit("crash")
    info = await s.ends(handle, "cancelled")
    assert info.attempt == 0
    await s.no_place_is_held()


async def expires_parked(s: Scene) -> None:
    """A supervisor dies while it faults a parked job whose deadline has passed."""
    await s.client.set_limit("crash", 0)
    victim = await s.supervisor(dies=True)
    await s.led_by(victim)
    await s.healthy()
    handle = await s.client.submit(play_limited.options(expires_in=2))
    await s.waits_for(handle, "crash")
    await s.died(victim)
    await s.client.clear_limit("crash")
    info = await s.ends(handle, "faulted")
    assert info.reason == "expired"
    await s.no_place_is_held()


# --- on the way to the nodes that fit ---------------------------------------------------------------------------------


async def sent_on(s: Scene) -> None:
    """A worker without what the job requires dies while it sends it on: it runs once, on a node that has it."""
    victim = await s.victim()
    handle = await s.client.submit(play.options(requires={"region": "east"}))
    await s.died(victim)
    await s.healthy("east", properties="region=east")
    await s.healthy("plain")
    info = await s.ends(handle, "completed")
    assert [attempt.node.partition("-")[0] for attempt in info.attempts] == ["east"]


async def cancels_sent_on(s: Scene) -> None:
    """Whoever cancels a job that waits for a node that fits dies: no message of it is left."""
    await s.healthy()
    handle = await s.client.submit(play.options(requires={"region": "east"}))
    await s.sent_on(handle)
    await s.died(await s.fleet.client("cancel", handle.id, crash_at=s.point))
    info = await s.ends(handle, "cancelled")
    assert info.attempt == 0


async def expires_sent_on(s: Scene) -> None:
    """A supervisor dies while it faults a job that no node that fits has begun in time."""
    victim = await s.supervisor(dies=True)
    await s.led_by(victim)
    await s.healthy()
    handle = await s.client.submit(play.options(requires={"region": "east"}, start_within=2))
    await s.sent_on(handle)
    await s.died(victim)
    info = await s.ends(handle, "faulted")
    assert info.reason == "not_started"


# --- past others of its activity --------------------------------------------------------------------------------------


async def let_past(s: Scene) -> None:
    """A supervisor dies while it lets a job past others because it is its tenant's turn: it runs once, as they do."""
    await s.consumer("play", Fairness("{end}"))
    handles = [await s.client.submit(play) for _ in range(8)]
    handles += [await s.client.submit(play, end="report")]
    await s.died(await s.supervisor(dies=True))
    await s.healthy()
    for handle in handles:
        assert (await s.ends(handle, "completed")).attempt == 1


# --- the matrix -------------------------------------------------------------------------------------------------------


async def submit(s: Scene, *, bare: bool = False, **payload: Any) -> Any:
    """Submit `play` as a client does, or as anybody does."""
    if not bare:
        return await s.client.submit("play", payload)
    await s.client.store.connection.store(s.client.store.names.bare("play"), json.dumps(payload).encode())
    [info] = [info async for info in s.client.jobs()]
    return s.client.job(info.id, "play")


async def must_be_alone(s: Scene) -> None:
    """A worker dies before it runs a job alone whose losses are used up."""
    handle = await s.client.submit(play)
    found = await s.client.store.queue.find("play", handle.id)
    assert found is not None
    await s.client.store.registry.save(attrs.evolve(record_of(found), losses=3), 0)
    await s.died(await s.victim())
    await s.healthy()
    info = await s.ends(handle, "completed")
    assert info.attempt == 1


async def declined(s: Scene, *, bare: bool) -> None:
    """A worker dies while it gives back the last delivery of a job, for which it has no slot."""
    await s.consumer("play")
    handle = await submit(s, bare=bare)
    await s.swallow("play")
    await s.died(await s.fleet.client("decline", handle.id, crash_at=s.point))
    await s.healthy()
    await s.ends(handle, "completed")


async def revision(s: Scene, handle: Any) -> int:
    return (await s.client.store.registry.load(handle.activity, handle.id)).revision


PHASES: dict[str, list[tuple[str, Play]]] = {
    "submitting": [
        ("Submitted.Publish", partial(submits, verb="submit")),
        ("Submitted.done", partial(submits, verb="submit")),
        ("Submitted.Save", partial(submits, verb="submit-expiring")),
        ("Submitted.Schedule", partial(submits, verb="submit-delayed")),
    ],
    "before the start record": [
        ("execute.received", plain),
        ("execute.registered", plain),
        ("Received.Save", plain),
        ("Received.Isolate", must_be_alone),
        ("Declined.Replace", partial(declined, bare=False)),
        ("Declined.Remove", partial(declined, bare=True)),
        ("Declined.done", partial(declined, bare=False)),
        ("Received.WriteDeadLetter", invalid),
        ("Received.Ack", invalid),
    ],
    "running": [
        ("Received.done", plain),
        ("execute.started", plain),
        ("Reported.Save", plain),
        ("Reported.done", plain),
        ("Received.Ask", asked),
        ("Received.Drop", asked),
        ("Reported.Abandon", partial(overtaken, end="report")),
    ],
    "between save and settle": [
        ("execute.ended", plain),
        ("Completed.Save", plain),
        ("Completed.Ack", plain),
        ("Completed.done", plain),
        ("execute.settled", plain),
        ("Completed.Abandon", partial(overtaken, end="return")),
        ("Failed.WriteDeadLetter", fatal),
        ("Failed.Ack", fatal),
        ("Failed.Abandon", partial(overtaken, end="fail")),
    ],
    "while retrying": [
        ("Failed.Save", fails_once),
        ("Failed.Nak", fails_once),
        ("Failed.done", fails_once),
        ("Failed.Replace", partial(worn_out, bare=False)),
        ("Failed.Remove", partial(worn_out, bare=True)),
        ("Received.Nak", early),
        ("Received.Replace", partial(early_and_worn_out, bare=False)),
        ("Received.Remove", partial(early_and_worn_out, bare=True)),
    ],
    "while snoozing": [
        ("Snoozed.Save", snoozes),
        ("Snoozed.Nak", snoozes),
        ("Snoozed.done", snoozes),
    ],
    "left to others": [
        ("Deferred.Save", left_to_others),
        ("Deferred.Nak", left_to_others),
        ("Deferred.done", left_to_others),
    ],
    "while cancelling": [
        ("CancelRequested.Save", cancels_running),
        ("CancelRequested.Notify", cancels_running),
        ("CancelRequested.done", cancels_running),
        ("CancelRequested.Unschedule", cancels_queued),
        ("CancelRequested.Remove", cancels_queued),
        ("CancelRequested.Save:2", cancels_queued),
        ("CancelRequested.done", cancels_queued),
        ("Cancelled.Save", cancelled),
        ("Cancelled.Ack", cancelled),
        ("Cancelled.done", cancelled),
        ("Cancelled.Abandon", cancelled_and_overtaken),
    ],
    "while stopping": [
        ("Aborted.Save", aborted),
        ("Aborted.Nak", aborted),
        ("Aborted.done", aborted),
        ("Aborted.Ack", aborted_and_cancelled),
        ("Aborted.Replace", partial(aborted_and_worn_out, bare=False)),
        ("Aborted.Remove", partial(aborted_and_worn_out, bare=True)),
        ("Aborted.Abandon", aborted_and_overtaken),
    ],
    "debouncing": [
        ("debounce.named", debounces),
        ("Debounced.Save", debounces),
        ("Debounced.Schedule", debounces),
        ("Debounced.done", debounces),
    ],
    "while replacing": [
        ("Resubmitted.Save", replaces),
        ("Resubmitted.Unschedule", replaces),
        ("Resubmitted.Publish", replaces),
        ("Resubmitted.done", replaces),
    ],
    "asked for another priority": [
        ("PriorityRequested.Save", partial(prioritizes, verb="prioritize")),
        ("PriorityRequested.Replace", partial(prioritizes, verb="prioritize")),
        ("PriorityRequested.Remove", partial(prioritizes, verb="prioritize")),
        ("PriorityRequested.done", partial(prioritizes, verb="prioritize")),
        ("PriorityRequested.Unschedule", partial(prioritizes, verb="prioritize-delayed", delay_s=10)),
        ("PriorityRequested.Schedule", partial(prioritizes, verb="prioritize-delayed", delay_s=10)),
        ("PriorityRequested.Unschedule", partial(prioritizes, verb="run-now")),
        ("PriorityRequested.Replace", partial(prioritizes, verb="run-now")),
        ("PriorityRequested.done", partial(prioritizes, verb="run-now")),
        ("PriorityRequested.Rank", prioritizes_parked),
    ],
    "while replaying": [
        ("RetryRequested.Save", replays),
        ("RetryRequested.WriteDeadLetter", replays),
        ("RetryRequested.Replace", replays),
        ("RetryRequested.done", replays),
    ],
    "counting a loss": [
        ("Lost.Save", node_lost),
        ("Lost.Nak", node_lost),
        ("Lost.done", node_lost),
        ("sweep.verdict", node_lost),
        ("sweep.counted", node_lost),
        ("Lost.WriteDeadLetter", node_lost_once_too_often),
        ("Lost.Remove", node_lost_once_too_often),
        ("Lost.Save:2", node_lost_once_too_often),
    ],
    "supervising": [
        ("election.claimed", elected),
        ("election.resigned", resigned),
        ("supervisor.elected", elected),
        ("supervisor.looked", elected),
        ("supervisor.counted", elected),
        ("supervisor.alarms", elected),
        ("supervisor.swept", elected),
        ("supervisor.registry", elected),
        ("supervisor.read", elected),
        ("supervisor.records", elected),
        ("supervisor.groups", elected),
        ("supervisor.looked:4", node_lost),
    ],
    "grouped": [
        ("group.created", submits_group),
        ("group.published", submits_group),
        ("group.cancelled", cancels_group),
        ("group.folded", folds_group),
        ("group.followed", folds_group),
        ("group.finished", folds_group),
    ],
    "firing a schedule": [
        ("schedule.begun", fires),
        ("schedule.begun:2", fires),
        ("schedule.saved:2", fires),
        ("schedule.armed:2", fires),
    ],
    "expiring": [
        ("Expired.Save", expires),
        ("Expired.WriteDeadLetter", expires),
        ("Expired.Unschedule", expires),
        ("Expired.Remove", expires),
        ("Expired.Save:2", expires),
        ("Expired.done", expires),
    ],
    "when deliveries ran out": [
        ("Stuck.Replace", partial(swallowed, bare=False)),
        ("supervisor.dealt", partial(swallowed, bare=False)),
        ("supervisor.dropped", partial(swallowed, bare=False)),
        ("Stuck.Remove", partial(swallowed, bare=True)),
        ("Stuck.done", partial(swallowed, bare=True)),
        ("Stuck.Save", swallowed_again_and_again),
        ("Stuck.WriteDeadLetter", swallowed_again_and_again),
        ("Stuck.Unschedule", swallowed_again_and_again),
        ("Stuck.Remove", swallowed_again_and_again),
        ("Stuck.Save:2", swallowed_again_and_again),
    ],
    "limited": [
        ("Received.Admit", limited_by_a_deadline),
        ("execute.admitted", limited),
        ("places.stored", limited),
        ("Received.Save", limited),
        ("execute.settled", limited),
        ("places.stored:2", limited),
        ("Received.Save", held_up),
        ("Received.Park", held_up),
        ("places.parked", held_up),
        ("Received.Ack", held_up),
        ("places.stored:2", hands_on),
        ("places.granted", hands_on),
        ("places.released", hands_on),
        ("places.stored:3", hands_on),
        ("supervisor.places", looks_at_places),
        ("CancelRequested.Unpark", cancels_parked),
        ("Expired.Unpark", expires_parked),
    ],
    "routing": [
        ("Received.Save", sent_on),
        ("Received.SendOn", sent_on),
        ("routes.made", sent_on),
        ("routes.sent", sent_on),
        ("Received.Ack", sent_on),
        ("Received.done", sent_on),
        ("CancelRequested.TakeOff", cancels_sent_on),
        ("Expired.TakeOff", expires_sent_on),
    ],
    "dealing turns": [
        ("PriorityRequested.Save", let_past),
        ("PriorityRequested.Save:2", let_past),
        ("PriorityRequested.Replace", let_past),
        ("PriorityRequested.Remove", let_past),
        ("PriorityRequested.Remove:2", let_past),
        ("PriorityRequested.done", let_past),
    ],
    "clearing up": [
        ("Leftover.WriteDeadLetter", left_over),
        ("Leftover.Remove", left_over),
        ("Leftover.Save", left_over),
        ("Leftover.done", left_over),
    ],
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.replace(" ", "-"))
async def test_a_crash_at_every_point_of(phase: str, nats_server: NatsServer, tmp_path: Path) -> None:
    """Whoever dies, and wherever: the job ends once, in the right state, with one letter if it faulted, and no trace in
    the stream."""
    together = asyncio.Semaphore(TOGETHER)
    wrong: dict[str, Exception] = {}

    async def one(number: int, point: str, act: Play) -> None:
        directory = tmp_path / str(number)
        directory.mkdir()
        async with together:
            try:
                async with scene(nats_server, directory, point) as s:
                    await act(s)
                HIT.add(point.partition(":")[0])
            except Exception as error:  # the other scenes go on
                wrong[f"{number} {point}"] = error

    await asyncio.gather(*(one(number, *each) for number, each in enumerate(PHASES[phase])))
    if wrong:
        raise ExceptionGroup(f"{phase}: {', '.join(wrong)}", list(wrong.values()))


def test_every_point_there_is_was_hit(request: pytest.FixtureRequest) -> None:
    """No named point is left out of the matrix; when all of it ran, each was hit."""
    in_matrix = {point.partition(":")[0] for scenes in PHASES.values() for point, _ in scenes}
    elsewhere = {point.partition(":")[0] for point in workflow_points.POINTS + workflow_points.FORKING}
    assert in_matrix | elsewhere | UNTRIED == crashpoints.POINTS
    ran = [item for item in request.session.items if item.name.startswith("test_a_crash_at_every_point_of")]
    if len(ran) == len(PHASES):
        assert HIT | elsewhere | UNTRIED == crashpoints.POINTS
