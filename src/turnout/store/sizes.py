"""How large each stream may become, in an account that demands it: one number for all, shared out among them.

The shares are reserved on the server, used or not. Whoever reads the number back finds it in the streams themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from turnout.errors import InvalidValue
from turnout.nats.stream import kv_stream
from turnout.store.names import Names

LEAST_BYTES = 100_000_000
"""With less, heartbeats of nodes and contracts of activities would have no room."""

_PARTS = 1000


def _shares(names: Names) -> dict[str, int]:
    """Thousandths by stream."""
    return {
        names.alarms: 5,
        names.faults: 50,
        names.logs: 40,
        names.completions: 10,
        kv_stream(names.jobs_bucket): 150,
        kv_stream(names.nodes_bucket): 5,
        kv_stream(names.activities_bucket): 20,
        names.limits: 10,
        f"OBJ_{names.payloads_bucket}": 250,
        names.work: 250,
        names.history: 130,
        names.inbox: 80,
    }


def shared_out(names: Names, total: int) -> dict[str, int]:
    """The `max_bytes` of each stream. InvalidValue for a total that is too small to be shared."""
    if total < LEAST_BYTES:
        raise InvalidValue(f"max_bytes must be at least {LEAST_BYTES:,}, for all streams together, not {total:,}")
    return {stream: total // _PARTS * share for stream, share in _shares(names).items()}


def total_of(names: Names, sizes: Mapping[str, int]) -> int | None:
    """What was shared out so that these streams have these sizes; None when it was not, or somebody changed one."""
    shares = _shares(names)
    totals = {sizes[stream] // shares[stream] * _PARTS for stream in sizes}
    exact = all(sizes[stream] > 0 and sizes[stream] % shares[stream] == 0 for stream in sizes)
    return totals.pop() if exact and len(totals) == 1 else None
