"""What `turnout doctor` says of schedules: what nobody would run, what is late, what is paused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from turnout.cli import output, pasting
from turnout.cli.checks import Check
from turnout.core.catalog import NodeInfo
from turnout.core.plain import utc
from turnout.core.schedule import ScheduleRecord
from turnout.store.perform import Store

OVERDUE_S = 30.0
"""So long after its time a tick that nobody has dealt with is none that is just being dealt with."""


async def schedule_checks(store: Store, nodes: Sequence[NodeInfo]) -> AsyncIterator[Check]:
    """Errors are those of the connection."""
    activities = {name for node in nodes for name in node.activities}
    workflows = {name for node in nodes for name in node.workflows}
    now, count, fine = store.connection.now(), 0, True
    async for record in store.schedules.scan():
        count += 1
        served = record.job.name in (workflows if record.job.is_workflow else activities)
        check = _check(record, served, now)
        if check is not None:
            fine = fine and check.verdict != "wrong"
            yield check
    if fine and count:
        yield Check("schedules", "ok", f"{output.several(count, 'schedule')}, no tick overdue")


def _check(record: ScheduleRecord, served: bool, now: float) -> Check | None:
    """What is the matter with a schedule, the worst first; None for nothing."""
    tick = record.next_tick
    if record.paused:
        note = f": {record.note}" if record.note else ""
        remedy = f"when it may go on: {pasting.command(f'schedule resume {record.name}')}"
        return Check("schedules", "note", f"{record.name} is paused{note}", remedy)
    if tick is not None and now - record.due_at(tick) > OVERDUE_S:
        found = f"the tick of {record.name} that was due {output.ago(utc(tick), now)} has not been fired"
        remedy = "workers and supervisors fire ticks: does one live, and what does it log?"
        return Check("schedules", "wrong", found, remedy)
    if not served and (tick is not None or record.backlog):
        kind = "workflow" if record.job.is_workflow else "activity"
        found = f"{record.name} runs {kind} {record.job.name}, and no node works on it"
        remedy = f"its runs wait: is the name right? Start a worker: {pasting.command('worker MODULE')}"
        return Check("schedules", "wrong", found, remedy)
    return None
