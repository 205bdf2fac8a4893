"""Records with all their texts in them: a history that can be read, and replayed, without the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from turnout.core.evolve import evolve
from turnout.core.spec import Body
from turnout.core.workflows.values import Answer, Command, Input, Record

Shown = Callable[[Body | None], Awaitable[str | None]]
"""The text of a body, None where its object is gone."""


async def whole(record: Record, shown: Shown) -> Record:
    """The record with the text of each body in place of the object that holds it."""
    if not _refers(record):
        return record
    start = record.start
    if start is not None:
        carried = tuple([await _input(each, shown) for each in start.carried])
        answers = tuple([await _answer(each, shown) for each in start.answers])
        start = attrs.evolve(start, payload=await _body(start.payload, shown), carried=carried, answers=answers)
    return evolve(
        record,
        start=start,
        inputs=tuple([await _input(each, shown) for each in record.inputs]),
        commands=tuple([await _command(each, shown) for each in record.commands]),
        answers=tuple([await _answer(each, shown) for each in record.answers]),
        result=None if record.result is None else await _body(record.result, shown),
    )


def _refers(record: Record) -> bool:
    bodies: list[Body | None] = [record.result]
    bodies += [each.body for each in record.inputs]
    bodies += [each.body for each in record.commands]
    bodies += [each.ending.result for each in record.inputs if each.ending is not None]
    bodies += [each.result for each in record.answers]
    if record.start is not None:
        bodies += [record.start.payload, *(each.body for each in record.start.carried)]
        bodies += [each.result for each in record.start.answers]
    return any(body is not None and body.ref is not None for body in bodies)


async def _body(body: Body, shown: Shown) -> Body:
    if body.ref is None:
        return body
    text = await shown(body)
    return body if text is None else Body(text=text, size=body.size)


async def _input(given: Input, shown: Shown) -> Input:
    ending = given.ending
    if ending is not None and ending.result is not None:
        ending = attrs.evolve(ending, result=await _body(ending.result, shown))
    return attrs.evolve(given, body=await _body(given.body, shown), ending=ending)


async def _command(command: Command, shown: Shown) -> Command:
    return attrs.evolve(command, body=await _body(command.body, shown))


async def _answer(answer: Answer, shown: Shown) -> Answer:
    return answer if answer.result is None else attrs.evolve(answer, result=await _body(answer.result, shown))
