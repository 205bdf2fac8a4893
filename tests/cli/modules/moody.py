"""An activity that fails once, for the tests of `turnout job trace`."""

import asyncio

from turnout import RetryPolicy, activity, current_job


@activity(retry=RetryPolicy(max_attempts=2, delay=0.5, jitter=0))
async def second_time(seconds: float = 0.1) -> str:
    """Fails at first."""
    await asyncio.sleep(seconds)
    if current_job().attempt == 1:
        raise ValueError("not [bold]yet[/]")
    return "done"
