"""`turnout worker` and `turnout dev`."""

from __future__ import annotations

import click

from turnout.cli.options import Address, Duration, Verb

_CONCURRENCY = click.IntRange(1, 100_000)


@click.command(cls=Verb)
@click.argument("module", metavar="MODULE[:ATTR]")
@click.option("-c", "--concurrency", type=_CONCURRENCY, default=10, show_default=True, help="Jobs at a time.")
@click.option("--grace", type=Duration(), default=30.0, show_default=True, help="How long jobs may go on at a stop.")
@click.option("--name", help="The node's name; by default the host's.")
@click.option(
    "--health-port",
    type=Address(),
    metavar="[HOST:]PORT",
    help="Serve /livez, /readyz, /status and /metrics there; without a host on every address. 0 takes a free port.",
)
def worker(module: str, concurrency: int, grace: float, name: str | None, health_port: tuple[str, int] | None) -> int:
    """Run the jobs of a module's activities.

    These are all activities that are attributes of MODULE, or the one (or the list) named ATTR. The current directory
    is importable.

    SIGTERM or Ctrl-C: take no more jobs, let those that run end for the grace period, then abort the rest; another node
    goes on with them at once. A second signal, or SIGQUIT: abort now. SIGUSR1: log what runs, with its stacks.

    \b
      turnout worker workers.media -c 4
    """
    from turnout.cli import serve

    plan = serve.Plan(module=module, concurrency=concurrency, grace_s=grace, name=name, health=health_port)
    return serve.worker(plan)


@click.command(cls=Verb)
@click.argument("module", metavar="[MODULE[:ATTR]]", required=False)
@click.option("-c", "--concurrency", type=_CONCURRENCY, default=10, show_default=True, help="Jobs at a time.")
@click.option("--grace", type=Duration(), default=5.0, show_default=True, help="How long jobs may go on at a stop.")
@click.option("--name", help="The node's name; by default the host's.")
def dev(module: str | None, concurrency: int, grace: float, name: str | None) -> int:
    """Start a NATS server here, and a worker.

    The worker is for the activities in MODULE; without one there is only the server. Jobs are kept in .turnout/ and are
    there again next time. The server listens on port 4222, or another if that is taken. Ctrl-C stops the worker, then
    the server.

    \b
      turnout dev workers.audit
    """
    from turnout.cli import embedded, serve

    plan = None
    if module is not None:
        plan = serve.Plan(module=module, concurrency=concurrency, grace_s=grace, name=name)
    return embedded.dev(plan)
