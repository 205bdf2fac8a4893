"""In the place of whoever applies the events of a supervisor."""

from __future__ import annotations

from turnout.core.events import Event
from turnout.store.records import Versioned
from turnout.supervisor.apply import Applier


class Applied(Applier):
    """Who would apply events: remembers them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []

    async def __call__(self, activity: str, job_id: str, event: Event, job: Versioned | None = None) -> bool:
        self.events.append((job_id, event))
        return True
