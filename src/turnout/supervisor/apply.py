"""Applying what a supervisor has found out to jobs, many at once; trouble with one of them stops no other."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TypeVar

from turnout.core.events import Event, Lost
from turnout.core.loglines import fields
from turnout.store.perform import Performer
from turnout.store.records import Versioned

logger = logging.getLogger("turnout.supervisor")

T = TypeVar("T")

AT_ONCE = 32
"""How many jobs a supervisor deals with at a time."""


class Applier:
    """Says to `decide()` what is the matter with a job."""

    def __init__(self, performer: Performer) -> None:
        self._performer = performer

    async def __call__(self, activity: str, job_id: str, event: Event, job: Versioned | None = None) -> bool:
        """Whether it is dealt with; if not, why not is in the log, and it has to be tried again.

        `job` is its record if the caller has just read it.
        """
        try:
            applied = await self._performer.apply(activity, job_id, event, job)
        except Exception as error:  # one job that can't be dealt with must not keep us from the others
            what = type(event).__name__
            extra = fields(job_id, activity)
            logger.warning("job %s: %s could not be dealt with yet: %s", job_id, what, error, extra=extra)
            return False
        # What was written meanwhile speaks for an owner that was taken for dead: it is asked again.
        record = applied.job.record
        return not (isinstance(event, Lost) and record is not None and record.owned_by(event.token))


def chunks(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """The items, at most so many at a time."""
    for begin in range(0, len(items), most):
        yield items[begin : begin + most]
