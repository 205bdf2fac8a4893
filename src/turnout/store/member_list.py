"""The list of how the members of a group have ended, as JSON: what the job that follows is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from turnout import fastjson, wire
from turnout.bounded import each
from turnout.core.evolve import evolve
from turnout.core.failure import ErrorInfo
from turnout.core.record import JobState
from turnout.core.spec import Body
from turnout.core.struct import struct
from turnout.errors import UnreadableRecord
from turnout.nats.direct import Raw
from turnout.store import payloads
from turnout.store.payloads import ObjectGone, Payloads

_AT_ONCE = 16
_MESSAGE_CHARS = 200
"""How much of each error's message is kept where the results have no room."""

_ENTRY = len('{"id":"","state":"completed","result":,"error":null},')


@struct(slots=False)
class Member:
    """How a member has ended. `gone`: its record is not kept any more, which had its result and its error."""

    id: str
    state: JobState
    result: Body | None = None
    error: ErrorInfo | None = None
    gone: bool = False

    @property
    def size(self) -> int:
        """About how many bytes it takes in the list."""
        error = 0 if self.error is None else len(fastjson.dumps(attrs.asdict(self.error)))
        return _ENTRY + len(self.id) + error + (4 if self.result is None else self.result.size)


def member_of(job_id: str, seen: JobState | None, raw: Raw | None) -> Member:
    """How a member has ended: as its record says, or where that is gone, or begun anew, as the group has seen it."""
    try:
        kept = wire.load_record(raw.data) if raw is not None and raw.data else None
    except UnreadableRecord:
        kept = None
    if kept is None or not kept.state.final:
        assert seen is not None, f"{job_id} has not ended"
        return Member(job_id, seen, gone=True)
    return Member(job_id, kept.state, kept.result, kept.error)


async def as_json(members: list[Member], store: Payloads, *, beside: int = 0) -> str:
    """The list, with all results where a payload has room for them beside so many bytes, else with none."""
    omitted = beside + sum(member.size for member in members) > payloads.LIMIT_BYTES
    text = await _as_json(members, store, omitted=omitted)
    if omitted and len(text) + beside > payloads.LIMIT_BYTES:  # nor have the errors room
        text = await _as_json([evolve(member, error=None) for member in members], store, omitted=True)
    return text


async def _as_json(members: list[Member], store: Payloads, *, omitted: bool) -> str:
    async def one(member: Member) -> str:
        result, gone = "null", omitted or member.gone
        if not omitted and member.result is not None:
            try:
                result = await store.get(member.result) or "null"
            except ObjectGone:
                gone = True
        error = None if member.error is None else attrs.asdict(_brief(member.error) if omitted else member.error)
        head = f'"id":{json.dumps(member.id)},"state":{json.dumps(member.state.value)}'
        rest = f'"result":{result},"error":{fastjson.dumps(error).decode()}'
        mark = ',"omitted":true' if gone else ""
        return f"{{{head},{rest}{mark}}}"

    return f"[{','.join(await each(one, members, _AT_ONCE))}]"


def list_parameter(schema: Mapping[str, Any]) -> str | None:
    """The one parameter that takes the list, by the JSON Schema of the payload; None when it can't be told.

    >>> list_parameter({"properties": {"results": {}, "title": {}}, "required": ["results"]})
    'results'
    """
    for names in (list(schema.get("properties") or ()), list(schema.get("required") or ())):
        if len(names) == 1:
            return str(names[0])
    return None


def _brief(error: ErrorInfo) -> ErrorInfo:
    return ErrorInfo(error.type, error.message[:_MESSAGE_CHARS])
