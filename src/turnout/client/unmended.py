"""Which dead letters still wait for somebody: those of jobs that have not gone on since."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from turnout import wire
from turnout.client.filters import Filters
from turnout.client.found import Finder
from turnout.core.record import Delivery, JobRecord, JobState
from turnout.errors import UnreadableRecord
from turnout.nats.direct import Raw
from turnout.nats.pages import newest_of
from turnout.nats.stream import kv_stream
from turnout.store.dead_letters import DeadLetter
from turnout.store.perform import Store

_PAGE = 512


async def unmended(store: Store, activity: str, job_id: str) -> AsyncGenerator[DeadLetter]:
    """The dead letters of jobs that are faulted still, the oldest first; `*` for either asks for all.

    One whose job's record has expired, or was deleted, waits as well: a replay brings the job back.
    """
    page: list[DeadLetter] = []
    async for dead_letter in store.dead_letters.scan(activity, job_id):
        page.append(dead_letter)
        if len(page) == _PAGE:
            for each in await _waiting(store, page):
                yield each
            page = []
    for each in await _waiting(store, page):
        yield each


def _follows(message: Delivery, dead_letter: DeadLetter, record: Raw | None) -> bool:
    """Whether the message shows that it follows the life of the dead letter, or of the record."""
    lives = {dead_letter.record.life}
    if record is not None and record.data:
        with contextlib.suppress(UnreadableRecord):
            lives.add(wire.load_brief(record.data).life)
    return message.spec.after in lives


def _own_subject(store: Store, record: JobRecord) -> str:
    return store.names.jobs(record.activity, record.id, record.spec.lane)


async def _waiting(store: Store, dead_letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Those of the dead letters whose job has neither a newer record nor a message of a newer life."""
    if not dead_letters:
        return []
    names, finder = store.names, Finder(store, Filters())
    own = {dead_letter.seq: _own_subject(store, dead_letter.record) for dead_letter in dead_letters}
    keys = {dead_letter.seq: (dead_letter.record.activity, dead_letter.record.id) for dead_letter in dead_letters}
    records, messages = await asyncio.gather(
        newest_of(store.connection, kv_stream(names.jobs_bucket), {names.record(*key) for key in keys.values()}),
        newest_of(store.connection, names.work, set(own.values())),
    )

    def waits(dead_letter: DeadLetter) -> bool:
        key, generation = keys[dead_letter.seq], dead_letter.record.generation
        message = messages.get(own[dead_letter.seq].encode())
        record = records.get(names.record(*key).encode())
        after = finder.delivery(message) if message is not None else None
        if after is not None and after.generation > generation and _follows(after, dead_letter, record):
            return False
        peek = finder.peek(record) if record is not None else None
        return peek is None or (peek.state is JobState.faulted and peek.generation == generation)

    return [dead_letter for dead_letter in dead_letters if waits(dead_letter)]
