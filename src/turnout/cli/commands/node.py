"""`turnout node`: the worker processes that live."""

from __future__ import annotations

import click

from turnout.cli.options import Verbs


@click.group(cls=Verbs)
def node() -> None:
    """The worker processes that live."""


@node.command("ls")
def ls() -> int:
    """List the living nodes and what they do."""
    from turnout.cli import catalog, session

    return session.run_listing(catalog.nodes)
