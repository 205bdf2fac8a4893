"""`turnout supervisor`."""

from __future__ import annotations

import click

from turnout.cli.options import Address, Duration, Verb


@click.command(cls=Verb)
@click.option("--name", default="supervisor", show_default=True, help="What its key in the registry says.")
@click.option(
    "--registry-every", type=Duration(), default=30.0, show_default=True, help="How often to look at all records."
)
@click.option(
    "--health-port",
    type=Address(),
    metavar="[HOST:]PORT",
    help="Serve /livez, /readyz, /status and /metrics there, like a worker.",
)
def supervisor(name: str, registry_every: float, health_port: tuple[str, int] | None) -> int:
    """Look after jobs without running any.

    Finds dead nodes, messages whose deliveries ran out, and deadlines that have passed. Every worker carries a
    supervisor; one acts at a time. Run one alone where jobs shall be looked after while no worker runs. SIGTERM or
    Ctrl-C hands over at once.
    """
    from turnout.cli import alone

    return alone.supervisor(name, registry_every, health_port)
