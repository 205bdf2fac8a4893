"""`turnout setup` and `turnout doctor`: what turnout needs of the server."""

from __future__ import annotations

import click

from turnout.cli.options import Size, Verb


@click.command(cls=Verb)
@click.option("--replicas", type=click.IntRange(1, 5), help="Copies of each stream; by default as it is, or 1.")
@click.option("--max-bytes", type=Size(), help="What all streams may have together, where the account demands it.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def setup(replicas: int | None, max_bytes: int | None, dry_run: bool) -> int:
    """Create or update the streams and buckets.

    Workers and clients create what is missing, too; they leave alone what is there.

    --max-bytes is for accounts with `max_bytes_required`, and counts for each copy. It is shared out among the streams,
    and reserved. Without it no stream is bounded, only the account.
    """
    from turnout.cli import topology

    return topology.setup(replicas, max_bytes, dry_run=dry_run)


@click.command(cls=Verb)
def doctor() -> int:
    """Find what is wrong, and say what to do.

    Looks at the server, the streams and consumers, the nodes and the jobs that wait. The exit code is 1 if something is
    wrong; a remark alone is not.
    """
    from turnout.cli import doctor as doctor_

    return doctor_.doctor()
