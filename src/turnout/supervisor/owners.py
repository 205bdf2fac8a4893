"""Which node runs what, and what becomes of it when the node is dead (P5, P6).

Who walks the messages or the records notes here what runs. A node whose key has lapsed is asked once, whatever it has
run, and when it is silent all of that is lost at once: a frozen node would take its second for each question.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping

import attrs

from turnout import wire
from turnout.bounded import each
from turnout.core.catalog import NodeInfo
from turnout.core.events import Lost, Stuck, Verdict
from turnout.core.loglines import fields
from turnout.core.record import MessageRef, Token
from turnout.crashpoints import reach
from turnout.errors import UnreadableRecord
from turnout.nats.boottime import boottime
from turnout.nats.pages import newest_of
from turnout.nats.stream import kv_stream
from turnout.store.nodes import ASK_TIMEOUT_S, MAX_TTL_S
from turnout.store.perform import Store
from turnout.store.records import Versioned
from turnout.supervisor.apply import AT_ONCE, Applier, chunks

logger = logging.getLogger("turnout.supervisor")

Key = tuple[str, str]
"""A job: its activity and its id."""

_TOGETHER = 512
"""How many records are read at once."""

_ASK_AGAIN_S = 2.0
"""A node that answers although its key has lapsed is asked so often."""

_LATE = 0.6
"""A node writes its key three times in its TTL. When this part of it has passed it is asked in advance."""

_FRESH_S = 0.5
"""What was read of the nodes is read again after so long before one is asked for it."""

_SILENCE_COUNTS_S = 3.0
"""Who did not answer so lately is given less time when it is asked again."""

_HOLDS_S = 2.0
"""So long a verdict holds: behind an answer of the store that took longer its owner may be back, and is asked again."""

_LAST_WORD_S = 0.4
"""So much: its key has lapsed, and what it had been asked before may have been lost on its way."""


@attrs.frozen
class Owned:
    """A running attempt, and where its message was when it began."""

    token: Token
    message: MessageRef | None


class Owners:
    """The attempts that run, as far as is known. `confident` tells whether this process may call a node dead (P5).
    For `calm_s` seconds nobody may look at the nodes when `look` says so."""

    def __init__(self, store: Store, apply: Applier, confident: Callable[[], bool], *, calm_s: float = 0.0) -> None:
        self.vanished = asyncio.Event()
        """Set when a node has gone."""
        self.strange = asyncio.Event()
        """Set when something runs on a node that has not been seen."""
        self.departed = 0
        """How many nodes have gone so far."""
        self._store = store
        self._apply = apply
        self._confident = confident
        self._calm_s = calm_s
        self._attempts: dict[str, dict[Key, Owned]] = {}
        self._node_of: dict[Key, str] = {}
        self._nodes: list[NodeInfo] = []
        self._living: frozenset[str] = frozenset()
        self._looked_at = 0.0
        self._ask_at: dict[str, float] = {}
        self._silent_at: dict[str, float] = {}
        self._on_lost: Callable[[str, str, Owned], None] | None = None

    def tell(self, on_lost: Callable[[str, str, Owned], None]) -> None:
        """Call this with each attempt that was counted as lost: somebody has to take the job now."""
        self._on_lost = on_lost

    def begin(self) -> None:
        """Know nothing."""
        self._attempts, self._node_of, self._ask_at, self._silent_at = {}, {}, {}, {}
        self._nodes, self._living, self._looked_at = [], frozenset(), 0.0

    def __len__(self) -> int:
        return len(self._node_of)

    def noted(self, activity: str, job_id: str) -> bool:
        """Whether the job is among those that run, or have run when they were looked at."""
        return (activity, job_id) in self._node_of

    def note(self, activity: str, job_id: str, owned: Owned) -> None:
        """This attempt runs, or has run when it was looked at."""
        key = (activity, job_id)
        if self._node_of.get(key) != owned.token.node:
            self.drop(activity, job_id)
        self._node_of[key] = owned.token.node
        if owned.token.node not in self._living and owned.token.node not in self._attempts:
            self.strange.set()
        self._attempts.setdefault(owned.token.node, {})[key] = owned

    def drop(self, activity: str, job_id: str) -> None:
        """The job does not run, or not any more."""
        key = (activity, job_id)
        node = self._node_of.pop(key, None)
        if node is not None:
            del self._attempts[node][key]
            if not self._attempts[node]:
                del self._attempts[node]

    async def look(self) -> bool:
        """Find the dead nodes, and count what they have lost; whether all live that run anything, and no key of a node
        can come near its end in `calm_s`. Errors are those of the connection."""
        reach("supervisor.elected")
        await self._see()
        living = frozenset(node.id for node in self._nodes)
        reach("supervisor.looked")
        if gone := self._living - living:
            self.departed += len(gone)
            self.vanished.set()
        self._living = living
        now = boottime()
        self._ask_at = {node: at for node, at in self._ask_at.items() if at > now}
        silent = [node for node in self._attempts if node not in living and node not in self._ask_at]
        # All at once: each of them may take its second to be silent.
        results = await asyncio.gather(*(self._node(node) for node in silent), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        reach("supervisor.counted")
        return self._living.issuperset(self._attempts) and not self._late(within_s=self._calm_s)

    async def ask_late(self) -> None:
        """Ask those whose key will lapse soon: who is silent then is given little time when it does."""
        if boottime() - self._looked_at > _FRESH_S and self._late():
            await self._see()
        late = [node.id for node in self._late() if node.id in self._attempts]
        await each(self._ask, [next(iter(self._attempts[node].values())).token for node in late], AT_ONCE)

    async def _see(self) -> None:
        self._nodes, self._looked_at = await self._store.nodes.living(), boottime()

    def _late(self, *, within_s: float = 0.0) -> list[NodeInfo]:
        """Those whose key will lapse soon, or so many seconds later."""
        at = self._store.connection.now() + within_s
        return [node for node in self._nodes if at - node.seen_at > _LATE * min(node.ttl, MAX_TTL_S)]

    async def verdict(self, token: Token, *, exhausted: bool = False) -> Verdict:
        """What becomes of the attempt of this token, as far as this process may say so: gone only if that is sure.

        `exhausted` tells its owner that the message's deliveries are used up.
        """
        return (await self._ask(token, exhausted=exhausted))[0]

    async def _ask(
        self, token: Token, *, exhausted: bool = False, patience_s: float = ASK_TIMEOUT_S
    ) -> tuple[Verdict, bool]:
        """The verdict, and whether the node itself has said it."""
        answer = await self._store.nodes.ask(token, exhausted=exhausted, timeout_s=patience_s)
        verdict, said = answer.verdict, answer.said
        if not said:
            self._silent_at[token.node] = boottime()
        if verdict is Verdict.gone and not said and not self._confident():
            verdict = Verdict.silent
        return verdict, said

    async def _node(self, node: str) -> None:
        owned = dict(self._attempts[node])
        silent_lately = boottime() - self._silent_at.get(node, -math.inf) < _SILENCE_COUNTS_S
        patience_s = _LAST_WORD_S if silent_lately else ASK_TIMEOUT_S
        verdict, said = await self._ask(next(iter(owned.values())).token, patience_s=patience_s)
        if said:
            self._ask_at[node] = boottime() + _ASK_AGAIN_S
            await each(lambda key: self.check(*key, owned[key]), owned, AT_ONCE)
        elif verdict is Verdict.gone:
            owned |= self._attempts.get(node, {})  # others of its attempts have been met while it was asked
            logger.warning("node %s is dead: it has run %s", node, _counted(len(owned)))
            await self._lost(owned)

    async def check(self, activity: str, job_id: str, owned: Owned) -> None:
        """Ask about one attempt, and count it as lost if it does not run."""
        if await self.verdict(owned.token) is Verdict.gone:
            await self._lost({(activity, job_id): owned})

    async def _lost(self, owned: Mapping[Key, Owned]) -> None:
        """Count these attempts as lost. What carries no message any more (purged, or lost in a power cut) is requeued
        from its record."""
        judged_at = boottime()
        for keys in chunks(list(owned), _TOGETHER):
            some = {key: owned[key] for key in keys}
            records = await self._read(some)
            if boottime() - judged_at > _HOLDS_S:
                verdict, said = await self._ask(next(iter(some.values())).token)
                if verdict is not Verdict.gone or (said and len(owned) > 1):
                    return  # the next look asks about each
                judged_at = boottime()
            await self._lost_together(some, records)

    async def _lost_together(self, owned: Mapping[Key, Owned], records: Mapping[Key, Versioned]) -> None:
        counted = await each(lambda key: self._count(key, owned[key], records.get(key)), owned, AT_ONCE)
        lost = [key for key, is_counted in zip(owned, counted, strict=True) if is_counted]
        messages = {key: message for key in lost if (message := owned[key].message) is not None}
        there = await self._store.queue.those_there(messages.values())
        gone = [key for key, message in messages.items() if message.seq not in there]
        now = self._store.connection.now()
        await each(lambda key: self._apply(*key, Stuck(now=now, delivery=None)), gone, AT_ONCE)

    async def _read(self, keys: Iterable[Key]) -> dict[Key, Versioned]:
        """The records, from any replica: what is written is compared with what the leader has."""
        names = self._store.names
        subjects = {names.record(*key).encode(): key for key in keys}
        wanted = [subject.decode() for subject in subjects]
        found = await newest_of(self._store.connection, kv_stream(names.jobs_bucket), wanted)
        records = {}
        for subject, raw in found.items():
            with contextlib.suppress(UnreadableRecord):
                records[subjects[subject]] = Versioned(wire.load_record(raw.data), raw.seq)
        return records

    async def _count(self, key: Key, owned: Owned, job: Versioned | None) -> bool:
        activity, job_id = key
        token = owned.token
        reach("sweep.verdict")
        logger.warning(
            "job %s attempt %d is lost: node %s is dead",
            *(job_id, token.attempt, token.node),
            extra=fields(job_id, activity, token.attempt, token.node),
        )
        if not await self._apply(activity, job_id, Lost(token=token, now=self._store.connection.now()), job):
            return False
        reach("sweep.counted")
        self.drop(activity, job_id)
        if self._on_lost is not None:
            self._on_lost(activity, job_id, owned)
        return True


def _counted(attempts: int) -> str:
    return "one attempt" if attempts == 1 else f"{attempts} attempts"
