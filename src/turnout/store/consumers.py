"""The consumers of the work stream, as the server tells of them. Each says of itself what it is there for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from turnout import fastjson
from turnout.core.routing import Route, checked_requires
from turnout.core.spec import DEFAULT_PRIORITY, is_name
from turnout.errors import InvalidValue
from turnout.nats.connection import Connection
from turnout.nats.stream import Stream
from turnout.store.names import Names, activity_of, lane

KIND = "turnout-kind"
"""The entry of a consumer's metadata that says what it hands over."""

ACTIVITY = "activity"
"""The kind of a consumer that hands over the jobs of the activity after which it is called."""

SCHEDULES = "schedules"
"""The kind of the consumer that hands over the ticks of schedules."""

PRIORITY = "priority"
"""The kind of a consumer that hands over what lies in another lane of the activity than its first one: the jobs of one
priority that is not the default, or those of one that were let past others."""

FAIRNESS = "turnout-fairness"
"""The entry of a consumer's metadata that says by what its jobs have their turns, if they have any."""

ROUTE = "route"
"""The kind of a consumer that hands over the jobs of an activity to nodes that have what those require."""

REQUIRES = "turnout-requires"
"""The entry of such a consumer's metadata that says what that is, as a JSON object; `turnout-activity` says of whom."""

OF_ACTIVITY = "turnout-activity"

TICKS = "~ticks"
"""What that one is called: no activity can be."""


@attrs.frozen
class Consumer:
    """A consumer of an activity's jobs: its own, that of another lane (`priority`), or that of a route of it,
    `requires` being what nodes have there.

    `delivered_seq` is the newest sequence of the stream that it has handed over, `acked_seq` the one up to which all is
    done with, as the server has it. `deliveries` is how many times it has handed over anything. `idle`: it has pulls
    waiting, so nothing is left to hand over. `pending`: how many messages it has not handed to anybody, `unacked` how
    many are in somebody's hands. `created` tells it from an earlier one of the same name. `paused`: it hands over
    nothing now, whatever there is. `fairness`: by what its jobs have their turns, as its metadata say it.
    """

    activity: str
    delivered_seq: int
    deliveries: int
    ack_wait_s: float
    idle: bool
    pending: int = 0
    unacked: int = 0
    created: str = ""
    paused: bool = False
    acked_seq: int = 0
    name: str = ""
    requires: dict[str, str] | None = None
    priority: int = DEFAULT_PRIORITY
    fairness: str = ""

    @property
    def route(self) -> Route | None:
        return None if self.requires is None else Route(self.activity, self.requires)

    def subjects(self, names: Names) -> tuple[str, ...]:
        """Where the jobs lie that it hands over."""
        if self.route is not None:
            return (names.routed(self.route.token, self.activity, "*"),)
        return names.waiting(self.activity, self.priority)


def kind_of(names: Names, config: Mapping[str, Any]) -> str | None:
    """What a consumer of the work stream hands over, None when it is none of turnout's.

    One that says nothing of itself, because an earlier version has made it, is told by its filters.
    """
    said = (config.get("metadata") or {}).get(KIND)
    if said is not None:
        return str(said)
    name = config.get("durable_name") or config.get("name") or ""
    filters = config.get("filter_subjects") or [config.get("filter_subject")]
    return ACTIVITY if set(filters) == {names.bare(name), names.jobs(name, "*")} else None


def route_name(route: Route) -> str:
    """What the consumer of a route is called: no activity can be."""
    return f"{route.activity}~{route.token}"


def route_of(config: Mapping[str, Any]) -> Route | None:
    """The route whose jobs this consumer hands over; None for any other."""
    said = config.get("metadata") or {}
    if said.get(KIND) != ROUTE or not is_name(said.get(OF_ACTIVITY, "")):
        return None
    try:
        route = Route(said[OF_ACTIVITY], checked_requires(fastjson.loads(said.get(REQUIRES, ""))))
    except (InvalidValue, ValueError):
        return None
    return route if route_name(route) == config.get("name", config.get("durable_name")) else None


def line_of(names: Names, subject: str) -> str | None:
    """The name of the consumer that hands over what lies on this subject of the work stream; None for no job."""
    place = names.place_of(subject)
    if place is None:
        return None
    return f"{place.activity}~{subject.split('.')[3]}" if place.routed else lane(place.activity, place.lane)


def served(info: Mapping[str, Any]) -> str:
    """The activity whose jobs a consumer hands over, as the server tells of it; for any other its name."""
    route = route_of(info["config"])
    return activity_of(info["name"])[0] if route is None else route.activity


async def consumers_of(connection: Connection, names: Names) -> list[Consumer]:
    """The consumers of activities, of their lanes and of routes; none when there is no work stream. Errors are those of
    the connection."""
    infos = await Stream(connection, names.work).consumers()
    kinds = (ACTIVITY, PRIORITY)
    return [_consumer(info) for info in infos if kind_of(names, info["config"]) in kinds or route_of(info["config"])]


async def consumer_of(connection: Connection, names: Names, activity: str) -> Consumer | None:
    """The consumer of an activity; None while no worker has made one."""
    info = await Stream(connection, names.work).consumer(activity)
    return None if info is None else _consumer(info)


def _consumer(info: Mapping[str, Any]) -> Consumer:
    route = route_of(info["config"])
    return Consumer(
        name=info["name"],
        activity=served(info),
        priority=activity_of(info["name"])[1] if route is None else DEFAULT_PRIORITY,
        requires=None if route is None else route.requires,
        delivered_seq=info["delivered"]["stream_seq"],
        deliveries=info["delivered"]["consumer_seq"],
        ack_wait_s=info["config"].get("ack_wait", 30e9) / 1e9,
        idle=info.get("num_waiting", 0) > 0,
        pending=info.get("num_pending", 0),
        unacked=info.get("num_ack_pending", 0),
        created=info.get("created", ""),
        acked_seq=info.get("ack_floor", {}).get("stream_seq", 0),
        paused=bool(info.get("paused")),
        fairness=(info["config"].get("metadata") or {}).get(FAIRNESS, "") if route is None else "",
    )
