"""Limits over all nodes: who holds a place, who may have one, and when a place is free again.

Pure. Instants are unix seconds by the server's clock. A place belongs to one attempt of one job, which is named before
it begins: `generation` and `number` are those of the attempt that will start. So the job's record alone tells whether a
place is held by right: what a record says of an attempt that is over, it says for ever.

A rate is kept as GCRA keeps it: a number and its instant tell how many of the `burst` tokens are spent, and they come
back at the pace of the rate.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs

from turnout.core.evolve import evolve
from turnout.core.record import JobState
from turnout.core.spec import ONE_IN
from turnout.core.struct import struct

_GRANTED_S = 15.0
"""For so long a place that was handed on is kept for a job that no worker has received."""

BRISK_S = 0.25
"""A place that is kept for no longer changes hands quickly."""

_ABSENT_S = 2.0
"""For so long it is kept for a node that has gone before the attempt began."""

_BEGINNING_S = 60.0
"""For so long a living node may take between its place and the start of the attempt: it is a matter of one write."""


@struct
class Rule:
    """What a limit allows: so many attempts at once, and so many starts in `per` seconds, of which `burst` may come at
    one time. 0 is none at all, None no limit."""

    concurrency: int | None = None
    rate: float | None = None
    per: float = 1.0
    burst: int | None = None

    @property
    def tokens(self) -> int:
        """How many may start at once, at most."""
        if self.rate == 0:
            return 0
        return self.burst if self.burst is not None else max(1, int(self.rate or 0))

    @property
    def pace(self) -> float:
        """How many tokens come back in a second."""
        return (self.rate or 0.0) / self.per

    @property
    def counts(self) -> bool:
        """Whether it must be known who runs: a rate alone need not know once an attempt has its token."""
        return self.concurrency is not None or self.rate is None


class Entry(enum.Enum):
    """What a limit answers an attempt: there is no room; it has a place until it leaves; it has had its token."""

    refused = enum.auto()
    held = enum.auto()
    passed = enum.auto()


@struct
class Effective:
    """The rule that counts; `given`: somebody has set it, until that instant (None: until it is cleared)."""

    rule: Rule | None
    given: bool = False
    until: float | None = None


@struct(slots=False)
class LimitRecord:
    """A limit as it is kept. `declared` is what an activity's code said last, `given` what somebody has set over it,
    until that instant (None: until it is cleared). Until `held_up` a job's code has asked for nothing to start."""

    name: str
    declared: Rule | None = None
    given: Rule | None = None
    until: float | None = None
    held_up: float = 0.0

    def given_at(self, now: float) -> Rule | None:
        """What is set over the declaration now, if anything."""
        return self.given if self.until is None or now < self.until else None


@struct
class LimitKey:
    """A limit as it applies to one job: `name` as it was declared, `key` with the job's own values in its braces.

    `declared` is what the code says, for when the server knows of no such limit.
    """

    key: str
    name: str
    declared: Rule | None = attrs.field(default=None, hash=False)

    @property
    def hash(self) -> str:
        return hashed(self.key)


@struct(slots=False)
class Holder:
    """The attempt that a place belongs to. `node` will start it, or does; "" while nobody has received the job."""

    activity: str
    id: str
    generation: int
    turn: int
    at: float
    node: str = ""

    def same_job(self, other: Holder) -> bool:
        return self.id == other.id and self.activity == other.activity

    def same(self, other: Holder) -> bool:
        """Whether both are the same attempt."""
        turn = self.turn == other.turn and self.generation == other.generation
        return turn and self.id == other.id and self.activity == other.activity

    def freed_by(self, other: Holder) -> bool:
        """Whether this place is free as soon as that attempt of a job of this id wants none."""
        same = self.turn == other.turn and self.generation == other.generation and self.activity == other.activity
        return same and not (self.node and not other.node)

    @property
    def order(self) -> tuple[int, int]:
        return self.generation, self.turn


@struct(slots=False)
class Places:
    """Who holds the places of one key, and how many tokens of its rate were spent at an instant.

    A holder that nobody has received yet has the promise of a token: it spends it as it is received, so that what waits
    for a busy worker does not start in one heap with what comes after. `waker` is who wakes the line when the next
    token is there; "" while nobody waits for one. `lanes`: the priorities of which jobs wait, or waited when somebody
    last looked; `passed`: how many have had their turn since it was the turn of the one that had waited longest.
    `idle`: activities of which nobody can start a job now; their jobs are passed over.
    """

    key: str
    name: str
    holders: tuple[Holder, ...] = ()
    used: float = 0.0
    used_at: float = 0.0
    waker: str = ""
    lanes: tuple[int, ...] = ()
    passed: int = 0
    idle: tuple[str, ...] = ()

    def vacant(self, rule: Rule, more: int = 0) -> bool:
        """Whether there is a place beside so many more, whatever the rate says."""
        return rule.concurrency is None or len(self.holders) + more < rule.concurrency

    def brisk(self, now: float) -> bool:
        """Whether all places change hands quickly: then who waits for one mostly does so for a moment."""
        return bool(self.holders) and all(now - each.at < BRISK_S for each in self.holders)

    def free(self, rule: Rule) -> int:
        """How many places there are, at least 1; of a rate there are tokens for one at a time, mostly."""
        return 1 if rule.concurrency is None or rule.rate is not None else max(1, rule.concurrency - len(self.holders))

    def room(self, rule: Rule, now: float) -> bool:
        """Whether another attempt may have a place now, with a token if the limit has a rate."""
        return self.vacant(rule) and self.due(rule) <= now

    def due(self, rule: Rule) -> float:
        """From when on there is a token that is promised to nobody: 0.0 if there is one by all means; inf if it takes
        more than time."""
        if rule.rate is None:
            return 0.0
        free = rule.tokens - 1 - sum(not each.node for each in self.holders)
        if free < 0:
            return math.inf
        used = self._spent(rule)
        return 0.0 if used <= free else self.used_at + (used - free) / rule.pace

    def refilled(self, rule: Rule) -> float:
        """When nothing is spent any more."""
        return self.used_at + self.used / rule.pace if rule.rate else 0.0

    def taken_by(self, holder: Holder, rule: Rule, now: float) -> Places | None:
        """With a place for this attempt; None if there is none."""
        places, (seated,) = self.seating([holder], rule, now)
        return places if seated else None

    def seating(self, wanting: Collection[Holder], rule: Rule, now: float) -> tuple[Places, list[bool]]:
        """With places for these attempts, one after the other, as far as there are any; which of them have one.

        A job has one place at most: that of its earlier attempt, which is over, counts as free. Each attempt needs a
        token of its own.
        """
        places, seated, counts = self, list[bool](), rule.counts
        holders = {(each.id, each.activity): each for each in self.holders}
        for_all = self.vacant(rule, len(wanting) - 1)
        for holder in wanting:
            job = holder.id, holder.activity
            held = holders.get(job)
            if held is not None and (held.order > holder.order or (held.same(holder) and held.node == holder.node)):
                seated.append(True)  # the record will say to a late one that it is late
                continue
            has = for_all or (held is not None and held.order == holder.order)
            has = has or self.vacant(rule, len(holders) - (held is not None) - len(self.holders))
            if rule.rate is not None and has:
                others = evolve(places, holders=tuple(each for each in holders.values() if each is not held))
                has = others.due(rule) <= now
                places = others.spent(rule, now) if has and holder.node else places
            seated.append(has)
            if has:
                holders.pop(job, None)
                if counts or not holder.node:
                    holders[job] = holder
        held_now = tuple(holders.values())
        return (self if held_now == self.holders and places is self else evolve(places, holders=held_now)), seated

    def spent(self, rule: Rule, now: float) -> Places:
        """With one more token of its rate spent."""
        now = max(now, self.used_at)
        return evolve(self, used=max(0.0, self._spent(rule) - (now - self.used_at) * rule.pace) + 1, used_at=now)

    def without(self, *holders: Holder) -> Places:
        """With the places of these attempts free; nothing changes for one that has none, or if the one that nobody had
        received has been by now."""
        leaving: dict[str, list[Holder]] = {}
        for holder in holders:
            leaving.setdefault(holder.id, []).append(holder)
        left = [
            each for each in self.holders if each.id not in leaving or not any(map(each.freed_by, leaving[each.id]))
        ]
        return self if len(left) == len(self.holders) else evolve(self, holders=tuple(left))

    def without_earlier(self, *holders: Holder) -> Places:
        """With the places of earlier attempts than these of the same jobs free: they are over."""
        later = {(each.id, each.activity): each.order for each in holders}
        earlier = [each for each in self.holders if each.order < later.get((each.id, each.activity), each.order)]
        return self.without(*earlier) if earlier else self

    def never_begun(self, holder: Holder, rule: Rule, now: float) -> Places:
        """With the place of this attempt free, and the token that it took for nothing, as far as it has not come back
        by itself."""
        left = self.without(holder)
        if rule.rate is None or (rule.counts and left is self):
            return left
        lost = max(0.0, 1.0 - max(0.0, now - holder.at) * rule.pace)
        return evolve(left, used=max(0.0, self._spent(rule) - lost))

    def noting(self, idle: Collection[str], busy: Collection[str]) -> Places:
        """With the jobs of these activities passed over, and those of the others not any more."""
        return evolve(self, idle=tuple(sorted({*self.idle, *idle}.difference(busy))))

    def _spent(self, rule: Rule) -> float:
        """What was spent by an earlier rule counts as far as this one knows of tokens."""
        return min(self.used, rule.tokens)


def next_turn(firsts: Mapping[int, int], passed: int) -> tuple[int, int]:
    """Of which priority the next one is that has his turn, and how many will have passed who has waited longest.

    `firsts`: where the first that waits of each priority lies in the stream. By priority, but so that one turn in
    `ONE_IN` is that of the one that has waited longest.

    >>> next_turn({1: 70, 5: 30}, passed=3), next_turn({1: 70, 5: 30}, passed=19), next_turn({5: 30}, passed=3)
    ((1, 4), (5, 0), (5, 0))
    """
    longest = min(firsts, key=lambda priority: firsts[priority])
    turn = longest if passed >= ONE_IN - 1 else min(firsts)
    return turn, 0 if turn == longest else passed + 1


def staying(ranks: Sequence[int], answers: Sequence[Entry], waits: Sequence[bool]) -> list[bool]:
    """Who of those that ask, in their order, waits where it is, but for those that came before one of their rank that
    joins the line now: the line has its turn first.

    >>> refused = [Entry.refused] * 3
    >>> staying([3, 5, 3], refused, [True, True, False]), staying([3, 5, 3], refused, [False, True, True])
    ([False, True, False], [False, True, True])
    """
    joining, stays = set[int](), list(waits)
    for number in reversed(range(len(ranks))):
        if waits[number]:
            stays[number] = ranks[number] not in joining
        elif answers[number] is Entry.refused:
            joining.add(ranks[number])
    return stays


def own_limit(activity: str) -> str:
    """What the limit of an activity's own is called, its `global_concurrency`."""
    return f"activity:{activity}"


def hashed(name: str) -> str:
    """The token of a subject that stands for a limit's name or key, which may have any characters."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def effective(
    of_limit: LimitRecord | None, of_key: LimitRecord | None, said: Rule | None, now: float
) -> Effective | None:
    """What counts for a key; None when nobody has said anything.

    What was set for this very key counts most, then what was set for the limit, then its newest declaration, then what
    the code of whoever asks says. Concurrency and rate are looked for each by itself: who sets the one leaves the other
    as it is. Nothing starts while a job's code has asked for that.
    """
    records = [record for record in (of_key, of_limit) if record is not None]
    held_up = max((record.held_up for record in records), default=0.0)
    given = [(rule, record.until) for record in records if (rule := record.given_at(now)) is not None]
    declared = of_limit.declared if of_limit is not None and of_limit.declared is not None else said
    if held_up > now:
        rule = _merged([Rule(0), *(rule for rule, _ in given), declared or Rule()])
        return Effective(rule, given=True, until=held_up)
    if not given:
        return None if declared is None else Effective(declared)
    rule = _merged([*(rule for rule, _ in given), declared or Rule()])
    return Effective(rule, given=True, until=min((until for _, until in given if until is not None), default=None))


def _merged(rules: Iterable[Rule]) -> Rule:
    """The first concurrency that any of these says, and the first rate."""
    merged = Rule()
    for rule in rules:
        if merged.concurrency is None:
            merged = Rule(rule.concurrency, merged.rate, merged.per, merged.burst)
        if merged.rate is None:
            merged = Rule(merged.concurrency, rule.rate, rule.per, rule.burst)
    return merged


def is_over(holder: Holder, state: JobState, generation: int, begun: int) -> bool:
    """Whether the job's record says that this attempt has ended or will never begin. What is so once stays so.

    `begun`: how many attempts of this generation have begun by the record, with those that do not count.
    """
    if generation != holder.generation:
        return generation > holder.generation
    if begun != holder.turn:
        return begun > holder.turn or state.final
    return state is not JobState.running


def is_abandoned(holder: Holder, now: float, *, lives: bool) -> bool:
    """Whether an attempt that has not begun need not be waited for; `lives`: its node does."""
    age = now - holder.at
    if not holder.node:
        return age > _GRANTED_S
    return age > (_BEGINNING_S if lives else _ABSENT_S)
