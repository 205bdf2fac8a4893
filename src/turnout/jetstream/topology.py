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

from turnout.errors import PermissionDenied, ServerUnsuitable
from turnout.jetstream.connection import ApiError, Connection, RequestTimeout
from turnout.jetstream.names import Names, kv_stream

logger = logging.getLogger("turnout.topology")

_NS = 1_000_000_000
_DAY = 86_400 * _NS
NOT_FOUND = 404
_CONSUMER_EXISTS = (10013, 10105, 10148)

DELIVERIES_BESIDE_BUDGETS = 20
"""Deliveries beyond failures and losses: dropped status checks, aborts and messages given back count as well (P7)."""


@attrs.frozen(kw_only=True)
class TopologyOptions:
    """How durable, and how much: replicas (1 to 5), days that dead letters, alarms and lines of logs are kept.

    `log_bytes` bounds all lines of logs together, the oldest go first; -1: only the account does.
    """

    replicas: int = 1
    fault_days: float = 30.0
    alarm_days: float = 7.0
    log_days: float = 30.0
    log_bytes: int = -1


LOG_BATCHES = 64
"""How many batches of lines are kept of a job; a job writes one a second at most."""


def stream_configs(names: Names, options: TopologyOptions) -> list[dict[str, Any]]:
    """The streams in the order of their creation: the alarms first, so that no advisory goes unheard."""
    common = {"storage": "file", "num_replicas": options.replicas}
    advisory = "$JS.EVENT.ADVISORY.CONSUMER"
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
        {
            **common,
            "name": names.alarms,
            "description": "turnout: messages whose deliveries ran out",
            "subjects": [f"{advisory}.MAX_DELIVERIES.{names.work}.>", f"{advisory}.MSG_TERMINATED.{names.work}.>"],
            "retention": "limits",
            "max_age": int(options.alarm_days * _DAY),
            "allow_direct": True,
        },
        {
            **common,
            "name": names.faults,
            "description": "turnout: dead letters",
            "subjects": [f"{names.ns}.faults.>"],
            "retention": "limits",
            "max_age": int(options.fault_days * _DAY),
            "allow_direct": True,
        },
        _logs(names, options, common),
        {**bucket, **_jobs(names)},
        *(
            {**bucket, "name": kv_stream(name), "subjects": [f"$KV.{name}.>"]}
            for name in (names.nodes_bucket, names.activities_bucket)
        ),
        {
            **common,
            "name": f"OBJ_{names.payloads_bucket}",
            "subjects": [f"$O.{names.payloads_bucket}.C.>", f"$O.{names.payloads_bucket}.M.>"],
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "discard": "new",
        },
        {
            **common,
            "name": names.work,
            "description": "turnout: a message is a job",
            "subjects": [f"{names.ns}.jobs.*", f"{names.ns}.jobs.*.*", f"{names.ns}.timers.>"],
            # Schedules rule out `discard: new`, so there is no limit here that could discard a job: bound the account.
            "retention": "workqueue",
            "allow_direct": True,
            "allow_atomic": True,
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
        "subjects": [f"$KV.{bucket}.>"],
        # Whoever waits for a job hears of its record when it is stored, and need not ask whether it is.
        "republish": {"src": f"$KV.{bucket}.*.*", "dest": names.stored("{{wildcard(1)}}", "{{wildcard(2)}}")},
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
    """What an activity's options make of its consumer."""

    lease: float
    max_attempts: int
    max_lost: int
    global_concurrency: int | None = None


def consumer_config(names: Names, activity: str, options: ConsumerOptions) -> dict[str, Any]:
    """The one durable consumer of an activity; its ack wait is the lease."""
    return {
        "durable_name": activity,
        "name": activity,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "filter_subjects": [names.bare(activity), names.jobs(activity, "*")],
        "ack_wait": int(options.lease * _NS),
        "max_deliver": options.max_attempts + options.max_lost + DELIVERIES_BESIDE_BUDGETS,
        "max_ack_pending": options.global_concurrency or -1,
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

    async def setup(self, options: TopologyOptions, *, update: bool = True, dry_run: bool = False) -> list[Change]:
        """Create what is missing and, with `update`, change what differs; tells what was (or would be) done."""
        return await self._bring_about(stream_configs(self._names, options), update=update, dry_run=dry_run)

    async def _bring_about(self, wanted: list[dict[str, Any]], *, update: bool, dry_run: bool = False) -> list[Change]:
        infos = await asyncio.gather(*(self._info(config["name"]) for config in wanted))
        changes = []
        for config, info in zip(wanted, infos, strict=True):
            fields = _differing(config, info["config"]) if info is not None else ()
            action = "create" if info is None else "update" if fields else "keep"
            changes.append(Change(config["name"], action, fields))
            if not dry_run and (action == "create" or (action == "update" and update)):
                await self._write(action.upper(), config)
        return changes

    async def ensure_consumer(self, activity: str, options: ConsumerOptions, *, update: bool = True) -> dict[str, Any]:
        """The activity's consumer as the server has it, created when missing, and with `update` changed to `options`.

        A worker updates it as it starts and never again: where two versions of an activity are at work, the worker that
        starts last decides, and the others take over what it decided instead of changing it back.
        """
        config = consumer_config(self._names, activity, options)
        found = await self._consumer(activity)
        if found is None:
            try:
                return await self._make_consumer(activity, config, "create")
            except ApiError as error:
                if error.err_code not in _CONSUMER_EXISTS:
                    raise
            found = await self._consumer(activity)  # another worker was quicker
        if found is not None and (not update or not _differing(config, found)):
            return found
        return await self._make_consumer(activity, config, "")

    async def _consumer(self, activity: str) -> dict[str, Any] | None:
        try:
            info = await self._connection.api(f"CONSUMER.INFO.{self._names.work}.{activity}")
        except ApiError as error:
            if error.code == NOT_FOUND:
                return None
            raise
        return dict(info["config"])

    async def _make_consumer(self, activity: str, config: Mapping[str, Any], action: str) -> dict[str, Any]:
        """`action`: "create" fails if there is one of this name that differs, "" makes it so."""
        body = {"stream_name": self._names.work, "config": config, "action": action}
        made = await self._connection.api(f"CONSUMER.CREATE.{self._names.work}.{activity}", body)
        return dict(made["config"])

    async def delete(self) -> None:
        """Delete every stream and bucket of the namespace, with all that is in them. For tests."""
        for config in stream_configs(self._names, TopologyOptions()):
            try:
                await self._connection.api(f"STREAM.DELETE.{config['name']}")
            except ApiError as error:
                if error.code != NOT_FOUND:
                    raise

    async def _info(self, stream: str) -> dict[str, Any] | None:
        try:
            return await self._connection.api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            if error.code == NOT_FOUND:
                return None
            raise
        except RequestTimeout as error:
            raise PermissionDenied(
                f"no answer about stream {stream}: the credentials probably lack permission for $JS.API.> and _INBOX.>"
            ) from error

    async def _write(self, verb: str, config: Mapping[str, Any]) -> None:
        try:
            await self._connection.api(f"STREAM.{verb}.{config['name']}", config)
        except ApiError as error:
            raise ServerUnsuitable(
                f"JetStream refused to {verb.lower()} stream {config['name']}: {error.description}"
            ) from error


def _differing(wanted: Mapping[str, Any], actual: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(k for k, v in wanted.items() if _plain(actual.get(k)) != _plain(v)))


def _plain(value: Any) -> Any:
    """The server leaves out what is empty or false, and may list subjects in another order."""
    return sorted(value) if isinstance(value, list) else value or None
