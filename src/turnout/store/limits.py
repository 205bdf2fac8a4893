"""The limits of a namespace as they are kept on the server: what activities have declared, and what was set over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from turnout.core.evolve import evolve
from turnout.core.limits import LimitKey, LimitRecord, Rule, effective, hashed
from turnout.errors import UnreadableRecord
from turnout.nats.connection import Connection, WrongLastSequence
from turnout.nats.messages import EXPECTED, StoredMessage
from turnout.once import warn_once
from turnout.store.names import Names
from turnout.store.records import scan
from turnout.wire.limits import dump_limit, load_limit

logger = logging.getLogger("turnout.store")

BELIEVED_S = 0.05
"""For so long what holds for a key may be believed without another look: who changes it waits until nobody does."""


class Limits:
    """Reads and writes limits. Errors are those of the connection."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names

    async def declare(self, name: str, rule: Rule) -> None:
        """Keep what an activity's code says of a limit, if it is not what is kept."""
        await self._change(name, lambda record: evolve(record, declared=rule))

    async def give(self, name: str, rule: Rule | None, until: float | None = None) -> None:
        """Set this over what is declared, until that instant; None: what is declared counts again. Nothing is held up
        any more. It holds everywhere when this returns."""
        await self._change(name, lambda record: evolve(record, given=rule, until=until, held_up=0.0))
        await asyncio.sleep(BELIEVED_S)

    async def hold_up(self, name: str, until: float) -> None:
        """Let nothing start until that instant, if that is not so already. It holds everywhere when this returns."""
        await self._change(name, lambda record: evolve(record, held_up=max(record.held_up, until)))
        await asyncio.sleep(BELIEVED_S)

    async def get(self, name: str) -> LimitRecord | None:
        """The limit of this name by the word of the leader; None when nobody has declared or set it."""
        return (await self._load(name))[0]

    async def all(self) -> list[LimitRecord]:
        """Every limit, by name. May be a moment old."""
        subject = self._names.limit("*")
        found = [_limit(stored) async for stored in scan(self._connection, self._names.limits, subject)]
        return sorted((record for record in found if record is not None), key=lambda record: record.name)

    async def rule(self, key: LimitKey) -> Rule:
        """What holds for this key. By the word of the leader."""
        names = dict.fromkeys((key.name, key.key))
        found = await asyncio.gather(*(self.get(name) for name in names))
        of_key = found[1] if len(found) > 1 else None
        counts = effective(found[0], of_key, key.declared, self._connection.now())
        return Rule() if counts is None or counts.rule is None else counts.rule

    async def _load(self, name: str) -> tuple[LimitRecord | None, int]:
        subject = self._names.limit(hashed(name))
        stored = await self._connection.get_message(self._names.limits, last_by_subj=subject)
        return (None, 0) if stored is None else (_limit(stored), stored.seq)

    async def _change(self, name: str, change: Callable[[LimitRecord], LimitRecord]) -> None:
        while True:
            before, revision = await self._load(name)
            after = change(before or LimitRecord(name))
            if after == before:
                return
            try:
                headers = {EXPECTED: str(revision)}
                await self._connection.store(self._names.limit(hashed(name)), dump_limit(after), headers)
            except WrongLastSequence:
                continue
            return


def _limit(stored: StoredMessage) -> LimitRecord | None:
    try:
        return load_limit(stored.data)
    except UnreadableRecord as error:
        warn_once(logger, stored.subject, "the limit under %s is left out: %s", stored.subject, error)
        return None
