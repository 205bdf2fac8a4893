"""The part of a client that sets limits and tells of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Sequence
from typing import Literal

import attrs

from turnout.client.away import outwaits
from turnout.client.info import instant
from turnout.core.limits import Effective, Holder, Rule, effective
from turnout.core.plain import Plain
from turnout.definition.limits import checked_name, checked_rule, undeclared
from turnout.definition.options import duration as positive
from turnout.errors import InvalidValue
from turnout.store.perform import Store

MOST_HOLDERS = 100


@attrs.frozen(kw_only=True)
class LimitInfo(Plain):
    """A limit, or one key of a limit that is used just now.

    `concurrency`: so many attempts at once, over all nodes; None: any number. `rate`: so many may start in `per`
    seconds, `burst` of them at once; None: as many as like. While a job's code has slowed it down, `concurrency` is 0,
    `source` "set", and `until` says for how long. `held`: how many hold a place of it,
    `holders` the ids of their jobs (at most 100); `waiting`: how many jobs wait for one, or for a token. An attempt
    that needs a token alone holds no place once it has it. `source`: "declared" by an
    activity's code, or "set" over that, until `until` if that is not None. Of a limit with braces in its name, `held`
    and `waiting` count all its keys. `declared`: whether a worker has said that an activity of it names this limit, or
    one of which this is a key; what is set over no such limit holds nothing up.
    """

    name: str
    concurrency: int | None
    rate: float | None
    per: float | None
    burst: int | None
    held: int
    waiting: int
    holders: list[str]
    source: Literal["declared", "set"]
    until: dt.datetime | None = None
    declared: bool = True


class LimitMethods:
    """What a `Client` can do with limits."""

    store: Store

    @outwaits
    async def set_limit(
        self,
        name: str,
        concurrency: int | None = None,
        *,
        rate: float | None = None,
        per: float | dt.timedelta = 1.0,
        burst: int | None = None,
        duration: float | dt.timedelta | None = None,
    ) -> None:
        """Set a limit over what activities have declared, until `clear_limit`, or for `duration` seconds.

        `name`: as it was declared, or one key of it, such as "tenant:42". `concurrency`: so many attempts at once;
        `rate`: so many may start in `per` seconds, `burst` of them at once (default: as many as `rate`). What is not
        given of the two stays as it is declared, and 0 of either holds all of them up. What runs goes on; who waits is
        let in at once where there is room now. Every node heeds it from its next job on. It takes the place of what was
        set before. A limit may be set before a worker declares it; `limits()` tells which are not declared.
        InvalidValue for what can't be.

            await client.set_limit("api", concurrency=5, duration=timedelta(minutes=30))
            await client.set_limit("mail", rate=100, per=60)
        """
        rule = checked_rule(checked_name(name), concurrency, rate, per, burst, least=0)
        if rule is None:
            raise InvalidValue("set_limit needs a concurrency or a rate; clear_limit ends what was set")
        length_s = None if duration is None else positive(duration, "duration")
        until = None if length_s is None else self.store.connection.now() + length_s
        await self.store.limits.give(name, rule, until)
        await self._hand_on(name)

    @outwaits
    async def clear_limit(self, name: str) -> None:
        """End what `set_limit` has set, or `slow_down`: what is declared counts again. Nothing happens if nothing was.

        await client.clear_limit("api")
        """
        record = await self.store.limits.get(checked_name(name))
        if record is not None and (record.given is not None or record.held_up):
            await self.store.limits.give(name, None)
            await self._hand_on(name)

    async def _hand_on(self, name: str) -> None:
        """Let in who waits for this limit, or for any key of it."""
        for key, line in (await self.store.places.lines.all()).items():
            if name in (key.key, key.name):
                await self.store.places.hand_on(key, line.lanes)

    @outwaits
    async def limits(self) -> AsyncGenerator[LimitInfo]:
        """Every limit that was declared or set, by name, and each key that somebody holds or waits for just now.

        async for limit in client.limits():
            print(limit.name, limit.held, "of", limit.concurrency)
        """
        store, now = self.store, self.store.connection.now()
        records = {record.name: record for record in await store.limits.all()}
        strange = undeclared(records.values(), now)
        uses: dict[str, _Use] = {}
        for places in await store.places.all():
            if places.holders:
                uses[places.key] = _Use(places.name, places.holders)
        for key, line in (await store.places.lines.all()).items():
            uses.setdefault(key.key, _Use(key.name)).waiting = line.waiting
        of_limit: dict[str, list[_Use]] = {}
        for name, use in uses.items():
            of_limit.setdefault(name, []).append(use)
            if use.limit != name:
                of_limit.setdefault(use.limit, []).append(use)
        for name in sorted(records.keys() | of_limit.keys()):
            limit = uses[name].limit if name in uses else name
            rule = effective(records.get(limit), records.get(name) if name != limit else None, None, now)
            if rule is not None or name in of_limit:
                declared = name not in strange or name in of_limit
                yield _info(name, rule or Effective(None), of_limit.get(name, []), declared=declared)


@attrs.define
class _Use:
    """Who uses a key of the limit `limit`."""

    limit: str
    holders: tuple[Holder, ...] = ()
    waiting: int = 0


def _info(name: str, rule: Effective, uses: Sequence[_Use], *, declared: bool) -> LimitInfo:
    allowed = rule.rule or Rule()
    rated = allowed.rate is not None
    return LimitInfo(
        name=name,
        concurrency=allowed.concurrency,
        rate=allowed.rate,
        per=allowed.per if rated else None,
        burst=allowed.burst if rated else None,
        held=sum(len(use.holders) for use in uses),
        waiting=sum(use.waiting for use in uses),
        holders=[holder.id for use in uses for holder in use.holders][:MOST_HOLDERS],
        source="set" if rule.given else "declared",
        until=instant(rule.until),
        declared=declared,
    )
