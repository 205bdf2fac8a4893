"""Large bodies: fetched from the object store before code sees them, put there before a record names them (W17)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from turnout.core.evolve import evolve
from turnout.core.spec import Body
from turnout.core.workflows.values import Command, CommandKind, Input, Record, Start, key_of
from turnout.store.payloads import Payloads, life_owner


class Bodies:
    """Fetches and offloads the bodies of inputs and records. Errors: those of the connection, and ObjectGone."""

    def __init__(self, payloads: Payloads) -> None:
        self._payloads = payloads

    async def at_hand(self, given: Input, life: str = "") -> Input:
        """The input with its texts; they are kept in the object store all the same.

        One for another life than `life` stays as it is: it is void, and what it names may have gone with that life.
        """
        if not _refers(given) or (life and given.life not in ("", life)):
            return given
        body = await self.fetched(given.body)
        ending = given.ending
        if ending is not None and ending.result is not None:
            ending = attrs.evolve(ending, result=await self.fetched(ending.result))
        return attrs.evolve(given, body=body, ending=ending)

    async def inputs(self, given: Iterable[Input]) -> tuple[Input, ...]:
        return tuple([await self.at_hand(each) for each in given])

    async def of_record(self, record: Record) -> Record:
        """The record with the texts of all that a replay needs."""
        if record.start is None and not any(map(_refers, record.inputs)):
            return record
        inputs = await self.inputs(record.inputs)
        start = None if record.start is None else await self._of_start(record.start)
        return evolve(record, inputs=inputs, start=start)

    async def _of_start(self, start: Start) -> Start:
        payload = await self.fetched(start.payload)
        return attrs.evolve(start, payload=payload, carried=await self.inputs(start.carried))

    async def fetched(self, body: Body) -> Body:
        """The body with its text."""
        if body.ref is None or body.text is not None:
            return body
        return Body(text=await self._payloads.get(body), ref=body.ref, size=body.size)

    async def offloaded(self, record: Record) -> Record:
        """The record with its large bodies in the object store, as the life's own; an input's too, whoever sent it."""
        owner = life_owner(record.id, record.life)
        changed: dict[str, Any] = {}
        if any(_strange(given, owner) for given in record.inputs):
            changed["inputs"] = tuple([await self._owned(given, owner) for given in record.inputs])
        if any(self._payloads.large(command.body) for command in record.commands):
            changed["commands"] = tuple([await self._command(record, command) for command in record.commands])
        if record.result is not None and self._payloads.large(record.result):
            changed["result"] = await self._put(record.result, "result", owner, record.nonce)
        start = record.start
        if start is not None and (
            self._payloads.large(start.payload) or any(_strange(given, owner) for given in start.carried)
        ):
            payload = start.payload
            if self._payloads.large(payload):
                payload = await self._put(payload, "payload", owner, record.nonce)
            carried = tuple([await self._owned(given, owner) for given in start.carried])
            changed["start"] = attrs.evolve(start, payload=payload, carried=carried)
        return evolve(record, **changed) if changed else record

    async def _command(self, record: Record, command: Command) -> Command:
        """A child's payload is the child's own, and its life is named by the command."""
        if not self._payloads.large(command.body):
            return command
        key = key_of(record.id, record.life, record.done_run, command.id)
        child = command.kind is CommandKind.child
        owner = life_owner(command.target, key) if child else life_owner(record.id, record.life)
        return attrs.evolve(command, body=await self._put(command.body, "payload", owner, key))

    async def _owned(self, given: Input, owner: str) -> Input:
        key = f"{given.seq:x}"
        ending = given.ending
        if ending is not None and ending.result is not None:
            result = await self._payloads.copied(ending.result, "input", owner, key)
            ending = attrs.evolve(ending, result=result)
        return attrs.evolve(given, body=await self._payloads.copied(given.body, "input", owner, key), ending=ending)

    async def _put(self, body: Body, what: str, owner: str, key: str) -> Body:
        return await self._payloads.put(body.text or "", what, owner, key=key)


def _refers(given: Input) -> bool:
    """Whether a body of the input is an object: hardly ever."""
    result = None if given.ending is None else given.ending.result
    return given.body.ref is not None or (result is not None and result.ref is not None)


def _strange(given: Input, owner: str) -> bool:
    """Whether the input's body is the object of somebody else."""
    bodies = (given.body, given.ending.result if given.ending is not None else None)
    return any(body is not None and body.ref is not None and not body.ref.startswith(f"{owner}-") for body in bodies)
