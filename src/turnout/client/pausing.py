"""The part of a client that pauses activities and resumes them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta

from turnout.bounded import each
from turnout.client.away import outwaits
from turnout.core.catalog import ActivityInfo
from turnout.core.failure import one_line
from turnout.core.spec import valid_name
from turnout.definition.activity import ActivityRef
from turnout.definition.options import duration as positive
from turnout.errors import ActivityNotFound, InvalidValue, TurnoutError
from turnout.store.pauses import Pause
from turnout.store.perform import Store

logger = logging.getLogger("turnout.client")

_AT_ONCE = 20


def undeclared(name: str, known: Iterable[ActivityInfo]) -> ActivityNotFound:
    """No worker has declared an activity of this name; what it says lists those that are known."""
    names = ", ".join(each.name for each in known) or "none"
    return ActivityNotFound(f"no worker has declared an activity {name}; those known are: {names}")


class PauseMethods:
    """What a `Client` can do with an activity as a whole."""

    store: Store

    @outwaits
    async def pause(
        self, activity: str | ActivityRef, note: str = "", duration: float | timedelta | None = None
    ) -> None:
        """Begin no attempt of this activity any more, on any node, until it is resumed, or for `duration` seconds.

        Jobs are submitted and wait meanwhile, also those that wait for a retry; attempts that run go on. It holds over
        restarts of everything. `note` (its first 1,000 characters) is shown to whoever asks why. Pausing again replaces
        note and duration. ActivityNotFound when no worker has ever declared the activity.

            await client.pause(convert_video, "the disk is full", duration=timedelta(hours=1))
        """
        if not isinstance(note, str):
            raise InvalidValue(f"note must be text, not {note!r}")
        length_s = None if duration is None else positive(duration, "duration")
        name = await self._declared(activity)
        now = self.store.connection.now()
        until = None if length_s is None else now + length_s
        await self.store.pauses.put(name, Pause(now, until, one_line(note)))
        await self._announce(name)
        await self._tell_lines(name, paused=True)

    @outwaits
    async def resume(self, activity: str | ActivityRef) -> None:
        """Begin attempts of this activity again; nothing happens if it is not paused. ActivityNotFound as of `pause`.

        await client.resume("convert_video")
        """
        name = await self._declared(activity)
        await self.store.pauses.end(name)
        await self._announce(name)
        await self._tell_lines(name, paused=False)

    async def _declared(self, activity: str | ActivityRef) -> str:
        """The activity's name, if a worker has declared it."""
        name = activity.name if isinstance(activity, ActivityRef) else valid_name(activity, "activity")
        if await self.store.nodes.contract(name) is None:
            raise undeclared(name, await self.store.nodes.activities())
        return name

    async def _tell_lines(self, activity: str, *, paused: bool) -> None:
        """Have its jobs passed over that wait for limits, or not any more; the supervisor does what is left of that."""
        idle, busy = ([activity], []) if paused else ([], [activity])
        places = self.store.places
        try:
            lines = await places.lines.all(activity=activity)
            await each(lambda key: places.hand_on(key, lines[key].lanes, idle, busy), lines, _AT_ONCE)
        except TurnoutError as error:
            logger.info("not all limits know yet that %s was paused or resumed: %s", activity, error)

    async def _announce(self, activity: str) -> None:
        """Have the nodes look at once; those that don't hear of it notice within some seconds."""
        for node in await self.store.nodes.living():
            if activity in node.activities:
                self.store.nodes.look(node.id, activity)
