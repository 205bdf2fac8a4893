"""Code that may look and not touch: queries, and the validators of updates (W12).

What would change the workflow's future raises in there: a command, a timer, chance, a patch. What can only be noticed
afterwards, such as an attribute that was set or a task that was created, spoils the instance, and its owner drops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from turnout.definition.ambient import entered
from turnout.errors import InvalidValue, NotDurable, QueryFailed
from turnout.flow.guards import Guard, guarded
from turnout.worker.failure import error_info

if TYPE_CHECKING:  # an instance has its updates, whose validators are run here
    from turnout.worker.workflows.instance import Instance

LOOKED_AT = 2_000
"""How many values of an object's state are compared; what lies behind them is not looked at."""

DEEP = 20

_OPAQUE = (asyncio.Future, asyncio.AbstractEventLoop, type, types.FunctionType, types.MethodType, types.ModuleType)
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


class Spoilt(QueryFailed):
    """A query has changed what it may only look at: the instance is of no more use."""


@contextlib.contextmanager
def looking(instance: Instance) -> Iterator[None]:
    """Within this block the instance's code may look, and what it draws by chance is drawn from a copy."""
    drawn = functools.cache(lambda: _copied(instance.chance.numbers))
    guard = Guard(NotDurable, instance.loop.time, drawn, instance.context.uuid4)
    instance.reading = True
    try:
        # An update is checked in the midst of a task, a query is asked between two.
        loop = contextlib.nullcontext() if instance.loop.is_running() else instance.loop
        with loop, entered(instance.calls), guarded(guard):
            yield
    finally:
        instance.reading = False


def _copied(chance: random.Random) -> random.Random:
    copy = random.Random()
    copy.setstate(chance.getstate())
    return copy


def ask(instance: Instance, name: str, payload: str) -> str:
    """What a query of the workflow returns, as JSON text. QueryFailed; `Spoilt` when it has changed something."""
    handler = instance.workflow.queries.get(name)
    if handler is None:
        known = ", ".join(sorted(instance.workflow.queries)) or "none"
        raise QueryFailed(f"no query {name} in workflow {instance.facts.name}; known: {known}")
    instance.prepare()
    if instance.object is None:
        about = f"query {name} of workflow {instance.facts.id} failed"
        raise QueryFailed(f"{about}: there is no {instance.facts.name} to ask: {instance.trouble}")
    try:
        args, kwargs = handler.codec.decode(payload)
    except InvalidValue as error:
        raise QueryFailed(f"query {name}: {error}") from None
    failure: QueryFailed | None = None
    before, tasks, text = _state(instance.object), len(instance.loop.tasks), ""
    try:
        with looking(instance):
            text = handler.codec.encode_result(handler.fn(instance.object, *args, **kwargs))
    except Exception as error:  # a query is user code: whatever it raises is its caller's
        failure = QueryFailed(f"query {name} of workflow {instance.facts.id} failed: {error_info(error)}")
    changed = _changed(before, _state(instance.object))
    if changed is None and (not instance.loop.idle or len(instance.loop.tasks) != tasks):
        changed = "it lets code of the workflow run"
    if changed is not None:
        raise Spoilt(f"query {name} of workflow {instance.facts.id} failed: a query may change nothing, but {changed}")
    if failure is not None:
        raise failure
    return text


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            return f"it changes self.{name}"
    return None


def _state(own: object) -> dict[str, Any]:
    """What an object's attributes hold, in a form that can be compared. What a cached property keeps is no change."""
    left = [LOOKED_AT]
    kept = getattr(own, "__dict__", {})
    cached = {name for name in kept if isinstance(getattr(type(own), name, None), functools.cached_property)}
    return {name: _imprint(value, left, 0) for name, value in kept.items() if name not in cached}


def _imprint(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if isinstance(value, _PLAIN):
        return type(value), repr(value) if isinstance(value, float | complex) else value
    if left[0] < 0 or depth > DEEP or isinstance(value, _OPAQUE):
        return id(value)
    if isinstance(value, Mapping):
        items: Any = [(_imprint(key, left, depth + 1), _imprint(each, left, depth + 1)) for key, each in value.items()]
    elif isinstance(value, list | tuple | deque):
        items = [_imprint(each, left, depth + 1) for each in value]
    elif isinstance(value, set | frozenset):
        items = [id(each) if not isinstance(each, _PLAIN) else each for each in value]
    else:
        kept = getattr(value, "__dict__", None)
        items = None if kept is None else [(name, _imprint(each, left, depth + 1)) for name, each in kept.items()]
    return id(value), type(value), items
