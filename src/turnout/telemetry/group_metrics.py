"""What this process counts of groups. A label is the activity of all members, or `other` where they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from turnout.telemetry.counts import Known, Metric, Values, keep, new_counter

_BY_ACTIVITY = ("activity",)

FINISHED = new_counter(
    "turnout.groups.finished", "{group}", "Groups that this process has seen the end of.", _BY_ACTIVITY
)
FOLLOWED = new_counter(
    "turnout.groups.followed", "{job}", "Jobs submitted because their group had ended.", _BY_ACTIVITY
)
OPEN = Metric("turnout.groups.open", "up-down counter", "{group}", _BY_ACTIVITY, "Groups that have not finished.")
MEMBERS = Metric(
    "turnout.group.members",
    "up-down counter",
    "{job}",
    ("activity", "state"),
    "Members of groups that have not finished.",
)

COUNTERS = (FINISHED, FOLLOWED)
GAUGES = (OPEN, MEMBERS)


@attrs.frozen
class GroupUse:
    """Of the groups of an activity that have not finished: how many, and how many members have ended or have not."""

    groups: int = 0
    open: int = 0
    ended: int = 0


OpenGroups = Mapping[str, GroupUse]

_known = Known()
_groups: dict[object, Callable[[], OpenGroups]] = {}


def finished(activity: str, *, followed: bool) -> None:
    """This process has finished a group, and has submitted what follows it, if anything does."""
    values = (_label(activity),)
    FOLLOWED.add(values, int(followed))
    FINISHED.add(values)


def watch_groups(look_at: Callable[[], OpenGroups]) -> Callable[[], None]:
    """Tell of the open groups whenever that is collected, in any thread; returns what ends it."""
    return keep(_groups, look_at)


def open_now() -> dict[Values, float]:
    """How many groups of each activity are open, as the acting supervisor has last looked."""
    return _sum(lambda activity, use: {(activity,): use.groups})


def members_now() -> dict[Values, float]:
    """How many of their members have ended, and have not, likewise."""
    return _sum(lambda activity, use: {(activity, "open"): use.open, (activity, "ended"): use.ended})


def _sum(numbers: Callable[[str, GroupUse], Mapping[Values, int]]) -> dict[Values, float]:
    found: dict[Values, float] = {}
    for look_at in _groups.copy().values():
        for activity, use in look_at().items():
            for values, number in numbers(_label(activity), use).items():
                found[values] = found.get(values, 0) + number
    return found


def _label(activity: str) -> str:
    if activity:
        _known.add((activity,))
    return _known.label(activity)
