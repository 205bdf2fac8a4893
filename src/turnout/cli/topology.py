"""`turnout setup`: the streams and buckets of a namespace."""

from __future__ import annotations

import asyncio
import logging

import attrs

from turnout.cli import logs, options, output, session
from turnout.jetstream.connection import ApiError, Connection
from turnout.jetstream.names import Names
from turnout.jetstream.topology import NOT_FOUND, Topology, TopologyOptions

_DAY_NS = 86_400 * 1_000_000_000


def setup(replicas: int | None, *, dry_run: bool) -> int:
    """Create what is missing and change what differs. Replicas that were chosen before stay, unless given."""
    logs.set_up(options.given().get("log_level"), logging.WARNING)
    return asyncio.run(_setup(replicas, dry_run=dry_run))


async def _setup(replicas: int | None, *, dry_run: bool) -> int:
    async with session.connected() as (connection, names):
        wanted = await existing_options(connection, names) or TopologyOptions()
        if replicas is not None:
            wanted = attrs.evolve(wanted, replicas=replicas)
        changes = await Topology(connection, names).setup(wanted, dry_run=dry_run)
    rows = [(change.name, change.action, ", ".join(change.fields)) for change in changes]
    session.show(changes, lambda: output.table(["stream", "action", "fields"], rows), as_json=session.as_json())
    if dry_run:
        output.note("nothing was done (--dry-run)")
    return 0


async def existing_options(connection: Connection, names: Names) -> TopologyOptions | None:
    """The options that the namespace was set up with; None when there is none."""
    try:
        work, faults, alarms = await asyncio.gather(
            *(connection.api(f"STREAM.INFO.{stream}") for stream in (names.work, names.faults, names.alarms))
        )
    except ApiError as error:
        if error.code != NOT_FOUND:
            raise
        return None
    return TopologyOptions(
        replicas=work["config"].get("num_replicas", 1),
        fault_days=faults["config"].get("max_age", 0) / _DAY_NS,
        alarm_days=alarms["config"].get("max_age", 0) / _DAY_NS,
    )
