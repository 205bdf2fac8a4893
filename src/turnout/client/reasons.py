"""Why jobs wait that might run now: their activity is paused, a limit is reached, nobody works on it, or
has what they require, all are busy."""

from __future__ import annotations

from turnout.client.info import Waiting, instant
from turnout.core.catalog import NodeInfo
from turnout.core.record import JobRecord, JobState
from turnout.core.routing import fits, spelled
from turnout.store.pauses import Pause
from turnout.store.perform import Store


class Reasons:
    """Tells of each job what it waits for, as it was when the first of them was asked about."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pauses: dict[str, Pause] | None = None
        self._nodes: list[NodeInfo] | None = None

    async def of(self, record: JobRecord) -> Waiting | None:
        """What the job waits for; None for one that runs, has ended, or waits for its time. Errors are those of the
        connection."""
        since = waits_since(record, self._store.connection.now())
        if since is None:
            return None
        pause = (await self._held()).get(record.activity)
        if pause is not None:
            return Waiting(kind="paused", name=record.activity, since=instant(max(since, pause.since)))
        limit = record.waits_for
        if limit is not None:
            return Waiting(kind="limit", name=limit.name, since=instant(limit.since))
        working = [n for n in await self._living() if record.activity in n.activities and not n.draining]
        requires = record.spec.options.requires
        if working and not any(fits(node.properties, requires) for node in working):
            return Waiting(kind="node", name=spelled(requires), since=instant(since))
        return Waiting(kind="slot" if working else "node", name=record.activity, since=instant(since))

    async def _held(self) -> dict[str, Pause]:
        if self._pauses is None:
            self._pauses = await self._store.pauses.held()
        return self._pauses

    async def _living(self) -> list[NodeInfo]:
        if self._nodes is None:
            self._nodes = await self._store.nodes.living()
        return self._nodes


def waits_since(record: JobRecord, now: float) -> float | None:
    """Since when nothing but others keeps the job from running; None if that is not so."""
    if record.state is JobState.queued:
        ended_at = record.attempts[-1].ended_at if record.attempts else None
        return max(record.spec.submitted_at, ended_at or 0.0, record.message.time if record.message else 0.0)
    due = record.state in (JobState.retrying, JobState.scheduled) and record.due_at is not None
    return record.due_at if due and record.due_at is not None and record.due_at <= now else None
