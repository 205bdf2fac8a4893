"""`turnout doctor`: looks at everything that a job depends on, and says what to do about what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import attrs
import click

from turnout.cli import contexts, logs, options, output, pasting, session, topology
from turnout.cli.checks import Check
from turnout.cli.group_checks import group_checks
from turnout.cli.limit_checks import limit_checks
from turnout.cli.route_checks import route_checks
from turnout.cli.schedule_checks import schedule_checks
from turnout.cli.stray_checks import stray_jobs
from turnout.cli.workflow_checks import workflow_checks
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.retry import RetryPolicy
from turnout.core.spec import DEFAULT_PRIORITY
from turnout.definition.fairness import Fairness
from turnout.errors import OutcomeUnknown, PermissionDenied, StorageRefused, TurnoutError
from turnout.nats.connection import ApiError, Connection, NoResponders
from turnout.nats.link import shown
from turnout.nats.messages import KV_OPERATION
from turnout.nats.pages import forward
from turnout.nats.stream import TTL, Stream, for_seconds, kv_stream
from turnout.store.consumers import ACTIVITY, PRIORITY, kind_of
from turnout.store.names import Names, activity_of, lane
from turnout.store.nodes import Nodes
from turnout.store.pauses import Pauses
from turnout.store.perform import Store
from turnout.store.topology import Change, ConsumerOptions, Topology, TopologyOptions, consumer_config, differing
from turnout.version import version

RECOMMENDED_SERVER = (2, 14, 3)
API_LEVEL = 2  # of nats-server 2.12: schedules and atomic batches
CLOCK_OFFSET_S = 1.0
_PROBE_S = 3.0
_MAKE_ROOM = (
    "delete what is not needed, by `turnout job delete` and `turnout fault drop`; where jobs that wait fill the store,"
    " by `turnout job delete --unbegun --activity NAME`"
)
_RECOUNT_AFTER_S = 0.5
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
    registry = Nodes(connection, names)
    nodes, activities = await asyncio.gather(registry.living(), registry.activities())
    yield _nodes(nodes, storage)
    configs = await _consumers(connection, names)
    for check in _consumer_settings(names, activities, configs):
        yield check
    async for check in _queues(connection, names, nodes, activities):
        yield check
    for check in route_checks(configs.values(), nodes):
        yield check
    missing = {change.name for change in changes if change.action == "create"}
    if kv_stream(names.activities_bucket) not in missing:
        async for check in schedule_checks(Store.over(connection, names), nodes):
            yield check
        async for check in group_checks(Store.over(connection, names)):
            yield check
    if names.limits not in missing:
        async for check in limit_checks(Store.over(connection, names)):
            yield check
    if not missing & {names.inbox, names.history}:
        async for check in workflow_checks(Store.over(connection, names), nodes):
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
    return Check("storage", "ok", "a write was tried, and no stream is near its limit")


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


async def _consumers(connection: Connection, names: Names) -> dict[str, dict[str, Any]]:
    """What the server says of every consumer of the work stream, by name."""
    return {info["name"]: info for info in await Stream(connection, names.work).consumers()}


def _consumer_settings(
    names: Names, activities: list[ActivityInfo], consumers: Mapping[str, Mapping[str, Any]]
) -> list[Check]:
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
            wanted = consumer_config(names, activity.name, _consumer_options(activity), priority)
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


def _consumer_options(activity: ActivityInfo) -> ConsumerOptions:
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
    queues, stray = await _measure(connection, names)
    for check in stray_jobs(names.ns, names.work, stray):
        yield check
    if any(queue.stuck for queue in queues.values()):
        # Jobs move while they are counted, so counts only raise a suspicion.
        queues = await _recount(connection, names, queues)
    queues = _together(queues)
    worked_on = {name for node in nodes for name in node.activities}
    declared = {activity.name for activity in activities}
    fine = not stray
    for name, pause in sorted((await Pauses(connection, names).held()).items()):
        note = f": {pause.note}" if pause.note else ""
        remedy = f"when its jobs may run again: {pasting.command(f'activity resume {name}')}"
        yield Check("queues", "note", f"{name} is paused{note}", remedy)
    for name in sorted(declared | set(queues)):
        queue = queues.get(name, _Queue(0, 0))
        if name not in worked_on and queue.total:
            never = "" if name in declared else " (and none ever did: is the name right?)"
            found = f"{_jobs(queue.total)} of {name} in the queue, and no node works on it{never}"
            yield Check("queues", "wrong", found, f"start a worker for it: {pasting.command('worker MODULE')}")
            fine = False
        elif name not in worked_on:
            yield Check("queues", "note", f"no node works on {name}; no job of it waits")
        if queue.stuck:
            found = f"{_jobs(queue.stuck)} of {name} stuck: their deliveries are used up, or they were swallowed"
            yield Check("queues", "wrong", found, "a living node requeues them after two leases: is there one?")
            fine = False
    if fine:
        yield Check("queues", "ok", f"{_jobs(sum(queue.total for queue in queues.values()))} on their way, none stuck")


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _together(lanes: Mapping[str, _Queue]) -> dict[str, _Queue]:
    """The queue of each activity: those of its lanes."""
    queues: dict[str, _Queue] = {}
    for name, queue in lanes.items():
        activity = activity_of(name)[0]
        before = queues.get(activity, _Queue(0, 0))
        # What one lane's consumer knows too much of does not make up for what is stuck in another.
        queues[activity] = _Queue(before.total + queue.total, before.known + min(queue.known, queue.total))
    return queues


async def _recount(connection: Connection, names: Names, queues: Mapping[str, _Queue]) -> dict[str, _Queue]:
    """The queues with what is stuck in them, by which messages there are.

    A message that the consumer had handed over when it was asked, and that is there afterwards, was among those whose
    acknowledgement it waited for then: unless it is stuck.
    """
    consumers = await _consumers(connection, names)
    await asyncio.sleep(_RECOUNT_AFTER_S)
    recounted = dict(queues)
    for name, queue in queues.items():
        consumer = consumers.get(name)
        if consumer is None or not queue.stuck:
            continue
        handed_over = await _up_to(connection, names, name, consumer["delivered"]["stream_seq"])
        stuck = max(0, handed_over - consumer["num_ack_pending"])
        recounted[name] = _Queue(queue.total, queue.total - stuck)
    return recounted


async def _up_to(connection: Connection, names: Names, consumer: str, last: int) -> int:
    """How many messages of a consumer there are up to this sequence."""
    count = 0
    for subject in names.waiting(*activity_of(consumer)):
        async with contextlib.aclosing(forward(connection, names.work, subject)) as pages:
            async for page in pages:
                count += sum(raw.seq <= last for raw in page)
                if page and page[-1].seq > last:
                    break
    return count


async def _measure(connection: Connection, names: Names) -> tuple[dict[str, _Queue], dict[str, int]]:
    """The queue of each lane; and the subjects that name no activity, with how many messages each has."""
    totals: Counter[str] = Counter()
    stray: dict[str, int] = {}
    async for subject, count in Stream(connection, names.work).subjects(names.all_jobs):
        place = names.place_of(subject)
        if place is not None:
            totals[lane(place.activity, place.lane)] += count
        else:
            stray[subject] = count
    consumers = await _consumers(connection, names)
    queues = {}
    for name, total in totals.items():
        consumer = consumers.get(name)
        # Without a consumer all of them wait for the first worker.
        known = total if consumer is None else consumer["num_pending"] + consumer["num_ack_pending"]
        queues[name] = _Queue(total, known)
    return queues, stray


def _alarms(info: Mapping[str, Any]) -> Check:
    count = info["state"]["messages"]
    if count:
        return Check("alarms", "note", f"{count} messages ran out of deliveries or were terminated in the last days")
    return Check("alarms", "ok", "none")
