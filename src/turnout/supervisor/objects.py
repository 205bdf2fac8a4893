"""Collecting the objects that nothing refers to any more: of records that have expired, and of crashes in between.

An object is written before what refers to it, so a young one is left alone. A reference is always in its next place
before it leaves the last one (message, record, dead letter, record again), and an object goes only when two walks in a
row have found none: no reference can slip past both.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable
from contextlib import aclosing

from turnout import bounded, wire
from turnout.core.spec import Body
from turnout.errors import UnreadableRecord
from turnout.nats.pages import unhurried
from turnout.nats.stream import kv_stream
from turnout.store.payloads import ObjectGone, StoredObject, group_of, life_of, owner_of
from turnout.store.perform import Store
from turnout.store.records import scan
from turnout.wire import histories

logger = logging.getLogger("turnout.supervisor")

_AT_ONCE = 16
_REF = re.compile(rb'"ref": ?"([A-Za-z0-9_-]+)"')


class ObjectCollector:
    """Walks the object store of a namespace. `least_age_s`: younger objects are left alone, whatever refers to them."""

    def __init__(self, store: Store, least_age_s: float) -> None:
        self._store = store
        self._least_age_s = least_age_s
        self._suspects: frozenset[str] = frozenset()

    async def collect(self) -> int:
        """Remove what two walks have found unreferenced; how many that were. Errors are those of the connection."""
        objects = [each async for each in self._store.payloads.objects()]
        aged = [each for each in objects if self._old(each.written_at)]
        old = {each.name: each for each in aged if owner_of(each.name) is not None}
        if old:
            await self._drop_referenced_by_records(old)
        unreferenced = await self._unreferenced(old.values())
        unreferenced += await self._unreferenced_by_workflows(aged)
        unreferenced += await self._unreferenced_by_groups(aged)
        gone = [each for each in unreferenced if each.nuid in self._suspects]
        self._suspects = frozenset(each.nuid for each in unreferenced) - {each.nuid for each in gone}
        for each in gone:
            await self._store.payloads.delete(Body(ref=each.name))
        await self._collect_chunks({each.nuid for each in objects})
        if gone:
            logger.info("%d objects that nothing refers to any more are removed", len(gone))
        return len(gone)

    async def _drop_referenced_by_records(self, candidates: dict[str, StoredObject]) -> None:
        """Most objects belong to a record: all records in one walk. Unparsed, so that those of any version count."""
        names = self._store.names
        walk = unhurried(self._store.connection, kv_stream(names.jobs_bucket), names.record("*", "*"))
        async with aclosing(walk) as pages:
            async for page in pages:
                for raw in page:
                    for found in _REF.findall(raw.data):
                        candidates.pop(found.decode(), None)

    async def _unreferenced(self, candidates: Iterable[StoredObject]) -> list[StoredObject]:
        objects = list(candidates)
        referenced = await bounded.each(lambda candidate: self._referenced(candidate.name), objects, _AT_ONCE)
        return [candidate for candidate, keep in zip(objects, referenced, strict=True) if not keep]

    async def _unreferenced_by_workflows(self, objects: Iterable[StoredObject]) -> list[StoredObject]:
        """The objects of workflows that neither the history of theirs nor their inbox names.

        A life that goes takes along what its history names. These are of runs before the newest, of appends that
        came too late, of inputs that no record has taken, and of lives that were deleted.
        """
        by_workflow: dict[str, list[StoredObject]] = {}
        for each in objects:
            life = life_of(each.name)
            if life is not None:
                by_workflow.setdefault(life[0], []).append(each)
        found = []
        for workflow_id, candidates in by_workflow.items():
            named = await self._named_by_workflow(workflow_id)
            found += [each for each in candidates if each.name not in named]
        return found

    async def _unreferenced_by_groups(self, objects: Iterable[StoredObject]) -> list[StoredObject]:
        """The rosters of groups whose record is gone, or that were never made."""
        found = []
        for each in objects:
            group_id = group_of(each.name)
            if group_id is not None:
                try:
                    record = (await self._store.groups.load(group_id)).record
                except UnreadableRecord:
                    continue  # a newer turnout may need it
                if record is None or record.roster.ref != each.name:
                    found.append(each)
        return found

    async def _named_by_workflow(self, workflow_id: str) -> set[str]:
        """The objects that the workflow's inputs name, then those of its records: an input is taken before it goes."""
        names, connection = self._store.names, self._store.connection
        named: set[str] = set()
        async for stored in scan(connection, names.inbox, names.input("*", workflow_id, ">")):
            named.add(stored.headers.get(wire.PAYLOAD, "").partition(" ")[0])
            named.update(histories.references(stored.data))
        async for stored in scan(connection, names.history, names.records(workflow_id)):
            named.update(histories.references(stored.data))
            offloaded = histories.parse_offloaded(stored.headers)
            if offloaded is not None and offloaded.ref is not None:
                named.add(offloaded.ref)
                with contextlib.suppress(ObjectGone):
                    named.update(histories.references((await self._store.payloads.get(offloaded)).encode()))
        return named

    async def _referenced(self, name: str) -> bool:
        """Whether a message, a timer or a dead letter of the job refers to the object, or, once more, its record."""
        owner = owner_of(name)
        if owner is None:
            return True
        job_id, message = owner
        if message is not None and await self._store.queue.exists(message):
            return True  # whoever is handed it will look for the object under this name
        names, connection = self._store.names, self._store.connection
        for subject in (names.jobs("*", job_id), names.timer("*", job_id)):
            async for stored in scan(connection, names.work, subject):
                if stored.headers.get(wire.PAYLOAD, "").partition(" ")[0] == name:
                    return True
        wanted = name.encode()
        for stream, subject in (
            (names.faults, names.fault("*", job_id, "*")),
            (kv_stream(names.jobs_bucket), names.record("*", job_id)),
        ):
            async for stored in scan(connection, stream, subject):
                if wanted in _REF.findall(stored.data):
                    return True
        return False

    async def _collect_chunks(self, nuids: set[str]) -> None:
        """Chunks whose object was never finished: the last thing that is written of an object is its name."""
        loose = [nuid async for nuid, at in self._store.payloads.loose_chunks(nuids) if self._old(at)]
        for nuid in loose:
            await self._store.payloads.forget_chunks(nuid)

    def _old(self, instant: float) -> bool:
        return self._store.connection.now() - instant >= self._least_age_s
