"""What the verbs of `turnout limit` do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from turnout.cli import output
from turnout.cli.exits import BadInput, NotThere
from turnout.cli.session import Session
from turnout.client.limits import LimitInfo
from turnout.definition.templates import fields_of, may_be


async def ls(s: Session) -> int:
    found = [limit async for limit in s.client.limits()]
    rows = [
        (output.one_line(each.name, 60), *_rule(each), str(each.held), str(each.waiting), _source(s, each))
        for each in found
    ]
    s.show(found, lambda: output.table(["limit", "concurrency", "rate", "held", "waiting", "source"], rows))
    return 0


async def show(s: Session, name: str) -> int:
    """Show one limit. NotThere names the ones there are."""
    chosen = await _chosen(s, name)
    lines = [
        ("limit", output.one_line(chosen.name)),
        *zip(("concurrency", "rate"), _rule(chosen), strict=True),
        ("source", _source(s, chosen)),
        ("held", str(chosen.held)),
        ("waiting", str(chosen.waiting)),
        ("holders", " ".join(chosen.holders)),
    ]
    s.show(chosen, lambda: output.fields(lines))
    return 0


async def _chosen(s: Session, name: str) -> LimitInfo:
    """The limit of this name, or a key of one that nobody uses just now. NotThere names the ones there are."""
    found = [limit async for limit in s.client.limits()]
    chosen = next((each for each in found if each.name == name), None) or _unused_key(name, found)
    if chosen is None:
        known = ", ".join(output.one_line(each.name) for each in found[:20]) or "none"
        raise NotThere(f"there is no limit {name}; those known are: {known}")
    return chosen


def _unused_key(name: str, found: Sequence[LimitInfo]) -> LimitInfo | None:
    """A key that nobody uses just now, of a limit with braces in its name: what counts for that counts for it."""
    of = next((each for each in found if fields_of(each.name) and may_be(name, each.name)), None)
    return None if of is None else attrs.evolve(of, name=name, held=0, waiting=0, holders=[])


async def set_limit(s: Session, name: str, rule: Mapping[str, Any], duration_s: float | None) -> int:
    """`rule`: the options of `Client.set_limit` that say what is allowed."""
    given = {option: value for option, value in rule.items() if value is not None}
    if given.keys().isdisjoint(("concurrency", "rate")):
        raise BadInput(f"{name} needs a concurrency or a rate: give --concurrency, --rate or both")
    await s.client.set_limit(name, **given, duration=duration_s)
    length = "until it is cleared" if duration_s is None else f"for {output.duration(duration_s)}"
    known = [limit async for limit in s.client.limits()]
    chosen = next((limit for limit in known if limit.name == name), None)
    lines = [f"{name}: {', '.join((*_said(**given), length))}"]
    if chosen is not None and not chosen.declared:
        others = ", ".join(output.one_line(limit.name) for limit in known[:20] if limit.declared) or "none"
        lines.append(f"no worker has declared it, so it holds nothing up yet; those declared are: {others}")
    s.show({"name": name, **given}, lambda: lines)
    return 0


def _said(
    concurrency: int | None = None, rate: float | None = None, per: float = 1.0, burst: int | None = None
) -> Iterator[str]:
    if concurrency is not None:
        yield f"{concurrency} at once"
    if rate is not None:
        yield f"{rate:g} in {output.duration(per)}"
    if burst is not None:
        yield f"{burst} of them in one burst"


async def clear(s: Session, name: str) -> int:
    await _chosen(s, name)
    await s.client.clear_limit(name)
    s.show({"name": name, "cleared": True}, lambda: [f"{name}: what the code says counts"])
    return 0


def _rule(limit: LimitInfo) -> tuple[str, str]:
    """How many at once, and how many in what time."""
    most = "any number" if limit.concurrency is None else str(limit.concurrency)
    if limit.rate is None or limit.per is None:
        return most, "any"
    return most, f"{limit.rate:g} in {output.duration(limit.per)}, burst {limit.burst}"


def _source(s: Session, limit: LimitInfo) -> str:
    """Who says so, and for how long still."""
    source = limit.source if limit.declared else f"{limit.source}, not declared"
    if limit.until is None:
        return source
    return f"{source}, for another {output.duration(max(limit.until.timestamp() - s.now, 0.0))}"
