"""What still reaches a workflow that has ended, or was deleted, and how what is left of it goes (W3, W10)."""

from __future__ import annotations

from collections.abc import Sequence

from turnout.core.workflows.effects import ending_of
from turnout.core.workflows.standing import Standing, Verdict, judge, stand
from turnout.core.workflows.values import Ending, EndKind, InputKind, Start
from turnout.store.histories import Stored
from turnout.store.inbox import Wakeup
from turnout.store.perform import Store
from turnout.worker.workflows.settling import Settling, is_homeless


class Aftermath:
    """Answers and settles the inputs of workflows that have ended. Errors are those of the connection."""

    def __init__(self, store: Store, settling: Settling) -> None:
        self._store = store
        self._settling = settling

    async def of_an_ended(self, newest: Stored, wakeups: Sequence[Wakeup]) -> None:
        """What still reaches a workflow that has ended: whoever asks for its end is told, the rest is void."""
        record = newest.record
        standing = stand([(record, newest.seq)]) if record.start is not None else newest_alone(newest)
        for wakeup in wakeups:
            given = wakeup.given
            verdict = Verdict.void if given is None else judge(standing, given, wakeup.name)
            if verdict is Verdict.answer and given is not None and given.asker is not None:
                await self._store.inbox.tell(given.asker, InputKind.done, ending_of(record))
            if verdict is Verdict.collect:
                await self._collect(newest, wakeup)
            self._settling.remove(wakeup, void=verdict is Verdict.void)

    async def of_none(self, wakeups: Sequence[Wakeup]) -> None:
        """What reaches a workflow that has no history: whoever asks for its end is told so, after a minute (W3)."""
        for wakeup in wakeups:
            asker = wakeup.given.asker if wakeup.given is not None else None
            if asker is not None and is_homeless(wakeup):
                await self._store.inbox.tell(asker, InputKind.done, Ending(EndKind.unknown))
            self._settling.without_history(wakeup)

    async def of_a_deleted(self, newest: Stored, wakeups: Sequence[Wakeup]) -> list[Wakeup]:
        """What still reaches a life that was deleted is void, but for its collection; the others are another life's."""
        own = [each for each in wakeups if each.given is not None and each.given.life == newest.record.life]
        await self.of_an_ended(newest, own)
        return [wakeup for wakeup in wakeups if wakeup not in own]

    async def _collect(self, newest: Stored, wakeup: Wakeup) -> None:
        """Remove what is left of an ended life, its history last (W10)."""
        record = newest.record
        await self._store.inbox.purge(record.name, record.id, wakeup.seq)
        await self._store.inbox.clear_timers(record.name, record.id, record.life, "")
        await self._store.histories.forget(record.id, record.life, newest.seq + 1)


def newest_alone(newest: Stored) -> Standing:
    """The standing of a workflow of which only the newest record is at hand: it has ended, or can't be read."""
    return Standing(newest=newest.record, seq=newest.seq, start=Start(), state=newest.record.state)
