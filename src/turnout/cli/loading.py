"""Finding the activities and workflows of a module that the user names."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from turnout.cli.exits import ModuleUnusable
from turnout.definition.activity import Activity
from turnout.definition.workflow import Workflow, workflow_of
from turnout.worker.lifespan import LifespanCode


@attrs.frozen
class Definitions:
    """What a worker can run: activities, and the workflows that decorated functions or classes are."""

    activities: list[Activity[..., Any]]
    workflows: list[Workflow[..., Any]]
    around: LifespanCode = attrs.field(factory=LifespanCode)
    """The code around the life of the worker: functions of the module that are called `lifespan` and the like."""

    @property
    def names(self) -> list[str]:
        return [*(each.name for each in self.activities), *(each.name for each in self.workflows)]


def definitions_of(target: str) -> Definitions:
    """The activities and workflows of `module`, or of `module:attribute` (one of them, or several).

    ModuleUnusable says what is wrong.
    """
    name, colon, attribute = target.partition(":")
    module = _import(name)
    if not colon:
        found = _definitions(vars(module).values())
        if not found.names:
            hint = "decorate an async function of it with @activity or @workflow"
            raise ModuleUnusable(f"{name} has no activities and no workflows: {hint}")
        return attrs.evolve(found, around=_around(module))
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise ModuleUnusable(f"{name} has no attribute {attribute}{_hint(module)}")
        value = getattr(value, part)
    several = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if not several or not all(isinstance(each, Activity) or workflow_of(each) is not None for each in several):
        raise ModuleUnusable(f"{target} is no activity and no workflow{_hint(module)}")
    return attrs.evolve(_definitions(several), around=_around(module))


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


def _definitions(values: Iterable[object]) -> Definitions:
    """Each once: a definition may have two names in its module."""
    several = list(values)
    activities = {id(each): each for each in several if isinstance(each, Activity)}
    workflows = {id(found): found for each in several if (found := workflow_of(each)) is not None}
    return Definitions(list(activities.values()), list(workflows.values()))


def _around(module: ModuleType) -> LifespanCode:
    """What the module's own program defines under these names; what it imports from elsewhere is somebody else's."""
    own = module.__name__.partition(".")[0]

    def defined(name: str) -> Any:
        value = getattr(module, name, None)
        return value if callable(value) and (value.__module__ or "").partition(".")[0] == own else None

    return LifespanCode(
        on_startup=defined("on_startup"), on_shutdown=defined("on_shutdown"), lifespan=defined("lifespan")
    )


def _hint(module: ModuleType) -> str:
    found = vars(module).items()
    names = sorted(name for name, value in found if isinstance(value, Activity) or workflow_of(value) is not None)
    return f": the activities and workflows in it are {', '.join(names)}" if names else ", which has none"
