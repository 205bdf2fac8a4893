"""`turnout setup`: the streams and buckets of a namespace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import attrs

from turnout.cli import logs, options, output, session
from turnout.nats.connection import Connection
from turnout.nats.stream import Stream
from turnout.store.names import Names
from turnout.store.sizes import shared_out, total_of
from turnout.store.topology import Topology, TopologyOptions

_DAY_NS = 86_400 * 1_000_000_000


def setup(replicas: int | None, max_bytes: int | None, *, dry_run: bool) -> int:
    """Create what is missing and change what differs. What was chosen before stays, unless given."""
    logs.set_up(options.given(), logging.WARNING)
    if max_bytes is not None:
        shared_out(Names("turnout"), max_bytes)  # one that is too small is said before anything is connected
    given = {"replicas": replicas, "max_bytes": max_bytes}
    return asyncio.run(_setup({name: value for name, value in given.items() if value is not None}, dry_run=dry_run))


async def _setup(given: Mapping[str, Any], *, dry_run: bool) -> int:
    async with session.connected() as (connection, names):
        wanted = attrs.evolve(await existing_options(connection, names) or TopologyOptions(), **given)
        changes = await Topology(connection, names).setup(wanted, dry_run=dry_run)
    rows = [(change.name, change.action, ", ".join(change.fields)) for change in changes]
    session.show(changes, lambda: output.table(["stream", "action", "fields"], rows), as_json=session.as_json())
    if dry_run:
        output.note("nothing was done (--dry-run)")
    return 0


async def existing_options(connection: Connection, names: Names) -> TopologyOptions | None:
    """The options that the namespace was set up with, usual ones for what is missing; None when all of it is."""
    streams = (names.work, names.faults, names.alarms, names.logs)
    configs = await asyncio.gather(*(Stream(connection, stream).config() for stream in streams))
    work, faults, alarms, lines = (config or {} for config in configs)
    if not (work or faults or alarms):
        return None
    usual = TopologyOptions()
    bounds = {each["name"]: each.get("max_bytes", -1) for each in (work, faults, alarms) if each}
    max_bytes = total_of(names, bounds)
    log_bytes = lines.get("max_bytes", -1) if lines else usual.log_bytes
    if max_bytes is not None and log_bytes == shared_out(names, max_bytes)[names.logs]:
        log_bytes = usual.log_bytes  # it is its share, and no bound of its own
    return TopologyOptions(
        replicas=(work or faults or alarms).get("num_replicas", 1),
        fault_days=faults.get("max_age", 0) / _DAY_NS if faults else usual.fault_days,
        alarm_days=alarms.get("max_age", 0) / _DAY_NS if alarms else usual.alarm_days,
        log_days=lines.get("max_age", 0) / _DAY_NS if lines else usual.log_days,
        log_bytes=log_bytes,
        max_bytes=max_bytes,
    )
