"""Storing a message once: when the answer to a publish gets lost it is sent again under its own id.

That id, `Nats-Msg-Id`, holds the nonce of whoever stores. The server drops what it knows, as long as it remembers;
where a subject may hold one message only, what lies there says whether it is our own.
"""

from __future__ import annotations

import asyncio
import logging

from turnout.errors import InvalidValue, OutcomeUnknown, TurnoutError
from turnout.nats.connection import (
    Connection,
    Disconnected,
    NoResponders,
    PubAck,
    RequestTimeout,
    WrongLastSequence,
)
from turnout.nats.messages import level_of
from turnout.nats.stream import MSG_ID
from turnout.once import log_rarely

logger = logging.getLogger(__name__)

_TRIES = 3
_RETRY_S = 5.0
_LEADERLESS_S = 6.0

AWAY_S = _TRIES * _RETRY_S
"""For so long a connection that is away is waited for before anything was sent."""

_UNANSWERED = "nobody has said whether the message on %s is stored, and it is sent again under its id: %s"


class SubjectTaken(InvalidValue):
    """The subject already carries a message that is not this call's."""


async def store_alone(
    connection: Connection, stream: str, subject: str, body: bytes, headers: dict[str, str]
) -> PubAck | None:
    """Store the message where `headers` say which one may lie on its subject; SubjectTaken when it is another one.

    None when our own lies there, from a publish whose answer was lost. OutcomeUnknown when the answers stay away.
    """
    try:
        return await store_once(connection, subject, body, headers)
    except WrongLastSequence:
        stored = await connection.get_message(stream, last_by_subj=subject)
        if stored is None or stored.headers.get(MSG_ID) != headers[MSG_ID]:
            raise SubjectTaken(f"{subject} already carries another message") from None
        return None


async def store_once(connection: Connection, subject: str, body: bytes, headers: dict[str, str]) -> PubAck:
    """Store the message, which bears its id; OutcomeUnknown when nobody says so, however often it is sent."""
    sent = False
    trouble: TurnoutError | None = None
    for _ in range(_TRIES):
        try:
            await connection.wait_up(timeout_s=_RETRY_S)
            sent = True
            return await _led(connection, subject, body, headers)
        except (RequestTimeout, Disconnected) as error:
            trouble = error
            log_rarely(logger, level_of(error, logging.WARNING), "publish", _UNANSWERED, subject, error)
    if not sent and trouble is not None:
        raise trouble
    raise OutcomeUnknown(
        f"nobody said whether the message on {subject} is stored: {trouble}; a server whose disk is full does not"
        " say so: turnout doctor tries a write"
    ) from trouble


async def _led(connection: Connection, subject: str, body: bytes, headers: dict[str, str]) -> PubAck:
    """A stream that is between two leaders answers nobody for some seconds; one that is gone, never."""
    deadline = 0.0
    while True:
        try:
            return await connection.store(subject, body, headers)
        except NoResponders:
            now = asyncio.get_running_loop().time()
            deadline = deadline or now + _LEADERLESS_S
            if now > deadline:
                raise
            await asyncio.sleep(0.25)
