"""`turnout limit`: how many jobs may run at once, or start in a time, over all nodes."""

from __future__ import annotations

import click

from turnout.cli.options import Duration, Verbs


@click.group(cls=Verbs)
def limit() -> None:
    """How many jobs may run at once, or start in a time, over all nodes."""


@limit.command("ls")
def ls() -> int:
    """List the limits, and who uses them."""
    from turnout.cli import limits, session

    return session.run_listing(limits.ls)


@limit.command()
@click.argument("name")
def show(name: str) -> int:
    """Show a limit, or one key of it, with the jobs that hold its places."""
    from turnout.cli import limits, session

    return session.run(lambda s: limits.show(s, name))


@limit.command("set")
@click.argument("name")
@click.option("--concurrency", type=int, metavar="N", help="So many at once; 0 holds all of them up.")
@click.option("--rate", type=float, metavar="R", help="So many may start in the time of --per; 0 holds all of them up.")
@click.option("--per", type=Duration(), metavar="S", help="The time that --rate is for.  [default: 1]")
@click.option("--burst", type=int, metavar="B", help="So many of these at once.  [default: as many as --rate]")
@click.option("--for", "duration", type=Duration(), help="For how long; otherwise until it is cleared.")
def set_(name: str, duration: float | None, **rule: float | None) -> int:
    """Set a limit over what the code says.

    NAME is the limit's as it was declared, or one key of it, such as tenant:42. Of concurrency and rate, what is not
    given stays as it is declared. What runs goes on; who waits is let in at once where there is room.
    """
    from turnout.cli import limits, session

    return session.run(lambda s: limits.set_limit(s, name, rule, duration))


@limit.command()
@click.argument("name")
def clear(name: str) -> int:
    """End what was set: what the code says counts again."""
    from turnout.cli import limits, session

    return session.run(lambda s: limits.clear(s, name))
