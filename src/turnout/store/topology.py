"""The streams, buckets and consumers that turnout needs, and how they are brought about.

A client or worker creates what is missing and leaves alone what is there; `turnout setup` updates it as well. Nothing
is written that is already as it should be: compare, then skip.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import attrs

from turnout import fastjson
from turnout.core.routing import Route
from turnout.core.spec import DEFAULT_PRIORITY, is_express
from turnout.errors import PermissionDenied, ServerUnsuitable
from turnout.nats.connection import ApiError, Connection, RequestTimeout
from turnout.nats.stream import NOT_FOUND, Stream, kv_stream, kv_subject, max_deliveries_advisory
from turnout.store.consumers import (
    ACTIVITY,
    FAIRNESS,
    KIND,
    OF_ACTIVITY,
    PRIORITY,
    REQUIRES,
    ROUTE,
    SCHEDULES,
    TICKS,
    route_name,
)
from turnout.store.names import Names, lane
from turnout.store.sizes import shared_out

logger = logging.getLogger("turnout.topology")

_NS = 1_000_000_000
_DAY = 86_400 * _NS
_CONSUMER_EXISTS = (10013, 10105, 10148)
_REMEDIES = {
    10113: "this account demands a size of each stream: say how much all of them may have together, "
    "as in `turnout setup --max-bytes 10GB`",
    10047: "sizes are reserved, used or not: give less to `turnout setup --max-bytes`, or raise the account's limit",
    10122: "give less to `turnout setup --max-bytes`, or raise the account's limit of a single stream",
}
"""What helps where the server refuses a stream for its size."""

DELIVERIES_BESIDE_BUDGETS = 20
"""Deliveries beyond failures and losses: dropped status checks, aborts and messages given back count as well (P7)."""


@attrs.frozen(kw_only=True)
class TopologyOptions:
    """How durable, and how much: replicas (1 to 5), days that dead letters, alarms (and answers from outside), and
    lines of logs are kept.

    `log_bytes` bounds all lines of logs together, the oldest go first; -1: only the account does.
    `max_bytes`, for an account that demands a size of each stream: what all of them together may have of each copy.
    None: no stream is bounded, which is better wherever it is allowed (ADR 4).
    """

    replicas: int = 1
    fault_days: float = 30.0
    alarm_days: float = 7.0
    log_days: float = 30.0
    log_bytes: int = -1
    max_bytes: int | None = None


LOG_BATCHES = 64
"""How many batches of lines are kept of a job; a job writes one a second at most."""


def stream_configs(names: Names, options: TopologyOptions) -> list[dict[str, Any]]:
    """The streams in the order of their creation: the alarms first, so that no advisory goes unheard. InvalidValue."""
    configs = _unbounded(names, options)
    if options.max_bytes is None:
        return configs
    sizes = shared_out(names, options.max_bytes)
    if options.log_bytes > 0:
        sizes[names.logs] = options.log_bytes
    return [{**config, "max_bytes": sizes[config["name"]]} for config in configs]


def _unbounded(names: Names, options: TopologyOptions) -> list[dict[str, Any]]:
    common = {"storage": "file", "num_replicas": options.replicas}
    bucket = {
        **common,
        "max_msgs_per_subject": 1,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "discard": "new",
    }
    return [
        _for_days(
            common,
            names.alarms,
            "turnout: messages whose deliveries ran out",
            [max_deliveries_advisory(names.work), max_deliveries_advisory(names.work, "MSG_TERMINATED")],
            options.alarm_days,
        ),
        _for_days(common, names.faults, "turnout: dead letters", [f"{names.ns}.faults.>"], options.fault_days),
        _logs(names, options, common),
        _for_days(
            common,
            names.completions,
            "turnout: what was said from outside of jobs",
            [names.answer("complete", "*"), names.answer("fail", "*")],
            options.alarm_days,
        ),
        {**bucket, **_jobs(names)},
        *(
            {**bucket, "name": kv_stream(name), "subjects": [kv_subject(name, ">")]}
            for name in (names.nodes_bucket, names.activities_bucket)
        ),
        _limits(names, common),
        _payloads(names, common),
        _work(names, common),
        *_workflows(names, common),
    ]


def _for_days(
    common: Mapping[str, Any], name: str, description: str, subjects: list[str], days: float
) -> dict[str, Any]:
    """A stream that keeps what comes for so many days."""
    return {
        **common,
        "name": name,
        "description": description,
        "subjects": subjects,
        "retention": "limits",
        "max_age": int(days * _DAY),
        "allow_direct": True,
    }


def _work(names: Names, common: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **common,
        "name": names.work,
        "description": "turnout: a message is a job",
        "subjects": [f"{names.ns}.jobs.*", f"{names.ns}.jobs.*.*", f"{names.ns}.timers.>", f"{names.ns}.parked.>"],
        # Schedules rule out `discard: new`, so there is no limit here that could discard a job: bound the account.
        "retention": "workqueue",
        "allow_direct": True,
        "allow_atomic": True,
        "allow_msg_schedules": True,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
        "duplicate_window": 120 * _NS,
    }


def _workflows(names: Names, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two streams, because what anybody may write must not lie beside what nobody may touch: whoever may publish to a
    stream with schedules could wipe and forge all that is in it."""
    return [
        {
            **common,
            "name": names.history,
            "description": "turnout: what workflows have recorded",
            "subjects": [names.records("*")],
            "retention": "limits",
            "discard": "new",
            "compression": "s2",
            "allow_direct": True,
            # With its body: who waits for an end or for an answer need not ask for the record.
            "republish": {
                "src": names.records("*"),
                "dest": names.recorded("{{wildcard(1)}}"),
                "headers_only": False,
            },
        },
        {
            **common,
            "name": names.inbox,
            "description": "turnout: what reaches workflows",
            "subjects": [f"{names.ns}.workflows.>", f"{names.ns}.wftimers.>"],
            "retention": "workqueue",
            "allow_direct": True,
            "allow_msg_schedules": True,
            "allow_msg_ttl": True,
            "allow_rollup_hdrs": True,
            "duplicate_window": 120 * _NS,
        },
    ]


def _jobs(names: Names) -> dict[str, Any]:
    bucket = names.jobs_bucket
    return {
        "name": kv_stream(bucket),
        "subjects": [kv_subject(bucket, ">")],
        # Whoever waits for a job hears of its record when it is stored, and need not ask whether it is.
        "republish": {"src": kv_subject(bucket, "*", "*"), "dest": names.stored("{{wildcard(1)}}", "{{wildcard(2)}}")},
    }


def _payloads(names: Names, common: Mapping[str, Any]) -> dict[str, Any]:
    bucket = names.payloads_bucket
    return {
        **common,
        "name": f"OBJ_{bucket}",
        "subjects": [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"],
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "discard": "new",
    }


def _limits(names: Names, common: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **common,
        "name": names.limits,
        "description": "turnout: limits, and who holds their places",
        "subjects": [f"{names.ns}.limits.>"],
        "retention": "limits",
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "discard": "new",
    }


def _logs(names: Names, options: TopologyOptions, common: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **common,
        "name": names.logs,
        "description": "turnout: the last lines that jobs have logged",
        "subjects": [f"{names.ns}.logs.*.*"],
        "retention": "limits",
        "discard": "old",
        "max_msgs_per_subject": LOG_BATCHES,
        "max_age": int(options.log_days * _DAY),
        "max_bytes": options.log_bytes,
        "compression": "s2",
        "allow_direct": True,
    }


@attrs.frozen(kw_only=True)
class ConsumerOptions:
    """What an activity's options make of its consumer. `fairness`: what whoever deals its jobs' turns has to know."""

    lease: float
    max_attempts: int
    max_lost: int
    fairness: str = ""


def consumer_config(
    names: Names, activity: str, options: ConsumerOptions, priority: int = DEFAULT_PRIORITY
) -> dict[str, Any]:
    """The one durable consumer of an activity, or of another lane of it; its ack wait is the lease."""
    name = lane(activity, priority)
    fairness = {FAIRNESS: options.fairness} if options.fairness and not is_express(priority) else {}
    return {
        "durable_name": name,
        "name": name,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "filter_subjects": list(names.waiting(activity, priority)),
        "ack_wait": int(options.lease * _NS),
        "max_deliver": options.max_attempts + options.max_lost + DELIVERIES_BESIDE_BUDGETS,
        "max_ack_pending": -1,
        "metadata": {KIND: ACTIVITY if priority == DEFAULT_PRIORITY else PRIORITY, **fairness},
    }


def route_config(names: Names, route: Route, options: ConsumerOptions) -> dict[str, Any]:
    """The one durable consumer of a route, for the nodes that have what its jobs require."""
    return {
        **consumer_config(names, route.activity, options),
        "durable_name": route_name(route),
        "name": route_name(route),
        "filter_subjects": [names.routed(route.token, route.activity, "*")],
        "metadata": {KIND: ROUTE, OF_ACTIVITY: route.activity, REQUIRES: fastjson.dumps(route.requires).decode()},
    }


WORKFLOW_ACK_WAIT_S = 10.0
"""After how long the input of a node that is silent goes to another one; longer tasks extend it."""


def workflow_consumer_config(names: Names, workflow: str) -> dict[str, Any]:
    """The one durable consumer of all workflows of a name.

    Deliveries and acknowledgements that are open have no limit: inputs of stuck workflows wait for as long as it takes
    to repair them, and must not keep others from being handed out.
    """
    return {
        "durable_name": workflow,
        "name": workflow,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "filter_subjects": [names.bare_start(workflow), f"{names.bare_start(workflow)}.>"],
        "ack_wait": int(WORKFLOW_ACK_WAIT_S * _NS),
        "max_deliver": -1,
        "max_ack_pending": -1,
    }


TICK_ACK_WAIT_S = 1.0
"""After how long a tick goes to another supervisor when the one that was handed it is silent."""


def tick_consumer_config(names: Names) -> dict[str, Any]:
    """The one durable consumer of the ticks of all schedules, for every supervisor that lives."""
    return {
        "durable_name": TICKS,
        "name": TICKS,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "filter_subject": names.tick("*", "*"),
        "ack_wait": int(TICK_ACK_WAIT_S * _NS),
        "max_deliver": -1,
        "max_ack_pending": -1,
        "metadata": {KIND: SCHEDULES},
    }


@attrs.frozen
class Change:
    """One thing that `setup` did, or would do: `action` is create, update or keep."""

    name: str
    action: str
    fields: tuple[str, ...] = ()


class Topology:
    """Creates and compares; holds no state but which connection and namespace it works on."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names

    async def ensure(self, options: TopologyOptions | None = None) -> None:
        """Create the streams that are missing. Jobs run without the one for lines of logs: its trouble is only told.

        Errors: PermissionDenied when the credentials may not look; ServerUnsuitable when JetStream refuses.
        """
        wanted = stream_configs(self._names, options or TopologyOptions())
        needed = [config for config in wanted if config["name"] != self._names.logs]
        kept = [config for config in wanted if config["name"] == self._names.logs]
        await asyncio.gather(self._bring_about(needed, update=False), self._ensure_logs(kept))

    async def _ensure_logs(self, configs: list[dict[str, Any]]) -> None:
        try:
            await self._bring_about(configs, update=False)
        except PermissionDenied as error:
            logger.info("lines of job.log may not be kept: %s", error)  # the connection has warned of it
        except ServerUnsuitable as error:
            logger.warning("lines of job.log are not kept: %s", error)

    async def setup(self, options: TopologyOptions, *, dry_run: bool = False) -> list[Change]:
        """Create what is missing, and change what differs; tells what was (or, with `dry_run`, would be) done."""
        return await self._bring_about(stream_configs(self._names, options), update=True, dry_run=dry_run)

    async def _bring_about(self, wanted: list[dict[str, Any]], *, update: bool, dry_run: bool = False) -> list[Change]:
        infos = await asyncio.gather(*(self._info(config["name"]) for config in wanted))
        changes = []
        for config, info in zip(wanted, infos, strict=True):
            fields = differing(config, info["config"]) if info is not None else ()
            action = "create" if info is None else "update" if fields else "keep"
            changes.append(Change(config["name"], action, fields))
            if not dry_run and (action == "create" or (action == "update" and update)):
                await self._write(action, config)
        return changes

    async def ensure_consumer(
        self, activity: str, options: ConsumerOptions, priority: int = DEFAULT_PRIORITY, *, update: bool = True
    ) -> dict[str, Any]:
        """The consumer of the activity, or of one of its lanes, as the server has it, created when missing, and with
        `update` changed to `options`.

        A worker updates it as it starts and never again: where two versions of an activity are at work, the worker that
        starts last decides, and the others take over what it decided instead of changing it back.
        """
        config = consumer_config(self._names, activity, options, priority)
        return await self._ensure_consumer(self._names.work, config, update=update)

    async def ensure_route(self, route: Route, options: ConsumerOptions, *, update: bool) -> dict[str, Any]:
        """The consumer of a route, created when missing, and with `update` changed to `options`."""
        return await self._ensure_consumer(self._names.work, route_config(self._names, route, options), update=update)

    async def ensure_workflow_consumer(self, workflow: str) -> dict[str, Any]:
        """The consumer of all workflows of this name, created when missing."""
        config = workflow_consumer_config(self._names, workflow)
        return await self._ensure_consumer(self._names.inbox, config, update=False)

    async def ensure_tick_consumer(self) -> dict[str, Any]:
        """The consumer of the ticks of schedules, created when missing."""
        return await self._ensure_consumer(self._names.work, tick_consumer_config(self._names), update=False)

    async def workflow_replicas(self) -> int:
        """How many servers keep the streams of workflows: on one alone, what its leader says is never old (W3)."""
        streams = (self._names.inbox, self._names.history)
        configs = [(await Stream(self._connection, stream).info())["config"] for stream in streams]
        return max(int(config.get("num_replicas", 1)) for config in configs)

    async def _ensure_consumer(self, stream: str, config: Mapping[str, Any], *, update: bool) -> dict[str, Any]:
        name = config["name"]
        found = await self._consumer(stream, name)
        if found is None:
            try:
                return await self._make_consumer(stream, config, "create")
            except ApiError as error:
                if error.err_code not in _CONSUMER_EXISTS:
                    raise
            found = await self._consumer(stream, name)  # another worker was quicker
        if found is not None and (not update or not differing(config, found)):
            return found
        return await self._make_consumer(stream, config, "")

    async def _consumer(self, stream: str, name: str) -> dict[str, Any] | None:
        info = await Stream(self._connection, stream).consumer(name)
        return None if info is None else dict(info["config"])

    async def _make_consumer(self, stream: str, config: Mapping[str, Any], action: str) -> dict[str, Any]:
        """`action`: "create" fails if there is one of this name that differs, "" makes it so."""
        return dict((await Stream(self._connection, stream).make_consumer(config, action))["config"])

    async def delete(self) -> None:
        """Delete every stream and bucket of the namespace, with all that is in them. For tests."""
        for config in stream_configs(self._names, TopologyOptions()):
            try:
                await Stream(self._connection, config["name"]).remove()
            except ApiError as error:
                if error.code != NOT_FOUND:
                    raise

    async def _info(self, stream: str) -> dict[str, Any] | None:
        try:
            return await Stream(self._connection, stream).info()
        except ApiError as error:
            if error.code == NOT_FOUND:
                return None
            raise
        except RequestTimeout as error:
            raise PermissionDenied(
                f"no answer about stream {stream}: the credentials may lack permission for $JS.API.> or their inbox"
            ) from error

    async def _write(self, action: str, config: Mapping[str, Any]) -> None:
        try:
            await Stream(self._connection, config["name"]).write(config, create=action == "create")
        except ApiError as error:
            refused = f"JetStream refused to {action} stream {config['name']}: {error.description}"
            if remedy := _REMEDIES.get(error.err_code or 0):
                refused = f"{refused}; {remedy}"
            raise ServerUnsuitable(refused) from error


def differing(wanted: Mapping[str, Any], actual: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of a configuration that are not as they are wanted."""
    return tuple(sorted(name for name, value in wanted.items() if not _as_wanted(value, actual.get(name))))


def _as_wanted(value: Any, actual: Any) -> bool:
    """The server leaves out what is empty or false, may list subjects in another order, and adds to metadata."""
    if isinstance(value, dict):
        if not isinstance(actual, dict) or (FAIRNESS in actual and FAIRNESS not in value):
            return False
        return all(_plain(actual.get(name)) == _plain(each) for name, each in value.items())
    return bool(_plain(actual) == _plain(value))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value or None
