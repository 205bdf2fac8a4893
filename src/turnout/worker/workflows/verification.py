"""A share of the tasks is done again from the recorded history: code that would be stuck one day is told of today.

An instance that stays in memory is never led through its history, so what its code depends on besides that shows only
at the next restart. This looks before; what it finds is told, and changes nothing about the workflow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from turnout.core.failure import ErrorInfo
from turnout.core.workflows.standing import Standing
from turnout.definition.workflow import Workflow
from turnout.errors import NonDeterminism, TurnoutError
from turnout.flow.thread import HeldTooLong, LeftByExit
from turnout.store.histories import Stored
from turnout.store.perform import Store
from turnout.telemetry import workflow_metrics
from turnout.worker.failure import Redact, error_info, redacted_error
from turnout.worker.workflows.bodies import Bodies
from turnout.worker.workflows.calls import Views
from turnout.worker.workflows.ends import CodeBroke
from turnout.worker.workflows.queries import RunsCode
from turnout.worker.workflows.replay import replay_in_pieces

logger = logging.getLogger("turnout.workflow")

INPUTS_EACH = 10
"""How many inputs a task that is chosen pays for, each of which costs a tenth of a task or so. A longer history waits
until others have paid for it as well."""

INPUTS_MOST = 50_000
"""How many may be paid for in advance: as many as the longest history has."""

LOGGED_EVERY_S = 60.0
"""How often differences of one workflow's name are logged; the metric has them all."""


class Verification:
    """Replays the runs of a share of the tasks, one at a time, beside the work."""

    def __init__(
        self, store: Store, workflows: Mapping[str, Workflow[..., Any]], code: RunsCode, views: Views, share: float
    ) -> None:
        self._store = store
        self._workflows = workflows
        self._code = code
        self._views = views
        self._share = share
        self._bodies = Bodies(store.payloads)
        self._paid = 0
        self._logged_at: dict[str, float] = {}
        self._verifying: asyncio.Task[None] | None = None
        self.redact: Redact | None = None
        """Edits what is logged of errors that the code raises."""

    def consider(self, standing: Standing) -> None:
        """A task has led to this standing: maybe its run is replayed up to there."""
        if not self._share or self._store.chance.fraction() >= self._share:
            return
        self._paid = min(self._paid + INPUTS_EACH, INPUTS_MOST)
        if self._verifying is None and not standing.newest.begins_run and standing.taken <= self._paid:
            self._paid -= standing.taken
            self._verifying = asyncio.create_task(self._verify(standing), name="that verifies a workflow")

    async def close(self) -> None:
        """Begin no more, and leave the one that is under way."""
        self._share = 0.0
        if self._verifying is not None:
            self._verifying.cancel()
            await asyncio.wait([self._verifying])

    async def _verify(self, standing: Standing) -> None:
        name, workflow_id = standing.newest.name, standing.newest.id
        try:
            found = await self._difference(standing)
        except (TurnoutError, TimeoutError) as error:  # purged meanwhile, or the server is away: there will be others
            logger.debug("workflow %s is not verified: %s", workflow_id, error)
        except Exception:  # whatever it is, it is no trouble of the workflow
            logger.exception("workflow %s could not be verified", workflow_id)
        else:
            workflow_metrics.verified(name, "same" if found is None else "different")
            if found is not None:
                self._tell(name, workflow_id, found)
        finally:
            self._verifying = None

    async def _difference(self, standing: Standing) -> ErrorInfo | None:
        """How the code goes another way when it is led through the history; None when it does not."""
        newest = standing.newest
        records = await self._store.histories.read(newest.id, Stored(newest, standing.seq), of_run=True)
        recorded = [await self._bodies.of_record(each.record) for each in records]
        workflow = self._workflows[newest.name]
        try:
            await replay_in_pieces(self._code.run, workflow, recorded, standing, self._views)
        except (NonDeterminism, CodeBroke, HeldTooLong, LeftByExit) as error:
            cause = error.__cause__ if isinstance(error, CodeBroke) and error.__cause__ is not None else error
            info = error_info(cause)
            return info if self.redact is None else redacted_error(info, self.redact)
        return None

    def _tell(self, name: str, workflow_id: str, found: ErrorInfo) -> None:
        now = time.monotonic()
        if now - self._logged_at.get(name, -LOGGED_EVERY_S) < LOGGED_EVERY_S:
            return
        self._logged_at[name] = now
        logger.error(
            "the code of workflow %s is not deterministic: led through the history of %s again, as after a restart, "
            "it goes another way: %s",
            *(name, workflow_id, found.message if found.type == "NonDeterminism" else found.traceback),
        )
