"""Payloads by name against the contract that the activity's workers have published.

The check finds what the code would refuse for sure: a parameter that is missing or unknown, a text where a number is
meant. What a JSON Schema can't say is left to the code, as is what is in a large payload, which would take a while.
Nobody need have published anything, and who may not read it submits unchecked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from turnout.core.catalog import ActivityInfo
from turnout.core.spec import PRIORITIES
from turnout.definition.bounds import Bounds
from turnout.definition.codec import EXACT_NAMES, InvalidArgument
from turnout.definition.fits import misfit
from turnout.definition.plain_json import decode_json
from turnout.definition.schemas import LARGE_CHARS
from turnout.errors import TurnoutError
from turnout.store.nodes import Nodes

KEPT_S = 30.0
"""How long a contract is taken to be what it was; before a payload is refused, it is read again."""


class Contracts:
    """The contracts of activities, as this client last read them."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._known: dict[str, tuple[float, ActivityInfo | None]] = {}

    async def check(self, activity: str, texts: list[str]) -> None:
        """InvalidArgument (a TypeError and a ValueError) for a payload that the activity's code would refuse."""
        if not _wrong(await self._contract(activity), texts):
            return
        wrong = _wrong(await self._contract(activity, anew=True), texts)
        if wrong:
            raise InvalidArgument(f"{activity}: {wrong}, says its contract: `turnout activity schema {activity}`")

    def priority(self, activity: str) -> int | None:
        """What priority its jobs have by its contract, as far as that was checked."""
        _, contract = self._known.get(activity, (0.0, None))
        priority = None if contract is None else contract.options.get("priority")
        return priority if priority in PRIORITIES else None

    def bounds(self, activity: str) -> Bounds | None:
        """What a submission of it may ask for by its contract, likewise."""
        _, contract = self._known.get(activity, (0.0, None))
        return None if contract is None else Bounds.of_contract(contract.options)

    async def _contract(self, activity: str, *, anew: bool = False) -> ActivityInfo | None:
        now = asyncio.get_running_loop().time()
        if not anew and activity in self._known and now - self._known[activity][0] < KEPT_S:
            return self._known[activity][1]
        try:
            contract = await self._nodes.contract(activity)
        except TurnoutError:  # what can't be read refuses nothing; the submit says what is wrong
            contract = None
        else:
            if contract is None:
                return None  # nor is that remembered: a worker may publish one at any time
        self._known[activity] = (now, contract)
        return contract


def _wrong(contract: ActivityInfo | None, texts: list[str]) -> str:
    schema = {} if contract is None else contract.payload_schema
    if EXACT_NAMES not in schema:
        return ""
    for text in texts:
        payload: Any = decode_json(text, "payload")
        problems = _wrong_names(schema, payload) if schema[EXACT_NAMES] else ""
        if problems:
            return problems
        wrong = misfit(schema, payload, lax=True) if len(text) <= LARGE_CHARS else None
        if wrong is not None:
            return wrong
    return ""


def _wrong_names(schema: Mapping[str, Any], payload: object) -> str:
    """Which parameters are missing or unknown, where the schema knows them all."""
    if not isinstance(payload, dict):
        return "a payload must be an object of its parameters"
    known, required = schema.get("properties") or {}, schema.get("required") or []
    problems = [f"{name}: Field required" for name in required if name not in payload]
    problems += [f"{name}: unknown key" for name in payload if name not in known]
    return "; ".join(problems[:20])
