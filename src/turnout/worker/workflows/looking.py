"""What a task begins with: the inbox, then the newest record, and the instance where it is at that (W1)."""

from __future__ import annotations

import asyncio

import attrs

from turnout.store.histories import Stored
from turnout.store.inbox import Lying, Wakeup
from turnout.store.perform import Store
from turnout.worker.workflows.cache import Cache, Cached
from turnout.worker.workflows.queries import RunsCode
from turnout.worker.workflows.verdicts import is_plain_news


@attrs.frozen
class Situation:
    """What a task begins with. The newest record may be an older one where nothing but `take` comes of it (W3)."""

    lying: list[Lying]
    newest: Stored | None
    cached: Cached | None


class Looking:
    """Looks for tasks. Errors are those of the connection."""

    def __init__(self, store: Store, cache: Cache, code: RunsCode) -> None:
        self._store = store
        self._cache = cache
        self._code = code
        self._ahead: dict[str, asyncio.Task[list[Lying]]] = {}

    def ahead(self, name: str, workflow_id: str) -> asyncio.Task[list[Lying]] | None:
        """Read the inbox of a workflow in memory for the end of a job that is about to be handed over (W4).

        Begun once the job's code has ended, the read shows whatever that has sent. None: the task is to read it.
        """
        if workflow_id in self._ahead or workflow_id not in self._cache:
            return None
        reading = asyncio.create_task(self._store.inbox.read(name, workflow_id, set(), whole=False))
        self._ahead[workflow_id] = reading
        reading.add_done_callback(lambda _: self._read_ahead(workflow_id, reading))
        return reading

    def _read_ahead(self, workflow_id: str, reading: asyncio.Task[list[Lying]]) -> None:
        del self._ahead[workflow_id]
        if not reading.cancelled():
            reading.exception()  # whoever has asked may have no use for it

    async def look(self, name: str, workflow_id: str, wakeups: list[Wakeup], cached: Cached | None) -> Situation:
        """Read the inbox, and behind it the newest record where the one in memory may not do."""
        handed = {wakeup.seq for wakeup in wakeups if wakeup.seq}
        lying = await self._lying(name, workflow_id, wakeups, handed, cached)
        if cached is not None and is_plain_news(cached.standing, lying, handed):
            return Situation(lying, Stored(cached.standing.newest, cached.standing.seq), cached)
        # A verdict other than "take" needs the newest record, read behind the inbox (W3).
        newest = await self._store.histories.newest(workflow_id)
        if cached is not None and (newest is None or newest.seq != cached.standing.seq):
            await self._code.run(cached.instance.drop)
            cached = None
        return Situation(lying, newest, cached)

    async def _lying(
        self, name: str, workflow_id: str, wakeups: list[Wakeup], handed: set[int], cached: Cached | None
    ) -> list[Lying]:
        whole = cached is None or not cached.standing.begun or cached.standing.stuck
        # The job of an end that was handed over may have sent signals: they lie in the inbox, and come first (W4).
        ended = [wakeup for wakeup in wakeups if wakeup.handed_over]
        if not handed and not whole and len(ended) == 1 and ended[0].ahead is not None:
            return await asyncio.shield(ended[0].ahead)
        if handed or whole or ended:
            return await self._store.inbox.read(name, workflow_id, handed, whole=whole)
        return []
