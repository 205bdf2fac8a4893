"""One run of a verb: its connection, its namespace and its output."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import attrs
import click

from turnout.cli import contexts, logs, options, output, pasting
from turnout.cli.exits import NotThere
from turnout.client.client import Client
from turnout.nats.connection import Connection, ConnectOptions
from turnout.nats.stream import Stream
from turnout.store.names import Names
from turnout.store.topology import Topology


class NamespaceMissing(NotThere):
    """Nothing of turnout is on this server under this name."""


@attrs.frozen
class Session:
    """A connected client, and whether output is JSON."""

    client: Client
    json: bool

    @property
    def connection(self) -> Connection:
        return self.client.store.connection

    @property
    def now(self) -> float:
        """Unix seconds by the server's clock."""
        return self.connection.now()

    def show(self, value: Any, text: Callable[[], Iterable[str]]) -> None:
        """Print the value as JSON, or the lines for people."""
        show(value, text, as_json=self.json)


def show(value: Any, text: Callable[[], Iterable[str]], *, as_json: bool) -> None:
    """Print a value as JSON, or the lines for people."""
    if as_json:
        click.echo(output.dumps(value))
    else:
        for line in text():
            click.echo(line)


def as_json() -> bool:
    return options.given().get("output") == "json"


def resolved() -> tuple[ConnectOptions, Names]:
    """Where to connect and whose namespace, from options, environment and contexts."""
    given = options.given()
    return contexts.connect_options(given), Names(contexts.namespace(given))


@contextlib.asynccontextmanager
async def connected(name: str = "turnout-cli") -> AsyncIterator[tuple[Connection, Names]]:
    """A connection alone: nothing is looked at or created."""
    found, names = resolved()
    connection = await Connection.open(found, name=name)
    try:
        yield connection, names
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def opened(*, create: bool, name: str = "turnout-cli") -> AsyncIterator[Session]:
    """A client of the namespace. What is missing of it is created, or else NamespaceMissing is raised.

    A verb that only reads creates nothing: a mistyped namespace would otherwise leave streams behind.
    """
    async with connected(name) as (connection, names):
        if create:
            await Topology(connection, names).ensure()
        else:
            await _check_exists(connection, names)
        yield Session(Client(connection, names, resolved()[0]), as_json())


async def _check_exists(connection: Connection, names: Names) -> None:
    if await Stream(connection, names.work).config() is None:
        raise NamespaceMissing(
            f"there is no namespace {names.ns} on this server "
            f"(a worker, a submission or `{pasting.command('setup')}` creates it)"
        ) from None


def run(work: Callable[[Session], Awaitable[int | None]], *, create: bool = False) -> int:
    """Run a verb's work with a session; gives its exit code."""
    logs.set_up(options.given(), logging.WARNING)

    async def main() -> int:
        async with opened(create=create) as session:
            return await work(session) or 0

    return asyncio.run(main())


def run_listing(work: Callable[[Session], Awaitable[int | None]]) -> int:
    """`run` for a verb that lists: a namespace that does not exist is an empty list, with a word about it."""
    try:
        return run(work)
    except NamespaceMissing as error:
        show([], list, as_json=as_json())
        output.note(str(error))
        return 0
