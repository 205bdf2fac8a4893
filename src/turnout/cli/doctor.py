"""`turnout doctor`: looks at everything that a job depends on, and says what to do about what is wrong."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Literal

import attrs
import click

from turnout.cli import contexts, logs, options, output, session, topology
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.retry import RetryPolicy
from turnout.errors import TurnoutError
from turnout.jetstream.connection import Connection
from turnout.jetstream.link import shown
from turnout.jetstream.names import Names
from turnout.jetstream.nodes import Nodes
from turnout.jetstream.topology import Change, ConsumerOptions, Topology, TopologyOptions, consumer_config
from turnout.version import version

Verdict = Literal["ok", "note", "wrong"]

RECOMMENDED_SERVER = (2, 14, 3)
API_LEVEL = 2  # of nats-server 2.12: schedules and atomic batches
CLOCK_OFFSET_S = 1.0
_RECOUNT_AFTER_S = 0.5
_PAGE = 256
_COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


@attrs.frozen
class Check:
    """One thing that was looked at. `remedy`: what to do, if anything."""

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


def doctor() -> int:
    """Print the checks; 1 if something is wrong."""
    logs.set_up(options.given(), logging.ERROR)
    checks = asyncio.run(_examine())
    wrong = any(check.verdict == "wrong" for check in checks)
    session.show({"ok": not wrong, "checks": checks}, lambda: _lines(checks), as_json=session.as_json())
    return 1 if wrong else 0


def _lines(checks: list[Check]) -> list[str]:
    width = max(len(check.check) for check in checks)
    lines = []
    for check in checks:
        verdict = click.style(f"{check.verdict:5}", fg=_COLOURS[check.verdict])
        lines.append(f"{verdict}  {check.check:{width}}  {output.clean(check.found)}")
        if check.remedy:
            lines.append(f"{'':5}  {'':{width}}  -> {check.remedy}")
    return lines


async def _examine() -> list[Check]:
    where = ", ".join(shown(server) for server in contexts.connect_options(options.given()).servers)
    checks: list[Check] = []
    try:
        async with session.connected("turnout-doctor") as (connection, names):
            checks.append(Check("server", "ok", f"answers at {where}"))
            async for check in _all(connection, names):
                checks.append(check)  # what was found before an error counts
            checks += [Check("permissions", "wrong", str(each), "allow it") for each in connection.violations]
    except TurnoutError as error:
        remedy = (
            "what could not be looked at is left out"
            if checks
            else "see `turnout --help`: which server, and who are you?"
        )
        checks.append(Check("server", "wrong", str(error), remedy))
    return checks


async def _all(connection: Connection, names: Names) -> AsyncIterator[Check]:
    yield _server_version(connection)
    yield _api_level(await connection.api("INFO"))
    existing = await topology.existing_options(connection, names)
    if existing is None:
        yield Check("streams", "wrong", f"namespace {names.ns} is not set up", "run: turnout setup")
        return
    changes = await Topology(connection, names).setup(existing, dry_run=True)
    for check in _streams(changes):
        yield check
    yield _durability(existing)
    yield _clock(connection)
    registry = Nodes(connection, names)
    nodes, activities = await asyncio.gather(registry.living(), registry.activities())
    yield _nodes(nodes)
    configs = await _consumers(connection, names)
    for check in _consumer_settings(names, activities, configs):
        yield check
    async for check in _queues(connection, names, nodes, activities):
        yield check
    if not any(change.name == names.alarms and change.action == "create" for change in changes):
        yield _alarms(await connection.api(f"STREAM.INFO.{names.alarms}"))


def _server_version(connection: Connection) -> Check:
    found = ".".join(map(str, connection.server_version))
    if connection.server_version < RECOMMENDED_SERVER:
        recommended = ".".join(map(str, RECOMMENDED_SERVER))
        return Check("version", "note", f"nats-server {found}", f"{recommended} or newer is recommended")
    return Check("version", "ok", f"nats-server {found}")


def _api_level(info: Mapping[str, Any]) -> Check:
    level = info.get("api", {}).get("level", 0)
    limits = info.get("limits", {})
    if level < API_LEVEL:
        return Check("jetstream", "wrong", f"API level {level}", f"needed is {API_LEVEL}: nats-server 2.12 or newer")
    most, used = limits.get("max_storage", -1), info.get("storage", 0)
    if 0 < most < used * 1.25:
        found = f"API level {level}; {used} of {most} bytes of file storage are used"
        return Check("jetstream", "wrong", found, "raise the account's limit, or delete what is not needed")
    return Check("jetstream", "ok", f"on, API level {level}")


def _streams(changes: list[Change]) -> Iterator[Check]:
    wrong = [change for change in changes if change.action != "keep"]
    for change in wrong:
        found = "is missing" if change.action == "create" else f"differs in {', '.join(change.fields)}"
        yield Check("streams", "wrong", f"{change.name} {found}", "run: turnout setup")
    if not wrong:
        yield Check("streams", "ok", f"all {len(changes)} are as they should be")


def _durability(existing: TopologyOptions) -> Check:
    """How the server syncs its files can't be seen from here: say what depends on it."""
    hint = "sync_interval can't be seen from here: set it to `always`, or a power cut may take what was just stored"
    if existing.replicas == 1:
        return Check("durability", "note", "one replica", f"for production: turnout setup --replicas 3; {hint}")
    return Check("durability", "note", f"{existing.replicas} replicas", hint)


def _clock(connection: Connection) -> Check:
    offset = connection.clock.offset_s
    found = f"{abs(offset) * 1000:.0f} ms {'behind' if offset > 0 else 'ahead of'} the server's clock"
    if abs(offset) > CLOCK_OFFSET_S:
        return Check("clock", "note", f"this machine is {found}", "turnout reckons with it; let NTP set it")
    return Check("clock", "ok", f"this machine is {found}")


def _nodes(nodes: list[NodeInfo]) -> Check:
    if not nodes:
        return Check("nodes", "note", "no node lives", "start one: turnout worker MODULE")
    versions = {node.version for node in nodes} | {version()}
    found = f"{len(nodes)} alive: {', '.join(node.id for node in nodes)}"
    if len(versions) > 1:
        return Check("nodes", "note", found, f"several versions are in use: {', '.join(sorted(versions))}")
    return Check("nodes", "ok", found)


async def _consumers(connection: Connection, names: Names) -> dict[str, dict[str, Any]]:
    """What the server says of every consumer of the work stream, by name."""
    found: dict[str, dict[str, Any]] = {}
    while True:
        page = await connection.api(f"CONSUMER.LIST.{names.work}", {"offset": len(found)})
        infos = page.get("consumers") or []
        found |= {info["name"]: info for info in infos}
        if len(infos) < _PAGE:
            return found


def _consumer_settings(
    names: Names, activities: list[ActivityInfo], consumers: Mapping[str, Mapping[str, Any]]
) -> list[Check]:
    checks = []
    for activity in activities:
        consumer = consumers.get(activity.name)
        if consumer is None:
            found = f"activity {activity.name} has no consumer"
            checks.append(Check("consumers", "note", found, "the next worker for it creates it"))
            continue
        wanted = consumer_config(names, activity.name, _consumer_options(activity))
        fields = [name for name, value in wanted.items() if _plain(consumer["config"].get(name)) != _plain(value)]
        if fields:
            found = f"the consumer of {activity.name} differs in {', '.join(fields)}"
            checks.append(Check("consumers", "wrong", found, "restart a worker for it: that sets it right"))
    strange = sorted(set(consumers) - {activity.name for activity in activities})
    if strange:
        found = f"of no activity that was declared: {', '.join(strange)}"
        checks.append(Check("consumers", "note", found, "a work-queue consumer of somebody else takes jobs away"))
    return checks or [Check("consumers", "ok", f"all {len(consumers)} are as they should be")]


def _consumer_options(activity: ActivityInfo) -> ConsumerOptions:
    settings = activity.options
    return ConsumerOptions(
        lease=settings["lease"],
        max_attempts=_max_attempts(settings.get("retry") or {}),
        max_lost=settings["max_lost"],
        global_concurrency=settings.get("global_concurrency"),
    )


def _max_attempts(retry: Mapping[str, Any]) -> int:
    """A policy's entry leaves out what is as usual."""
    return int(retry.get("max_attempts") or RetryPolicy(delays=retry.get("delays")).max_attempts)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value or None


@attrs.frozen
class _Queue:
    """An activity's messages: `total` in the stream, `known` to its consumer (waiting or handed over)."""

    total: int
    known: int

    @property
    def stuck(self) -> int:
        return max(0, self.total - self.known)


async def _queues(
    connection: Connection, names: Names, nodes: list[NodeInfo], activities: list[ActivityInfo]
) -> AsyncIterator[Check]:
    queues = await _measure(connection, names)
    if any(queue.stuck for queue in queues.values()):
        # Jobs move while they are counted: only what is unknown to the consumer twice is stuck.
        await asyncio.sleep(_RECOUNT_AFTER_S)
        again = await _measure(connection, names)
        queues = {name: _less_stuck(queue, again.get(name)) for name, queue in queues.items()}
    worked_on = {name for node in nodes for name in node.activities}
    declared = {activity.name for activity in activities}
    fine = True
    for name in sorted(declared | set(queues)):
        queue = queues.get(name, _Queue(0, 0))
        if name not in worked_on and queue.total:
            never = "" if name in declared else " (and none ever did: is the name right?)"
            found = f"{_jobs(queue.total)} of {name} in the queue, and no node works on it{never}"
            yield Check("queues", "wrong", found, "start a worker for it: turnout worker MODULE")
            fine = False
        elif name not in worked_on:
            yield Check("queues", "note", f"no node works on {name}; no job of it waits")
        if queue.stuck:
            found = f"{_jobs(queue.stuck)} of {name} stuck: their deliveries are used up, or they were swallowed"
            yield Check("queues", "wrong", found, "a living node puts them in anew after two leases: is there one?")
            fine = False
    if fine:
        yield Check("queues", "ok", f"{_jobs(sum(queue.total for queue in queues.values()))} on their way, none stuck")


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _less_stuck(first: _Queue, second: _Queue | None) -> _Queue:
    return first if second is not None and first.stuck < second.stuck else second or _Queue(0, 0)


async def _measure(connection: Connection, names: Names) -> dict[str, _Queue]:
    totals: Counter[str] = Counter()
    seen = 0
    while True:
        asked = {"subjects_filter": f"{names.ns}.jobs.>", "offset": seen}
        info = await connection.api(f"STREAM.INFO.{names.work}", asked)
        subjects: Mapping[str, int] = info["state"].get("subjects") or {}
        for subject, count in subjects.items():
            named = names.job_of(subject)
            if named is not None:
                totals[named[0]] += count
        seen += len(subjects)
        if not subjects or seen >= info.get("total", 0):
            break
    consumers = await _consumers(connection, names)
    queues = {}
    for name, total in totals.items():
        consumer = consumers.get(name)
        # Without a consumer all of them wait for the first worker.
        known = total if consumer is None else consumer["num_pending"] + consumer["num_ack_pending"]
        queues[name] = _Queue(total, known)
    return queues


def _alarms(info: Mapping[str, Any]) -> Check:
    count = info["state"]["messages"]
    if count:
        return Check("alarms", "note", f"{count} messages ran out of deliveries or were terminated in the last days")
    return Check("alarms", "ok", "none")
