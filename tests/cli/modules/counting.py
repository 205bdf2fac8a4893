"""A workflow whose code depends on how often it has run, for the tests of `turnout worker --verify`."""

import itertools

from turnout import activity, current_workflow, workflow

runs = itertools.count()


@activity
async def note() -> None:
    """Do nothing."""


@workflow
async def taking_turns() -> str:
    """Note something each second time, then wait for a word."""
    if next(runs) % 2:
        await note()
    word: str = await current_workflow().receive("word", str)
    return word
