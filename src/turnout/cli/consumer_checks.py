"""What `turnout doctor` says of the consumers of jobs: which is missing, set otherwise, or somebody else's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from turnout.cli.checks import Check
from turnout.core.catalog import ActivityInfo
from turnout.core.retry import RetryPolicy
from turnout.core.spec import DEFAULT_PRIORITY
from turnout.definition.fairness import Fairness
from turnout.nats.connection import Connection
from turnout.nats.stream import Stream
from turnout.store.consumers import ACTIVITY, PRIORITY, kind_of
from turnout.store.names import Names, activity_of, lane
from turnout.store.topology import ConsumerOptions, consumer_config, differing


async def consumers_of(connection: Connection, names: Names) -> dict[str, dict[str, Any]]:
    """What the server says of every consumer of the work stream, by name."""
    return {info["name"]: info for info in await Stream(connection, names.work).consumers()}


def consumer_checks(
    names: Names, activities: Sequence[ActivityInfo], consumers: Mapping[str, Mapping[str, Any]]
) -> list[Check]:
    """By what the server says of the consumers of the work stream."""
    checks = []
    kinds = {name: kind_of(names, info["config"]) for name, info in consumers.items()}
    lanes = [activity_of(name) for name, kind in kinds.items() if kind == PRIORITY]
    for activity in activities:
        consumer = consumers.get(activity.name)
        if consumer is None:
            found = f"activity {activity.name} has no consumer"
            checks.append(Check("consumers", "note", found, "the next worker for it creates it"))
            continue
        for priority in [DEFAULT_PRIORITY, *(priority for name, priority in lanes if name == activity.name)]:
            name = lane(activity.name, priority)
            wanted = consumer_config(names, activity.name, _options(activity), priority)
            fields = differing(wanted, consumers[name]["config"])
            if fields:
                found = f"the consumer of {name} differs in {', '.join(fields)}"
                checks.append(Check("consumers", "wrong", found, "restart a worker for it: that sets it right"))
    declared = {activity.name for activity in activities}
    strange = sorted(
        name
        for name, kind in kinds.items()
        if kind is None or (kind in (ACTIVITY, PRIORITY) and activity_of(name)[0] not in declared)
    )
    if strange:
        found = f"of no activity that was declared: {', '.join(strange)}"
        checks.append(Check("consumers", "note", found, "a work-queue consumer of somebody else takes jobs away"))
    return checks or [Check("consumers", "ok", f"all {len(consumers)} are as they should be")]


def _options(activity: ActivityInfo) -> ConsumerOptions:
    settings = activity.options
    fairness = settings.get("fairness")
    return ConsumerOptions(
        lease=settings["lease"],
        max_attempts=_max_attempts(settings.get("retry") or {}),
        max_lost=settings["max_lost"],
        fairness=Fairness.of(fairness, activity.payload_schema).dumps() if fairness else "",
    )


def _max_attempts(retry: Mapping[str, Any]) -> int:
    """A policy's entry leaves out what is as usual."""
    return int(retry.get("max_attempts") or RetryPolicy(delays=retry.get("delays")).max_attempts)
