"""A process dies at every named point there is; each time the job ends once, and as it should.

A matrix of fault x phase of the job. Each scene has a namespace of its own, a victim that dies at the point (that it
did is asserted), and healthy processes that come afterwards.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.crash.activities import play, play_long, play_once
from tests.crash.scene import Scene, scene
from turnout import crashpoints, wire
from turnout.core.values import Body, JobRecord, JobState
from turnout.testing import NatsServer

Play = Callable[[Scene], Awaitable[None]]
TOGETHER = 4
HIT: set[str] = set()


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
    assert "enough" in info.reason


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


async def replays(s: Scene) -> None:
    """Whoever retries a faulted job dies: it has one life more, or none, and asking again is safe."""
    await s.healthy()
    handle = await s.client.submit(play, end="fatal")
    await s.ends(handle, "faulted")
    if s.point == "RetryRequested.Save":
        await s.client.store.registry.delete(await s.record(handle), await revision(s, handle))
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
    record = JobRecord("j", "play", JobState.queued, payload=body, submitted_at=now)
    await s.client.store.queue.replace(record, 0, 3, "nonce")
    await s.swallow("play")
    await s.died(await s.supervisor(dies=True))
    await s.supervisor()
    await s.ends(s.client.job("j", "play"), "faulted")


async def left_over(s: Scene) -> None:
    """A worker dies before the letter of a faulted job, a supervisor while it puts that right."""
    point, s.point = s.point, "Failed.Letter"
    victim = await s.victim()
    handle = await s.client.submit(play, end="fatal")
    await s.died(victim)
    s.point = point
    await s.died(await s.supervisor(dies=True))
    await s.supervisor()
    await s.ends(handle, "faulted")


# --- the matrix -------------------------------------------------------------------------------------------------------


async def submit(s: Scene, *, bare: bool = False, **payload: Any) -> Any:
    """Submit `play` as a client does, or as anybody does."""
    if not bare:
        return await s.client.submit("play", payload)
    await s.client.store.connection.store(s.client.store.names.bare("play"), json.dumps(payload).encode())
    [info] = [info async for info in s.client.jobs()]
    return s.client.job(info.id, "play")


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
        ("Received.Letter", invalid),
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
        ("Failed.Letter", fatal),
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
    "while replaying": [
        ("RetryRequested.Save", replays),
        ("RetryRequested.Letter", replays),
        ("RetryRequested.Replace", replays),
        ("RetryRequested.done", replays),
    ],
    "counting a loss": [
        ("Lost.Save", node_lost),
        ("Lost.Nak", node_lost),
        ("Lost.done", node_lost),
        ("sweep.verdict", node_lost),
        ("sweep.counted", node_lost),
        ("Lost.Letter", node_lost_once_too_often),
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
        ("supervisor.looked:4", node_lost),
    ],
    "expiring": [
        ("Expired.Save", expires),
        ("Expired.Letter", expires),
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
        ("Stuck.Letter", swallowed_again_and_again),
        ("Stuck.Unschedule", swallowed_again_and_again),
        ("Stuck.Remove", swallowed_again_and_again),
        ("Stuck.Save:2", swallowed_again_and_again),
    ],
    "clearing up": [
        ("Leftover.Letter", left_over),
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
    wrong: dict[str, BaseException] = {}

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
    assert in_matrix == crashpoints.POINTS
    ran = [item for item in request.session.items if item.name.startswith("test_a_crash_at_every_point_of")]
    if len(ran) == len(PHASES):
        assert HIT == crashpoints.POINTS
