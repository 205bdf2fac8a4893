"""Hooks: functions of the user's that are called when something has happened to a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from turnout.core.changes import Change
from turnout.errors import DefinitionError

Hook = Callable[[Any], object]
"""Takes the job's `turnout.JobInfo`, as it was then. May be async; what it returns is not looked at."""


def _callable(_instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and not callable(value):
        raise DefinitionError(f"{attribute.name} must be a function that takes a JobInfo, not {value!r}")


@attrs.frozen(kw_only=True)
class Hooks:
    """Whom to tell: for all activities of a worker, or (as options of `@activity`) for one activity.

    `on_start`: an attempt begins. `on_success`: the job has completed. `on_failure`: an attempt has failed, and there
    may be another. `on_fault`: the job has ended by failure. `on_lost`: an attempt's node has vanished; told by the
    worker that finds out.

    Each is called at most once for what it tells, after that is on record; never, if the process dies right then. A job
    does not wait for its hooks, and nothing that they do changes how it ends: use them to tell people, not to keep
    books. What must happen belongs into an activity.

        Worker(client, activities=[...], hooks=Hooks(on_fault=lambda job: alert(job.id, job.error)))
    """

    on_start: Hook | None = attrs.field(default=None, validator=_callable, eq=False, repr=False)
    on_success: Hook | None = attrs.field(default=None, validator=_callable, eq=False, repr=False)
    on_failure: Hook | None = attrs.field(default=None, validator=_callable, eq=False, repr=False)
    on_fault: Hook | None = attrs.field(default=None, validator=_callable, eq=False, repr=False)
    on_lost: Hook | None = attrs.field(default=None, validator=_callable, eq=False, repr=False)

    def of(self, change: Change) -> Hook | None:
        """The hook that is called when this has happened, or None."""
        name = _HOOK_OF.get(change)
        hook: Hook | None = getattr(self, name) if name is not None else None
        return hook


_HOOK_OF = {
    Change.lost: "on_lost",
    Change.started: "on_start",
    Change.failed: "on_failure",
    Change.completed: "on_success",
    Change.faulted: "on_fault",
}

HOOK_NAMES = frozenset(_HOOK_OF.values())
