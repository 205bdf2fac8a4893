"""What the verbs of `turnout schedule` do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from turnout.cli import output, session, several
from turnout.cli.session import Session
from turnout.cli.submitting import read_payload, tell_if_nobody_works
from turnout.client.schedules.handle import ScheduleHandle
from turnout.client.schedules.info import ScheduleInfo, ScheduleRun
from turnout.core.routing import spelled
from turnout.core.schedule import Schedule, schedule_name
from turnout.core.spec import DEFAULT_PRIORITY
from turnout.definition.activity import activity_ref
from turnout.definition.codec import encode_json
from turnout.definition.workflow import workflow_ref


def add(
    name: str, activity: str, payload: str | None, plan: Mapping[str, Any], options: Mapping[str, Any] | None
) -> int:
    """Add or replace a schedule. What is wrong with the input is said before anything is connected.

    `options` are those of the activity's jobs; None: it is a workflow.
    """
    chosen = Schedule(**plan)
    ref = workflow_ref(activity) if options is None else activity_ref(activity).options(**options)
    body = read_payload(payload)
    encode_json(body, "payload")
    schedule_name(name)

    async def work(s: Session) -> int:
        handle = await s.client.add_schedule(name, chosen, ref, body)
        info = await handle.info()
        if options is not None:
            workflow = f"{activity} is a workflow, and no activity: add --workflow, or its runs wait for ever"
            await tell_if_nobody_works(s, activity, "its runs wait until one does", workflow)
        s.show(info, lambda: [f"{name}  next {output.instant(info.next[0]) if info.next else 'never'}"])
        return 0

    return session.run(work, create=True)


async def ls(s: Session) -> int:
    infos = [info async for info in s.client.schedules()]
    headers = ("name", "plan", "runs", "next", "last", "state")
    s.show(infos, lambda: output.table(headers, [_row(info, s.now) for info in infos]))
    return 0


async def show(s: Session, name: str) -> int:
    info = await s.client.schedule(name).info()
    s.show(info, lambda: _lines(info, s.now))
    return 0


async def coming(s: Session, name: str) -> int:
    instants = (await s.client.schedule(name).info()).next
    s.show(instants, lambda: [output.instant(each) for each in instants])
    return 0


async def run(s: Session, name: str) -> int:
    handle = await s.client.schedule(name).trigger()
    s.show({"id": handle.id}, lambda: [handle.id])
    return 0


async def backfill(s: Session, name: str, start: dt.datetime, end: dt.datetime) -> int:
    handles = await s.client.schedule(name).backfill(start, end)
    s.show([{"id": handle.id} for handle in handles], lambda: [handle.id for handle in handles])
    return 0


async def pause(s: Session, name: str, note: str) -> int:
    handle = s.client.schedule(name)
    await handle.pause(note)
    return await _say(s, handle, "paused")


async def resume(s: Session, name: str) -> int:
    handle = s.client.schedule(name)
    await handle.resume()
    return await _say(s, handle, "goes on")


async def rm(s: Session, names: Sequence[str]) -> int:
    async def one(handle: ScheduleHandle) -> dict[str, Any]:
        await handle.delete()
        return {"name": handle.name, "deleted": True}

    handles = [s.client.schedule(name) for name in names]
    return await several.each(s, handles, one, lambda deleted: f"{deleted['name']}  deleted")


async def _say(s: Session, handle: ScheduleHandle, what: str) -> int:
    s.show(await handle.info(), lambda: [f"{handle.name}  {what}"])
    return 0


def _row(info: ScheduleInfo, now: float) -> Sequence[str]:
    last = info.recent[-1] if info.recent else None
    following = "paused" if info.paused else output.ago(info.next[0], now) if info.next else "never"
    shown = (output.ago(last.due_at, now), last.state) if last is not None else ("", "")
    return info.name, _plan(info.schedule), info.activity, following, *shown


def _lines(info: ScheduleInfo, now: float) -> list[str]:
    schedule = info.schedule
    shown = output.fields(
        [
            ("name", info.name),
            ("plan", _plan(schedule)),
            (info.kind, info.activity),
            ("payload", output.one_line(info.payload)),
            ("requires", spelled(info.requires) or None),
            ("priority", str(info.priority) if info.priority != DEFAULT_PRIORITY else None),
            ("start", output.instant(schedule.start) if schedule.start is not None else None),
            ("end", output.instant(schedule.end) if schedule.end is not None else None),
            ("overlap", schedule.overlap),
            ("catch-up", schedule.catch_up),
            ("jitter", output.duration(schedule.jitter) if schedule.jitter else None),
            ("paused", (info.note or "yes") if info.paused else None),
            ("next", ", ".join(output.instant(each) for each in info.next) or "never"),
        ]
    )
    runs = output.table(("due", "run", "state", "reason"), [_run(run) for run in reversed(info.recent)])
    return [*shown, "", *runs] if info.recent else shown


def _run(run: ScheduleRun) -> Sequence[str]:
    return output.instant(run.due_at), run.id, run.state, output.one_line(run.reason or "", 80)


def _plan(schedule: Schedule) -> str:
    if schedule.cron is not None:
        return f"{schedule.cron} {schedule.timezone}"
    return f"every {output.duration(schedule.every or 0)}"
