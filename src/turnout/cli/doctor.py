"""`turnout doctor`: looks at everything that a job depends on, and says what to do about what is wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import click

from turnout.cli import contexts, logs, options, output, pasting, session, topology
from turnout.cli.checks import Check
from turnout.cli.consumer_checks import consumer_checks, consumers_of
from turnout.cli.group_checks import group_checks
from turnout.cli.limit_checks import limit_checks
from turnout.cli.queue_checks import queue_checks
from turnout.cli.route_checks import route_checks
from turnout.cli.schedule_checks import schedule_checks
from turnout.cli.workflow_checks import workflow_checks
from turnout.core.catalog import NodeInfo
from turnout.errors import OutcomeUnknown, PermissionDenied, StorageRefused, TurnoutError
from turnout.nats.connection import ApiError, Connection, NoResponders
from turnout.nats.link import shown
from turnout.nats.messages import KV_OPERATION
from turnout.nats.stream import TTL, Stream, for_seconds, kv_stream
from turnout.store.names import Names
from turnout.store.perform import Store
from turnout.store.topology import Change, Topology, TopologyOptions
from turnout.version import version

RECOMMENDED_SERVER = (2, 14, 3)
API_LEVEL = 2  # of nats-server 2.12: schedules and atomic batches
CLOCK_OFFSET_S = 1.0
_PROBE_S = 3.0
_MAKE_ROOM = (
    "delete what is not needed, by `turnout job delete` and `turnout fault drop`; where jobs that wait fill the store,"
    " by `turnout job delete --unbegun --activity NAME`"
)
_STORABLE = Check("storage", "ok", "a write was tried, and no stream is near its limit")
_COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


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
        yield Check("streams", "wrong", f"namespace {names.ns} is not set up", f"run: {pasting.command('setup')}")
        return
    changes = await Topology(connection, names).setup(existing, dry_run=True)
    for check in _streams(changes):
        yield check
    storage = await _storage(connection, names)
    yield storage
    yield _durability(existing)
    yield _clock(connection)
    store = Store.over(connection, names)
    nodes, activities = await asyncio.gather(store.nodes.living(), store.nodes.activities())
    yield _nodes(nodes, storage)
    consumers = await consumers_of(connection, names)
    for check in consumer_checks(names, activities, consumers):
        yield check
    async for check in queue_checks(connection, names, nodes, activities):
        yield check
    for check in route_checks(consumers.values(), nodes):
        yield check
    missing = {change.name for change in changes if change.action == "create"}
    if kv_stream(names.activities_bucket) not in missing:
        async for check in schedule_checks(store, nodes):
            yield check
        async for check in group_checks(store):
            yield check
    if names.limits not in missing:
        async for check in limit_checks(store):
            yield check
    if not missing & {names.inbox, names.history}:
        async for check in workflow_checks(store, nodes):
            yield check
    if names.alarms not in missing:
        yield _alarms(await Stream(connection, names.alarms).info())


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
        return Check("jetstream", "wrong", found, f"raise the account's limit, or {_MAKE_ROOM}")
    return Check("jetstream", "ok", f"on, API level {level}")


def _streams(changes: list[Change]) -> Iterator[Check]:
    wrong = [change for change in changes if change.action != "keep"]
    for change in wrong:
        found = "is missing" if change.action == "create" else f"differs in {', '.join(change.fields)}"
        yield Check("streams", "wrong", f"{change.name} {found}", f"run: {pasting.command('setup')}")
    if not wrong:
        yield Check("streams", "ok", f"all {len(changes)} are as they should be")


async def _storage(connection: Connection, names: Names) -> Check:
    """Whether anything can be stored: limits are read, and a write is tried that leaves nothing behind."""
    return await _near_a_limit(connection, names) or await _refused_write(connection, names) or _STORABLE


async def _near_a_limit(connection: Connection, names: Names) -> Check | None:
    """Of the first stream that is nearly as full as it may be."""
    buckets = (names.jobs_bucket, names.nodes_bucket, names.activities_bucket)
    objects = f"OBJ_{names.payloads_bucket}"
    for stream in (names.work, *map(kv_stream, buckets), objects, names.faults, names.inbox, names.history):
        try:
            info = await Stream(connection, stream).info()
        except ApiError:
            continue  # one that is missing is told of above
        config, state = info["config"], info["state"]
        for limit, used, unit in (("max_bytes", "bytes", "bytes"), ("max_msgs", "messages", "messages")):
            most = config.get(limit, -1)
            holds = config.get("discard") == "new"
            if holds and 0 < most <= state[used] * 1.1:
                found = f"{stream} holds {state[used]} of the {most} {unit} that it may"
                return Check("storage", "wrong", found, f"raise its {limit}, or {_MAKE_ROOM}")
            if not holds and stream in (names.work, names.inbox) and 0 < most <= state[used] * 1.25:
                found = f"{stream} holds {state[used]} of the {most} {unit} that it may: what is oldest there goes then"
                return Check("storage", "wrong", found, f"raise its {limit} by `turnout setup`, or submit less")
    return None


async def _refused_write(connection: Connection, names: Names) -> Check | None:
    """Why a few bytes could not be stored, or were not tried."""
    try:
        headers = {KV_OPERATION: "DEL", TTL: for_seconds(1)}
        await connection.store(names.record("doctor", "probe"), b"", headers, timeout_s=_PROBE_S)
    except StorageRefused as error:
        return Check("storage", "wrong", str(error), f"raise the limit, or {_MAKE_ROOM}")
    except OutcomeUnknown:
        found = f"the server has not stored a few bytes within {_PROBE_S:g} s: is its disk full?"
        return Check("storage", "wrong", found, "free space on its disk; it may have to be restarted after that")
    except NoResponders:
        return Check("storage", "wrong", "the registry is missing", f"run: {pasting.command('setup')}")
    except PermissionDenied:
        return Check("storage", "note", "a write was not tried: these credentials may not write records")
    return None


def _durability(existing: TopologyOptions) -> Check:
    """How the server syncs its files can't be seen from here: say what depends on it."""
    hint = "sync_interval can't be seen from here: set it to `always`, or a power cut may take what was just stored"
    if existing.replicas == 1:
        more = pasting.command("setup --replicas 3")
        return Check("durability", "note", "one replica", f"for production: {more}; {hint}")
    return Check("durability", "note", f"{existing.replicas} replicas", hint)


def _clock(connection: Connection) -> Check:
    offset = connection.clock.offset_s
    found = f"{abs(offset) * 1000:.0f} ms {'behind' if offset > 0 else 'ahead of'} the server's clock"
    if abs(offset) > CLOCK_OFFSET_S:
        return Check("clock", "note", f"this machine is {found}", "turnout reckons with it; let NTP set it")
    return Check("clock", "ok", f"this machine is {found}")


def _nodes(nodes: list[NodeInfo], storage: Check) -> Check:
    if not nodes and storage.verdict == "wrong":
        return Check("nodes", "note", "no node lives, or none can have that stored", "mend the storage first")
    if not nodes:
        return Check("nodes", "note", "no node lives", f"start one: {pasting.command('worker MODULE')}")
    refused = [f"node {node.id}: {node.refused}" for node in nodes if node.refused]
    if refused:
        return Check("nodes", "wrong", "; ".join(refused), "allow it, or give the worker credentials of its own")
    if full := [node.id for node in nodes if 0 < node.slots <= node.waiting]:
        found = f"all slots of {', '.join(full)} are held by jobs that wait for other jobs"
        return Check("nodes", "note", found, "where those need a slot there, nothing moves: wait in a workflow instead")
    versions = {node.version for node in nodes} | {version()}
    found = f"{len(nodes)} alive: {', '.join(node.id for node in nodes)}"
    if len(versions) > 1:
        return Check("nodes", "note", found, f"several versions are in use: {', '.join(sorted(versions))}")
    return Check("nodes", "ok", found)


def _alarms(info: Mapping[str, Any]) -> Check:
    count = info["state"]["messages"]
    if count:
        return Check("alarms", "note", f"{count} messages ran out of deliveries or were terminated in the last days")
    return Check("alarms", "ok", "none")
