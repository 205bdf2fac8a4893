"""What JetStream is asked to do with streams and consumers, and the words that it understands in headers and acks."""

from __future__ import annotations

import asyncio
import datetime
import functools
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import attrs

from turnout.bounded import each
from turnout.nats.connection import Connection
from turnout.nats.messages import ApiError, StoredMessage, stored_by_direct_get, unix_ns
from turnout.nats.pages import few

NOT_FOUND = 404
"""The code of an `ApiError` for a stream, a consumer or a message that does not exist."""

TTL = "Nats-TTL"
"""How long a message is kept, as `for_seconds` spells it."""

MSG_ID = "Nats-Msg-Id"
"""A message whose id the stream has seen in its duplicate window is not stored again."""

ROLLUP = "Nats-Rollup"
ON_SUBJECT = "sub"
"""With this rollup the message takes the place of all that are on its subject."""

_SCHEDULE = "Nats-Schedule"
_TARGET = "Nats-Schedule-Target"

_LAST_INSTANT = 2**63 // 10**9 - 1
"""In the year 2262, in unix seconds."""
_EXPIRES = b"\r\nNats-TTL: "

_NOT_LAID_OUT = 10049
"""The code of an `ApiError` for a stream whose folder the server couldn't make."""

_LAY_OUT_AGAIN = (0.01, 0.05, 0.2)
"""Seconds before each further attempt to create it."""

_REMOVED_AT_ONCE = 32
"""So many messages that are removed one by one are removed at a time."""

ACK = b"+ACK"
"""The message is done with. In a work queue it is gone then."""

IN_PROGRESS = b"+WPI"
"""The message is being worked on: its ack wait begins anew."""


def nak(delay_s: float = 0.0) -> bytes:
    """The message is given back, to be handed to anybody after so many seconds.

    >>> nak(), nak(1.5)
    (b'-NAK', b'-NAK {"delay": 1500000000}')
    """
    return b"-NAK" if delay_s <= 0 else b'-NAK {"delay": %d}' % int(delay_s * 1e9)


@functools.lru_cache(maxsize=64)
def for_seconds(seconds: float) -> str:
    """A lifetime as the header spells it: whole seconds, one at least.

    >>> for_seconds(0.2), for_seconds(90)
    ('1s', '90s')
    """
    return f"{max(1, round(seconds))}s"


def seconds_of(lifetime: str) -> float:
    """The seconds of a lifetime that is spelt like this, 0 of another one.

    >>> seconds_of("90s"), seconds_of("never")
    (90.0, 0.0)
    """
    number = lifetime.removesuffix("s")
    return float(number) if number.isdecimal() else 0.0


def rfc3339(instant: float) -> str:
    """Unix seconds as the server reads a schedule's time; rounded up, so that nothing fires early."""
    milliseconds = math.ceil(instant * 1000)
    moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"


def scheduled(at: float, subject: str) -> dict[str, str]:
    """The headers that have the server publish the message on `subject` at an instant (unix seconds).

    The server counts nanoseconds in 64 bits: a later instant than these can hold would be long past to it.
    """
    return {_SCHEDULE: f"@at {rfc3339(min(at, _LAST_INSTANT))}", _TARGET: subject}


def expires(block: bytes) -> bool:
    """Whether a message with this block of headers has a lifetime of its own."""
    return _EXPIRES in block


def kv_stream(bucket: str) -> str:
    """The stream of a key-value bucket."""
    return f"KV_{bucket}"


def kv_subject(bucket: str, *tokens: str) -> str:
    """The subject of a key, whose tokens may be wildcards.

    >>> kv_subject("ages", "ann", "*")
    '$KV.ages.ann.*'
    """
    return ".".join(("$KV", bucket, *tokens))


def max_deliveries_advisory(stream: str, kind: str = "MAX_DELIVERIES") -> str:
    """Where the server says of the messages of a stream that their deliveries have run out; another `kind` is what else
    it says of them."""
    return f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.{stream}.>"


def ack_subject(stream: str, consumer: str, message: tuple[int, int], consumer_seq: int) -> str:
    """Where a delivery of a message, its sequence and its time in ns, is settled by whoever knows where it lies."""
    seq, time_ns = message
    return f"$JS.ACK.{stream}.{consumer}.1.{seq}.{consumer_seq}.{time_ns}.0"


def delivery_of(reply: str) -> tuple[int, int, int] | None:
    """The delivery that the reply subject of a message tells: its number, and the message's sequence and time in ns.

    None of a message that no consumer handed over. Newer servers name a domain and an account before the stream.

    >>> delivery_of("$JS.ACK.work.pull.2.17.40.1750000000000000000.0")
    (2, 17, 1750000000000000000)
    """
    parts = reply.split(".")
    if len(parts) < 9:
        return None
    offset = 2 if len(parts) >= 11 else 0
    return int(parts[4 + offset]), int(parts[5 + offset]), int(parts[7 + offset])


@attrs.frozen
class Stream:
    """A stream of this name. Errors are those of the connection; `ApiError` with `NOT_FOUND` where it doesn't exist."""

    connection: Connection
    name: str

    async def info(self, **asked: Any) -> dict[str, Any]:
        """Its configuration and its state."""
        return await self.connection.api(f"STREAM.INFO.{self.name}", asked or None)

    async def config(self) -> dict[str, Any] | None:
        """Its configuration; None where it doesn't exist."""
        try:
            return dict((await self.info())["config"])
        except ApiError as error:
            if error.code == NOT_FOUND:
                return None
            raise

    async def last_seq(self) -> int:
        """The sequence of its newest message, whether or not that is still there."""
        return int((await self.info())["state"]["last_seq"])

    async def end(self) -> tuple[int, int]:
        """The sequence and the time, in unix nanoseconds, of its newest message, whether or not that is still there."""
        state = (await self.info())["state"]
        return int(state["last_seq"]), unix_ns(state["last_ts"])

    async def write(self, config: Mapping[str, Any], *, create: bool) -> None:
        """Create the stream, or change it.

        Deleting the last stream of an account has the server remove its folder a moment later, maybe from under
        the stream that is being made: what could not be laid out on disk is asked for again.
        """
        for pause in (*_LAY_OUT_AGAIN, None):
            try:
                await self.connection.api(f"STREAM.{'CREATE' if create else 'UPDATE'}.{self.name}", config)
                return
            except ApiError as error:
                if error.err_code != _NOT_LAID_OUT or pause is None:
                    raise
            await asyncio.sleep(pause)

    async def remove(self) -> None:
        """Delete the stream with all that is in it."""
        await self.connection.api(f"STREAM.DELETE.{self.name}")

    # --- messages -----------------------------------------------------------------------------------------------------

    async def subjects(self, pattern: str) -> AsyncIterator[tuple[str, int]]:
        """The subjects that match, and how many messages each has."""
        offset = 0
        while True:
            info = await self.info(subjects_filter=pattern, offset=offset)
            page: dict[str, int] = info["state"].get("subjects") or {}
            for counted in page.items():
                yield counted
            offset += len(page)
            if not page or offset >= info.get("total", 0):
                return

    async def peek(self, subject: str) -> StoredMessage | None:
        """A subject's newest message as some replica has it: quicker than the leader's word, maybe a moment old."""
        answer = await self.connection.request(f"$JS.API.DIRECT.GET.{self.name}.{subject}")
        return None if answer.status is not None else stored_by_direct_get(answer)

    async def delete(self, seq: int) -> None:
        """Delete one message."""
        await self.connection.api(f"STREAM.MSG.DELETE.{self.name}", {"seq": seq, "no_erase": True})

    async def delete_if_there(self, seq: int) -> None:
        """The same, and nothing happens where somebody else has been quicker: of that the server makes an error 500."""
        try:
            await self.delete(seq)
        except ApiError:
            if await self.connection.get_message(self.name, seq=seq) is not None:
                raise

    async def purge(self, subject: str, *, below: int | None = None) -> int:
        """Delete the messages of a subject, or pattern; with `below` only those before this sequence. How many."""
        body = {"filter": subject} if below is None else {"filter": subject, "seq": below}
        return int((await self.connection.api(f"STREAM.PURGE.{self.name}", body)).get("purged", 0))

    async def remove_all(self, subject: str, *, below: int | None = None) -> None:
        """The same, one by one: for the messages of a subject that a consumer hands over together with others.

        At a purge of less than what a consumer hands over the server (2.15) forgets whatever waits there to be handed
        over again, and takes what lies in front of the purged ones for acknowledged: NAKs of that do nothing.
        """
        end, more = math.inf if below is None else below, False
        while (first := await self.connection.get_message(self.name, next_by_subj=subject)) and first.seq < end:
            seqs = {first.seq}
            if more:  # mostly there is but one
                async with aclosing(few(self.connection, self.name, subject)) as pieces:
                    seqs |= {raw.seq async for piece in pieces for raw in piece if raw.seq < end}
            await each(self.delete_if_there, sorted(seqs), _REMOVED_AT_ONCE)
            more = True

    # --- consumers ----------------------------------------------------------------------------------------------------

    async def consumers(self) -> list[dict[str, Any]]:
        """What the server says of each of its consumers; none where there is no such stream."""
        infos: list[dict[str, Any]] = []
        total = 1
        while len(infos) < total:
            try:
                page = await self.connection.api(f"CONSUMER.LIST.{self.name}", {"offset": len(infos)})
            except ApiError as error:
                if error.code == NOT_FOUND:
                    return []
                raise
            total = page["total"]
            listed = page.get("consumers") or []
            if not listed:
                break
            infos += listed
        return infos

    async def consumer(self, name: str) -> dict[str, Any] | None:
        """What the server says of one of them; None where there is none."""
        try:
            return await self.connection.api(f"CONSUMER.INFO.{self.name}.{name}")
        except ApiError as error:
            if error.code == NOT_FOUND:
                return None
            raise

    async def make_consumer(self, config: Mapping[str, Any], action: str = "") -> dict[str, Any]:
        """What the server says of the consumer that it has now.

        `action`: "create" fails if there is one of this name that differs, "" makes it so.
        """
        body = {"stream_name": self.name, "config": config, **({"action": action} if action is not None else {})}
        name = f".{config['name']}" if "name" in config else ""
        return await self.connection.api(f"CONSUMER.CREATE.{self.name}{name}", body)

    async def remove_consumer(self, name: str) -> None:
        """Remove one of them; nothing happens when it is not there."""
        try:
            await self.connection.api(f"CONSUMER.DELETE.{self.name}.{name}")
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise

    async def pause(self, consumer: str, until: float | None) -> bool:
        """Have a consumer hand out nothing until an instant (unix seconds; None: resume). False where there is none."""
        instant = "0001-01-01T00:00:00Z" if until is None else rfc3339(until)
        try:
            await self.connection.api(f"CONSUMER.PAUSE.{self.name}.{consumer}", {"pause_until": instant})
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            return False
        return True
