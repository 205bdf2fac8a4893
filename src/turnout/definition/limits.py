"""`Limit`: how many jobs may run at once or start in a time, over all nodes; and the keys of its name for a payload."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

import attrs

from turnout.core.limits import LimitKey, LimitRecord, Rule
from turnout.core.retry import seconds
from turnout.definition.templates import checked_braces, fields_of, filled, may_be
from turnout.errors import InvalidValue

MAX_NAME = 200
MAX_LIMITS = 16
MAX_COUNT = 1_000_000
_SHORTEST_S = 0.001


def checked_name(value: object) -> str:
    """The name of a limit, or a key of one; InvalidValue says what is wrong."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise InvalidValue(f"a limit's name must be 1 to {MAX_NAME} printable characters, not {value!r}")
    return value


def _template(value: object) -> str:
    return checked_braces(checked_name(value), "a limit's name")


def checked_rule(
    name: str, concurrency: object, rate: Any, per: Any, burst: object, *, least: Literal[0, 1]
) -> Rule | None:
    """What a limit allows; None if none of it is given. `least`: 0 where 0 may hold everything up. InvalidValue."""
    concurrency, burst = _checked_count("concurrency", concurrency, least), _checked_count("burst", burst, least)
    per_s = seconds(per, "per", least=_SHORTEST_S)
    if rate is None:
        if burst is not None or per_s != 1:
            raise InvalidValue(f"limit {name!r}: burst and per need a rate with them, as in rate=10, per=1.0, burst=20")
        return None if concurrency is None else Rule(concurrency)
    valid = not isinstance(rate, bool) and isinstance(rate, int | float) and 0 <= rate <= MAX_COUNT
    if not valid or (rate == 0 and least):
        allowed = "above 0" if least else "of at least 0"
        raise InvalidValue(f"rate must be a number {allowed} and at most {MAX_COUNT}, not {rate!r}")
    return Rule(concurrency, float(rate), per_s, Rule(rate=rate).tokens if burst is None else burst)


def _checked_count(what: str, value: object, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_COUNT:
        raise InvalidValue(f"{what} must be an integer between {least} and {MAX_COUNT}, not {value!r}")
    return value


def _declared(limit: Limit) -> Rule:
    rule = checked_rule(limit.name, limit.concurrency, limit.rate, limit.per, limit.burst, least=1)
    if rule is None:
        raise InvalidValue(f"limit {limit.name!r} needs a concurrency of at least 1, or a rate above 0")
    return rule


@attrs.frozen
class Limit:
    """How many jobs may run at once, and how many may start in a time, over all nodes and all activities that name this
    limit: one of the two, or both.

    `name`: what is in braces names a field of the payload (`{customer.id}` too), and each of its values has a limit of
    its own. `concurrency`: so many attempts at once. `rate`: so many may start in `per` seconds; `burst`: so many of
    them at once, after a time in which fewer came (default: as many as `rate`).

    >>> Limit("tenant:{tenant}", concurrency=1).fields
    ('tenant',)
    >>> Limit("mail", rate=10, burst=20).rule
    Rule(concurrency=None, rate=10.0, per=1.0, burst=20)
    """

    name: str = attrs.field(converter=_template)
    concurrency: int | None = attrs.field(default=None, kw_only=True)
    rate: float | None = attrs.field(default=None, kw_only=True)
    per: float | timedelta = attrs.field(default=1.0, kw_only=True)
    burst: int | None = attrs.field(default=None, kw_only=True)
    rule: Rule = attrs.field(init=False, repr=False, eq=False, default=attrs.Factory(_declared, takes_self=True))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that its name names, each as a path."""
        return fields_of(self.name)

    def key(self, values: Mapping[str, Any]) -> LimitKey:
        """The limit as it applies to a payload of these values."""
        return LimitKey(filled(self.name, values), self.name, self.rule)


def limits_of(value: object) -> tuple[Limit, ...]:
    """The `limits` of an activity: each name once."""
    if value is None:
        return ()
    if isinstance(value, str | Limit) or not isinstance(value, Sequence):
        raise InvalidValue(f"limits must be a list of Limit(...), not {value!r}")
    for each in value:
        if not isinstance(each, Limit):
            raise InvalidValue(f"limits must be a list of Limit(...), and {each!r} is none")
    names = [each.name for each in value]
    if len(set(names)) < len(names):
        raise InvalidValue(f"limits: each name once, not {names}")
    if len(value) > MAX_LIMITS:
        raise InvalidValue(f"limits: at most {MAX_LIMITS} of them, not {len(value)}")
    return tuple(sorted(value, key=lambda limit: limit.name))


def keys_of(limits: Sequence[Limit], values: Mapping[str, Any]) -> tuple[LimitKey, ...]:
    """The keys of all these limits for one payload, in the one order in which their places are taken everywhere."""
    return tuple(sorted({each.key(values) for each in limits}, key=lambda key: (key.name, key.key)))


def undeclared(records: Collection[LimitRecord], now: float) -> set[str]:
    """Those that were set, or slowed down just now, and are neither a limit of an activity, as far as workers have
    said, nor a key of one."""
    known = [record.name for record in records if record.declared is not None]
    others = {each.name for each in records if each.declared is None and (each.given is not None or each.held_up > now)}
    return {name for name in others if not any(may_be(name, declared) for declared in known)}
