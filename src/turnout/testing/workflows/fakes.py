"""Activities for an environment: real ones, and functions that stand for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, ValuesView
from typing import Any

import attrs

from turnout.definition.activity import Activity, activity
from turnout.definition.options import given_list
from turnout.errors import DefinitionError

Fakes = Mapping[Any, Callable[..., Any]]
Activities = Fakes | Sequence[Any] | Set[Any] | ValuesView[Any] | Iterator[Any]
"""Not just any iterable: a mapping is one, and mypy would want all of its values to be of one type."""


def activities_of(given: Activities) -> list[Activity[..., Any]]:
    """The activities themselves, or for each activity (or name) of a mapping one that calls its fake.

    A fake keeps the name, the options and the types of what it stands for: arguments and result go through its JSON.
    """
    if isinstance(given, Mapping):
        return [_faked(stood_for, fake) for stood_for, fake in given.items()]
    found = given_list(given, "activities")
    for each in found:
        if not isinstance(each, Activity):
            raise DefinitionError(f"{each!r} is no activity: decorate it with @activity, or let it stand for one")
    return found


def _faked(stood_for: object, fake: Any) -> Activity[..., Any]:
    if not isinstance(stood_for, Activity | str):
        raise DefinitionError(f"{stood_for!r} is no activity: a fake stands for an activity, or for one by its name")
    if not callable(fake):
        raise DefinitionError(f"the fake of {stood_for!r} must be a function, not {fake!r}")
    call = fake.fn if isinstance(fake, Activity) else fake
    takes = _signature(call)
    real: Activity[..., Any] = activity(name=stood_for)(call) if isinstance(stood_for, str) else stood_for

    async def run(*args: Any, **kwargs: Any) -> Any:
        value = _called(call, takes, real.codec.signature.bind(*args, **kwargs))
        return await value if inspect.isawaitable(value) else value

    return Activity(run, attrs.evolve(real.settings, run_in=None), real.codec, is_async=True)


def _signature(call: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(call)
    except (TypeError, ValueError):  # a builtin that does not tell
        return None


def _called(call: Callable[..., Any], takes: inspect.Signature | None, given: inspect.BoundArguments) -> Any:
    """By the names of the activity's parameters where the fake has them, else in their order, as a caller would."""
    if takes is None:
        return call(*given.args, **given.kwargs)
    try:
        takes.bind(**given.arguments)
    except TypeError:  # other names, or names that don't count
        return call(*given.args, **given.kwargs)
    return call(**given.arguments)
