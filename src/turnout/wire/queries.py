"""Queries and their answers: core NATS messages that nobody stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from turnout import fastjson
from turnout.core.struct import struct
from turnout.errors import UnreadableRecord
from turnout.wire.messages import traceparent_of

VERSION = 1

T = TypeVar("T")


@struct(kw_only=True, slots=False)
class Question:
    """A query to a workflow. `payload` is the JSON text of its arguments.

    `life`: of which life, "" for any. `after`: the place in the inbox of an input of the asker's own, which the answer
    must know of. `within_s`: how long the asker waits. `nonce`: the same where the same question is asked once more.
    `traceparent`: the span of the asker, "" without one. `compares`: the asker reads the newest record itself, and
    compares: the worker need not, where the reply says which record's state it tells. `counted`: it was answered
    before, of a record that was too old, and stands in the metrics.
    """

    id: str
    query: str
    payload: str
    life: str = ""
    after: int = 0
    within_s: float = 10.0
    nonce: str = ""
    traceparent: str = ""
    compares: bool = False
    counted: bool = False


@struct(kw_only=True, slots=False)
class Reply:
    """What a query has come to: the JSON text of a result, or why there is none.

    `seq`: at which record, which may not be the newest; 0 where the worker has read the newest one.
    """

    result: str | None = None
    failed: str = ""
    seq: int = 0


def dump_question(question: Question) -> bytes:
    """The body of the request."""
    return fastjson.dumps({"v": VERSION} | vars(question))


def load_question(data: bytes) -> Question:
    """The question in the body of a request. UnreadableRecord for what is none."""
    return _guarded(_question, data, "a query")


def _question(raw: dict[str, Any]) -> Question:
    return Question(
        id=str(raw["id"]),
        query=str(raw["query"]),
        payload=str(raw["payload"]),
        life=str(raw.get("life", "")),
        after=int(raw.get("after", 0)),
        within_s=float(raw.get("within_s", 10.0)),
        nonce=str(raw.get("nonce", "")),
        traceparent=traceparent_of(raw.get("traceparent")),
        compares=raw.get("compares") is True,
        counted=raw.get("counted") is True,
    )


def dump_reply(reply: Reply) -> bytes:
    """The body of the answer."""
    return fastjson.dumps({"v": VERSION} | vars(reply))


def load_reply(data: bytes) -> Reply:
    """The reply in the body of an answer. UnreadableRecord for what is none."""
    return _guarded(_reply, data, "the answer to a query")


def _reply(raw: dict[str, Any]) -> Reply:
    return Reply(result=raw.get("result"), failed=str(raw.get("failed") or ""), seq=int(raw.get("seq", 0)))


def _guarded(make: Callable[[dict[str, Any]], T], data: bytes, what: str) -> T:
    try:
        raw = fastjson.loads(data)
        if raw["v"] > VERSION:
            raise UnreadableRecord(f"{what} of version {raw['v']}, this turnout reads up to {VERSION}: upgrade it")
        return make(raw)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UnreadableRecord(f"not {what} of turnout: {data[:80]!r}") from error
