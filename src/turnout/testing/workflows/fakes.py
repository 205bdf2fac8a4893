"""Activities for an environment: real ones, and functions that stand for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from turnout.definition.activity import Activity, activity
from turnout.definition.options import given_list
from turnout.errors import DefinitionError

Fakes = Mapping[Any, Callable[..., Any]]


def activities_of(given: Iterable[Any] | Fakes) -> list[Activity[..., Any]]:
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

    async def run(*args: Any, **kwargs: Any) -> Any:
        value = call(*args, **kwargs)
        return await value if inspect.isawaitable(value) else value

    if isinstance(stood_for, str):
        named: Activity[..., Any] = activity(name=stood_for)(call)
        return Activity(run, attrs.evolve(named.settings, run_in=None), named.codec, is_async=True)
    settings = attrs.evolve(stood_for.settings, run_in=None)
    return Activity(run, settings, stood_for.codec, is_async=True)
