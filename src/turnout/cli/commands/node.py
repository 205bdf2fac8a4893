"""`turnout node`: the worker processes that live."""

from __future__ import annotations

import click

from turnout.cli.options import Duration, Verbs


@click.group(cls=Verbs)
def node() -> None:
    """The worker processes that live."""


@node.command("ls")
def ls() -> int:
    """List the living nodes and what they do."""
    from turnout.cli import nodes, session

    return session.run_listing(nodes.ls)


@node.command()
@click.argument("name", metavar="NODE")
def show(name: str) -> int:
    """Show a node, by its id or its name, and the jobs that it runs."""
    from turnout.cli import nodes, session

    return session.run(lambda s: nodes.show(s, name))


@node.command()
@click.argument("name", metavar="NODE")
@click.option("--wait", is_flag=True, help="Wait until the node has left.")
@click.option("--timeout", type=Duration(), help="How long to wait; the node drains on after that.")
def drain(name: str, wait: bool, timeout: float | None) -> int:
    """Have a node stop in order, by its id or its name.

    It takes no more jobs, lets those that run end for its grace period, aborts the rest, and exits 0.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is how long to wait: it goes with --wait")
    from turnout.cli import nodes

    return nodes.drain(name, wait=wait, timeout_s=timeout)
