"""What the verbs of jobs have in common with those of workflows."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import click

from turnout.cli.options import Duration, Instant, Label, WebAddress

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

JAEGER = click.option(
    "--jaeger",
    type=WebAddress(),
    metavar="URL",
    envvar="TURNOUT_JAEGER_URL",
    help="Where Jaeger's pages are, for a link to the trace there; else $TURNOUT_JAEGER_URL.",
)
YES = click.option("--yes", is_flag=True, help="Don't ask whether so many are meant.")


def begins(what: str) -> Decorator:
    """Gives a verb the options of all that begins a job or a workflow: `options` of it, and the `patience` to wait."""
    given = (
        click.option("--id", "id_", metavar="ID", help=f"The {what}'s id; by default one is made up."),
        click.option(
            "--if-exists", type=click.Choice(["raise", "join", "replace"]), help="What to do when the id is taken."
        ),
        click.option("--delay", type=Duration(), help="Not before so long: 90, 2m, 1h30m."),
        click.option("--at", type=Instant(), metavar="INSTANT", help="Not before this instant: 2026-01-31T12:00:00Z."),
        click.option(
            "--label", "labels", type=Label(), multiple=True, metavar="KEY=VALUE", help="A label; may be repeated."
        ),
        click.option("--wait", is_flag=True, help="Wait for the end, and print the result."),
        click.option("--follow", is_flag=True, help="Show how it goes on until the end, and print the result."),
        click.option("--timeout", type=Duration(), help=f"How long to wait; the {what} goes on after that."),
    )

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def begun(
            *,
            id_: str | None,
            if_exists: str | None,
            delay: float | None,
            at: dt.datetime | None,
            labels: tuple[tuple[str, str], ...],
            wait: bool,
            follow: bool,
            timeout: float | None,
            **others: Any,
        ) -> Any:
            from turnout.cli.waiting import Patience

            options = {"id": id_, "if_exists": if_exists, "delay": delay, "at": at, "labels": dict(labels) or None}
            return command(options=without_none(options), patience=Patience(wait, follow, timeout), **others)

        return _with(given, begun)

    return decorate


def filtered(options: Mapping[str, Decorator]) -> Decorator:
    """Gives a verb these filters, which are named as given here: one dictionary, None for what is not asked."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def chosen(**given: Any) -> Any:
            filters = {name: given.pop(name) for name in options}
            return command(filters=filters | {"state": filters["state"] or None}, **given)

        return _with(options.values(), chosen)

    return decorate


def of_state(states: Collection[str]) -> Decorator:
    """The filter of states."""
    return click.option("--state", type=click.Choice([*states]), multiple=True, help="In this state; may be repeated.")


def either(ids: tuple[str, ...], filters: Mapping[str, Any], nothing: str, *, beside: Collection[str] = ()) -> bool:
    """Whether ids are given, which go with no filters but those `beside`; a usage error for both, and for `nothing`."""
    given = {name for name, value in filters.items() if value is not None}
    if ids and given - {*beside}:
        raise click.UsageError("either ids or filters: not both")
    if not ids and not given:
        raise click.UsageError(nothing)
    return bool(ids)


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given."""
    return {name: value for name, value in options.items() if value is not None}


def _with(options: Collection[Decorator], command: Command) -> Command:
    for option in reversed([*options]):
        command = option(command)
    return command
