"""`turnout worker` and `turnout dev`."""

from __future__ import annotations

import click

from turnout.cli.options import Address, Duration, Properties, Verb

_CONCURRENCY = click.IntRange(1, 100_000)
_property = click.option("--property", "properties", cls=Properties, multiple=True, metavar="NAME=VALUE",
                         help="What jobs may require of their node, such as region=east; may be repeated.")  # fmt: skip


@click.command(cls=Verb)
@click.argument("module", metavar="MODULE[:ATTR]")
@click.option("-c", "--concurrency", type=_CONCURRENCY, default=10, show_default=True, help="Jobs at a time.")
@click.option("--grace", type=Duration(), default=30.0, show_default=True, help="How long jobs may go on at a stop.")
@click.option("--name", help="The node's name; by default the host's.")
@click.option("--wait", type=Duration(), help="How long to wait for NATS at the start; by default for ever.")
@_property
@click.option("--build", metavar="BUILD", help="The name of the workflows' code; by default a hash of it.")
@click.option("--pin", is_flag=True, help="Runs of workflows stay with workers of the build that begins them.")
@click.option(
    "--verify",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SHARE",
    help="Replay this share of the workflow tasks, such as 0.01, and log what is not deterministic.",
)
@click.option(
    "--health-port",
    type=Address(),
    metavar="[HOST:]PORT",
    help="Serve /livez, /readyz, /status, /metrics there, for this machine alone; 0.0.0.0:PORT for all, 0 any port.",
)
def worker(
    module: str,
    concurrency: int,
    grace: float,
    name: str | None,
    properties: dict[str, str] | None,
    build: str | None,
    pin: bool,
    verify: float,
    health_port: tuple[str, int] | None,
    wait: float | None,
) -> int:
    """Run the jobs of a module's activities, and its workflows.

    These are all activities and workflows that are attributes of MODULE, or the one (or the list) named ATTR. The
    current directory is importable.

    A function of MODULE's own package that it calls on_startup runs before the first job is taken, on_shutdown after
    the last has ended, and lifespan gives an async context manager around both: for pools and clients.

    SIGTERM, SIGHUP or Ctrl-C: take no more jobs, let those that run end for the grace period, then abort the rest;
    another node goes on with them at once. A second signal, or SIGQUIT: abort now. SIGUSR1: log what runs, with its
    stacks.

    \b
      turnout worker workers.media -c 4
    """
    from turnout.cli import serve

    plan = serve.Plan(
        module=module,
        concurrency=concurrency,
        grace_s=grace,
        name=name,
        health=health_port,
        build=build,
        pin=pin,
        verify=verify,
        wait_s=wait,
        properties=properties,
    )
    return serve.worker(plan)


@click.command(cls=Verb)
@click.argument("module", metavar="[MODULE[:ATTR]]", required=False)
@click.option("-c", "--concurrency", type=_CONCURRENCY, default=10, show_default=True, help="Jobs at a time.")
@click.option("--grace", type=Duration(), default=5.0, show_default=True, help="How long jobs may go on at a stop.")
@click.option("--name", help="The node's name; by default the host's.")
@_property
def dev(module: str | None, concurrency: int, grace: float, name: str | None, properties: dict[str, str] | None) -> int:
    """Start a NATS server here, and a worker.

    The worker is for the activities and workflows in MODULE; without one there is only the server. Jobs are kept in
    .turnout/ and are there again next time. The server listens on port 4222, or another if that is taken. Ctrl-C stops
    the worker, then the server.

    \b
      turnout dev workers.audit
    """
    from turnout.cli import embedded, serve

    plan = None
    if module is not None:
        plan = serve.Plan(module=module, concurrency=concurrency, grace_s=grace, name=name, properties=properties)
    return embedded.dev(plan)
