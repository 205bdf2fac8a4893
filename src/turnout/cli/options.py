"""Options that every verb takes, in front of it or behind it, and the kinds of values that options have.

The common options are not handed to the verbs: they are kept with click's context, the innermost one winning, and read
from there by `given()` when a connection is made.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import click

_KEY = "turnout.cli.options.given"
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_UNITS_BYTES = {"": 1, "B": 1}
_UNITS_BYTES |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)}
_UNITS_BYTES |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", start=1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?i?B|)", re.ASCII | re.IGNORECASE)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None and option.name is not None:
        context.meta.setdefault(_KEY, {})[option.name] = value


def given() -> dict[str, str]:
    """The common options of the command that runs."""
    return dict(click.get_current_context().meta.get(_KEY, {}))


def put(name: str, value: str) -> None:
    """Set a common option for the rest of this run."""
    click.get_current_context().meta.setdefault(_KEY, {})[name] = value


def _common(*, hidden: bool, lines: bool = False) -> list[click.Parameter]:
    """The common options; `hidden` leaves the rarer ones out of the help, `lines` allows JSON lines."""

    def option(*names: str, rare: bool = False, **attributes: Any) -> click.Option:
        return click.Option(names, callback=_keep, expose_value=False, hidden=rare and hidden, **attributes)

    levels = click.Choice(["debug", "info", "warning", "error"], case_sensitive=False)
    formats = click.Choice(["console", "json"], case_sensitive=False)
    outputs = click.Choice(["table", "json", *(["jsonl"] if lines else [])])
    return [
        option("-o", "--output", type=outputs, help="For people, or one JSON document."),
        option("-s", "--server", metavar="URL", help="NATS server(s), comma separated; else $NATS_URL."),
        option("-n", "--namespace", metavar="NAME", help="Whose jobs; else $TURNOUT_NAMESPACE, else turnout."),
        option("--context", metavar="NAME", help="A context of the nats CLI; `selected` is the one it has selected."),
        option("--creds", metavar="FILE", help="A credentials file."),
        option("--user", metavar="NAME", rare=True, help="A user's name (the password: $NATS_PASSWORD)."),
        option("--password", rare=True, help="The user's password."),
        option("--token", rare=True, help="A token to log in with."),
        option("--nkey", metavar="FILE", rare=True, help="A file with an nkey seed."),
        option("--tlsca", metavar="FILE", rare=True, help="Whom to trust: certificates of authorities."),
        option("--tlscert", metavar="FILE", rare=True, help="A client certificate."),
        option("--tlskey", metavar="FILE", rare=True, help="The client certificate's key."),
        option("--tlsfirst", is_flag=True, flag_value="True", default=None, rare=True, help="Begin with TLS."),
        option("--inbox-prefix", metavar="PREFIX", rare=True, help="Below which subjects answers come; else _INBOX."),
        option("--log-level", type=levels, rare=True, help="What to log on stderr; info: each job, too."),
        option("--log-format", type=formats, rare=True, help="How: for people, or a JSON object a line."),
    ]


class Verb(click.Command):
    """A command that takes the common options."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params += _common(hidden=True)


class LinesVerb(click.Command):
    """A command that takes the common options, and prints JSON lines as well."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params += _common(hidden=True, lines=True)


class Verbs(click.Group):
    """A group of such commands, which takes them in front, too."""

    command_class = Verb

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params += _common(hidden=self.name != "turnout")


class Duration(click.ParamType[float]):
    """Seconds as a number, or with units: 90, 1.5, 500ms, 2m, 1h30m, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip()
        if re.fullmatch(r"\d+(\.\d+)?|\.\d+", text, re.ASCII):
            return float(text)
        if re.fullmatch(f"(?:{_PART.pattern})+", text, re.ASCII):
            return float(sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text)))
        return self.fail(f"{value!r} is no duration such as 90, 1.5, 500ms, 2m, 1h30m or 7d", param, ctx)


class Size(click.ParamType[int]):
    """Bytes as a number, or with units: 500MB, 10GB, 1.5TiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no size such as 500MB, 10GB or 1GiB", param, ctx)
        return int(float(found[1]) * _UNITS_BYTES[found[2].upper()])


class Instant(click.ParamType[dt.datetime]):
    """An instant with its offset from UTC, such as 2026-01-31T12:00:00Z."""

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.datetime:
        if isinstance(value, dt.datetime):
            return value
        try:
            instant = dt.datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no instant such as 2026-01-31T12:00:00Z", param, ctx)
        if instant.utcoffset() is None:
            self.fail(f"{value!r} does not say of which place: add Z for UTC, or an offset such as +02:00", param, ctx)
        return instant


class Since(click.ParamType["dt.datetime | float"]):
    """An instant, or how long ago."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.datetime | float:
        if isinstance(value, dt.datetime | float):
            return value
        if re.match(r"\d{4}-", str(value)):
            return Instant().convert(value, param, ctx)
        return Duration().convert(value, param, ctx)


class Address(click.ParamType[tuple[str, int]]):
    """PORT or HOST:PORT; an IPv6 address in brackets. Without a host it is this machine alone."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not port.isdecimal() or int(port) > 65_535 or (host.count(":") and not re.fullmatch(r"\[.+\]", host)):
            self.fail(f"{value!r} is no port such as 8080, and no address such as 127.0.0.1:8080", param, ctx)
        return host.strip("[]") or "127.0.0.1", int(port)


class WebAddress(click.ParamType[str]):
    """An http or https address."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"https?://[^\s/]\S*", str(value)):
            self.fail(f"{value!r} is no address such as http://localhost:16686", param, ctx)
        return str(value)


class Properties(click.Option):
    """An option that names properties, one each time; its value is all of them, None without any."""

    def process_value(self, ctx: click.Context, value: Any) -> dict[str, str] | None:
        given = super().process_value(ctx, value)
        if not given:
            return None
        from turnout.core.routing import parse_properties
        from turnout.errors import InvalidValue

        try:
            return parse_properties(given, self.opts[0])
        except InvalidValue as error:
            raise click.BadParameter(str(error), ctx, self) from None


class Label(click.ParamType[tuple[str, str]]):
    """key=value"""

    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is no label such as customer=42", param, ctx)
        return key, text
