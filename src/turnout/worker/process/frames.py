"""The conversation of a worker with its child process: frames of JSON, each behind its length."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

_HEADER = struct.Struct(">I")


def pack(kind: str, **fields: Any) -> bytes:
    """One frame of the conversation."""
    body = json.dumps({"kind": kind, **fields}, separators=(",", ":")).encode()
    return _HEADER.pack(len(body)) + body


async def unpack(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next frame, or None when the other side is gone."""
    try:
        (length,) = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        frame: dict[str, Any] = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return frame
