"""Finding the activities of a module that the user names."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from turnout.cli.exits import ModuleUnusable
from turnout.definition.activity import Activity


def activities_of(target: str) -> list[Activity[..., Any]]:
    """The activities of `module`, or of `module:attribute` (an activity or several of them).

    ModuleUnusable says what is wrong.
    """
    name, colon, attribute = target.partition(":")
    module = _import(name)
    if not colon:
        found = _distinct(value for value in vars(module).values() if isinstance(value, Activity))
        if not found:
            raise ModuleUnusable(f"{name} has no activities: decorate an async function of it with @activity")
        return found
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise ModuleUnusable(f"{name} has no attribute {attribute}{_activities_hint(module)}")
        value = getattr(value, part)
    several = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if not several or not all(isinstance(each, Activity) for each in several):
        raise ModuleUnusable(f"{target} is no activity{_activities_hint(module)}")
    return _distinct(several)


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if name.endswith(".py") or "/" in name:
        module = name.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise ModuleUnusable(f"{name} is a file: name the module as Python does, perhaps {module}")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ModuleUnusable(f"cannot import {name}: no module named {error.name!r} here ({here})") from error
        raise ModuleUnusable(f"cannot import {name}: {_why(error)}") from error


def _why(error: BaseException) -> str:
    """The error's own text, and the user's own lines that it comes from."""
    text = "".join(traceback.format_exception_only(error)).strip()
    ours = (str(Path(importlib.__file__ or "").parent), "<frozen ", str(Path(__file__).parents[1]))
    theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    if not theirs:
        return text
    headline, _, _ = text.splitlines()[-1].partition("\n")
    return f"{headline}\n{''.join(traceback.format_list(theirs[-3:])).rstrip()}\n{text}"


def _distinct(found: Iterable[Activity[..., Any]]) -> list[Activity[..., Any]]:
    """Each once: an activity may have two names in its module."""
    return list({id(each): each for each in found}.values())


def _activities_hint(module: ModuleType) -> str:
    names = sorted(name for name, value in vars(module).items() if isinstance(value, Activity))
    return f": the activities in it are {', '.join(names)}" if names else " and has no activities"
