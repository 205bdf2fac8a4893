"""What `turnout doctor` says of limits: which are set, and hold nothing up."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator

from turnout.cli import output, pasting
from turnout.cli.checks import Check
from turnout.definition.limits import undeclared
from turnout.store.perform import Store


async def limit_checks(store: Store) -> AsyncIterator[Check]:
    """Errors are those of the connection."""
    for name in sorted(undeclared(await store.limits.all(), store.connection.now())):
        found = f"the limit {output.one_line(name)} is set, and no worker has declared it"
        clear = pasting.command(f"limit clear {shlex.quote(name)}")
        yield Check("limits", "note", found, f"start a worker whose code names it, or end it: {clear}")
