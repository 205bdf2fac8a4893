"""The claim check: bodies over a threshold go to the object store, and records and messages refer to them.

Objects are spelt as NATS's object store spells them (ADR-20 of the NATS architecture), so `nats object` reads them:
chunks on `$O.<bucket>.C.<nuid>` and, last, what makes them an object on `$O.<bucket>.M.<name>`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Collection

import attrs

from turnout import fastjson
from turnout.core.events import Event
from turnout.core.record import Delivery, MessageRef
from turnout.core.spec import Body
from turnout.errors import PayloadTooLarge, TurnoutError
from turnout.nats.connection import Connection
from turnout.nats.stream import ON_SUBJECT, ROLLUP, Stream
from turnout.store.names import Names
from turnout.store.records import scan

THRESHOLD_BYTES = 32 * 1024
"""Bodies up to this size travel in messages and records; a record holds up to three of them and is rewritten often."""

_SHARE = 16
"""And up to this part of what the server takes in one message: in a record JSON is text within JSON, up to twice as
long, and there is more in it than bodies."""

LIMIT_BYTES = 256 * 1024 * 1024
"""The largest payload, result or checkpoint."""

_SMALL_BYTES = 4 * 1024
"""Bodies up to this size are small to every server that turnout works with."""

_CHUNK_BYTES = 128 * 1024
_CHUNK_SHARE = 2
_CHUNKS_IN_FLIGHT = 32
"""How many subjects the server names in one answer."""


class ObjectGone(TurnoutError):
    """The object that a body refers to is not there any more, or not whole."""


def check_size(text: str, what: str) -> int:
    """The size of a body in bytes. PayloadTooLarge over the limit."""
    size = len(text) if text.isascii() else len(text.encode())
    if size > LIMIT_BYTES:
        raise PayloadTooLarge(f"the {what} is {size:,} bytes; at most {LIMIT_BYTES:,} are accepted")
    return size


@attrs.frozen
class StoredObject:
    """An object as it lies in the store: its name, the id of its chunks, and when it was written (unix seconds)."""

    name: str
    nuid: str
    written_at: float


_NAME = re.compile(r"(.+)-(?:payload|checkpoint|result)-(?:([0-9]+)-([0-9a-f]+)|[0-9a-f]+)")


_LIFE = "workflow"
_LIFES_NAME = re.compile(r"workflow\.([A-Za-z0-9_-]+)\.([A-Za-z0-9-]+)-(?:payload|input|result|record)-[0-9a-z]+")


def life_owner(workflow_id: str, life: str) -> str:
    """The owner of the objects of one life of a workflow. No job's id has a dot, so that no job can be meant.

    >>> life_owner("o-17", "7f3a")
    'workflow.o-17.7f3a'
    """
    return f"{_LIFE}.{workflow_id}.{life}"


def life_of(name: str) -> tuple[str, str] | None:
    """The workflow and the life that an object belongs to; None for one that belongs to none.

    >>> life_of("workflow.o-17.7f3a-result-00ff"), life_of("a-1-result-00ff")
    (('o-17', '7f3a'), None)
    """
    found = _LIFES_NAME.fullmatch(name)
    return None if found is None else (found.group(1), found.group(2))


_GROUP = "group"
_GROUPS_NAME = re.compile(r"group\.([A-Za-z0-9_-]+)-roster-[0-9a-f]+")


def group_owner(group_id: str) -> str:
    """The owner of the objects of a group. No job's id has a dot, so that no job can be meant.

    >>> group_owner("batch-7")
    'group.batch-7'
    """
    return f"{_GROUP}.{group_id}"


def group_of(name: str) -> str | None:
    """The group that an object belongs to; None for one that belongs to none.

    >>> group_of("group.batch-7-roster-00ff"), group_of("a-1-result-00ff")
    ('batch-7', None)
    """
    found = _GROUPS_NAME.fullmatch(name)
    return None if found is None else found.group(1)


def owner_of(name: str) -> tuple[str, MessageRef | None] | None:
    """The id of the job that an object was made for; for the body of a bare message also that message.

    None for an object that is none of ours, or a workflow's, or a group's.

    >>> owner_of("a-1-result-00ff"), owner_of("picture.png")
    (('a-1', None), None)
    """
    found = None if name.startswith((f"{_LIFE}.", f"{_GROUP}.")) else _NAME.fullmatch(name)
    if found is None:
        return None
    job_id, seq, stamp = found.groups()
    return job_id, MessageRef(int(seq), int(stamp, 16)) if seq else None


class Payloads:
    """Puts bodies where they fit, and brings them back."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._bucket = names.payloads_bucket
        self._stream = f"OBJ_{names.payloads_bucket}"

    @property
    def threshold(self) -> int:
        """How many bytes of a body travel in messages and records of this server."""
        return min(THRESHOLD_BYTES, self._connection.max_payload // _SHARE)

    def inline(self, text: str) -> Body | None:
        """The body of a text that is small however it is encoded; None where `put` has to look."""
        if len(text) > _SMALL_BYTES // 4 and len(text) > self.threshold // 4:
            return None
        return Body(text=text, size=len(text) if text.isascii() else len(text.encode()))

    def large(self, body: Body) -> bool:
        """Whether the body is too large to stay where it is, in a message or a record."""
        return body.size > _SMALL_BYTES and body.ref is None and body.size > self.threshold

    def large_of(self, event: Event) -> Delivery | None:
        """The message of the event, if its payload is too large to be a part of a record."""
        delivery: Delivery | None = getattr(event, "delivery", None)
        if delivery is None or not self.large(delivery.spec.payload):
            return None
        return delivery if delivery.spec.payload.text is not None else None

    async def put(self, text: str, what: str, owner: str, *, key: str | None = None) -> Body:
        """`text` inline, or by claim check when it is large. `owner` is the job's id, `what` says which body it is.

        `key` stands for the text: putting it again finds the object that is there.

        Errors: PayloadTooLarge over the limit, and those of the connection.
        """
        size = check_size(text, what)
        if size <= self.threshold:
            return Body(text=text, size=size)
        name = f"{owner}-{what}-{key or secrets.token_hex(6)}"
        if key is None or await self._meta(name) is None:
            await self._write(name, text.encode())
        return Body(ref=name, size=size)

    async def get(self, body: Body) -> str:
        """The text of a body, wherever it is. ObjectGone when its object is gone or damaged."""
        if body.ref is None:
            return body.text or ""
        meta = await self._meta(body.ref)
        if meta is None:
            raise ObjectGone(f"object {body.ref} is gone from the object store")
        digest, parts = hashlib.sha256(), []
        async for stored in scan(self._connection, self._stream, self._chunks(meta["nuid"])):
            digest.update(stored.data)
            parts.append(stored.data)
        if meta.get("digest") != _digest(digest.digest()):
            raise ObjectGone(f"object {body.ref} is damaged: its digest does not match")
        return b"".join(parts).decode()

    async def copied(self, body: Body, what: str, owner: str, key: str) -> Body:
        """The body as `owner`'s own, under `key`; as it is where it is inline, its owner's already, or gone."""
        if body.ref is None or body.ref.startswith(f"{owner}-"):
            return body
        try:
            return await self.put(await self.get(body), what, owner, key=key)
        except ObjectGone:
            return body  # whoever needs it will say so

    async def exists(self, body: Body) -> bool:
        """Whether the text of a body is to be had: it is inline, or its object is there."""
        return body.ref is None or await self._meta(body.ref) is not None

    async def delete(self, body: Body | None) -> None:
        """Remove the object of a body, if it has one."""
        if body is None or body.ref is None:
            return
        meta = await self._meta(body.ref)
        for subject in [self._subject(body.ref), *([self._chunks(meta["nuid"])] if meta is not None else [])]:
            await Stream(self._connection, self._stream).purge(subject)

    async def objects(self) -> AsyncIterator[StoredObject]:
        """Every object. May be a moment old."""
        async for stored in scan(self._connection, self._stream, f"$O.{self._bucket}.M.*"):
            try:
                meta = fastjson.loads(stored.data)
                if not meta.get("deleted"):
                    yield StoredObject(str(meta["name"]), str(meta["nuid"]), stored.time_ns / 1e9)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # whoever has put that there may know what it is

    async def loose_chunks(self, nuids: Collection[str]) -> AsyncIterator[tuple[str, float]]:
        """The chunks that belong to none of these objects: their id, and when the last of them was written."""
        prefix = self._chunks("")
        async for subject, _ in Stream(self._connection, self._stream).subjects(self._chunks("*")):
            nuid = subject.removeprefix(prefix)
            if nuid not in nuids:
                last = await self._connection.get_message(self._stream, last_by_subj=subject)
                if last is not None:
                    yield nuid, last.time_ns / 1e9

    async def forget_chunks(self, nuid: str) -> None:
        """Remove the chunks of this id."""
        await Stream(self._connection, self._stream).purge(self._chunks(nuid))

    async def _write(self, name: str, data: bytes) -> None:
        nuid, most = secrets.token_hex(11), min(_CHUNK_BYTES, self._connection.max_payload // _CHUNK_SHARE)
        chunks = [data[at : at + most] for at in range(0, len(data), most)]
        try:
            for first in range(0, len(chunks), _CHUNKS_IN_FLIGHT):
                batch = chunks[first : first + _CHUNKS_IN_FLIGHT]
                await asyncio.gather(*(self._connection.store(self._chunks(nuid), chunk, {}) for chunk in batch))
            meta = {
                "name": name,
                "bucket": self._bucket,
                "nuid": nuid,
                "size": len(data),
                "mtime": "0001-01-01T00:00:00Z",
                "chunks": len(chunks),
                "digest": _digest(hashlib.sha256(data).digest()),
                "options": {"max_chunk_size": most},
            }
            await self._connection.store(self._subject(name), fastjson.dumps(meta), {ROLLUP: ON_SUBJECT})
        except TurnoutError:
            await self._forget(nuid)
            raise

    async def _forget(self, nuid: str) -> None:
        try:
            await self.forget_chunks(nuid)
        except TurnoutError:
            return  # the caller is told of what went wrong first

    async def _meta(self, name: str) -> dict[str, str] | None:
        stored = await self._connection.get_message(self._stream, last_by_subj=self._subject(name))
        if stored is None or not stored.data:
            return None
        meta: dict[str, str] = fastjson.loads(stored.data)
        return None if meta.get("deleted") else meta

    def _chunks(self, nuid: str) -> str:
        return f"$O.{self._bucket}.C.{nuid}"

    def _subject(self, name: str) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def _digest(raw: bytes) -> str:
    return "SHA-256=" + base64.urlsafe_b64encode(raw).decode()
