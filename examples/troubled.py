"""A job with a bad day: its first attempt fails, its second hangs until its worker is killed, its third succeeds.

docs/howto/debug-with-jaeger.md looks at it in Jaeger. In this directory:

    turnout worker troubled --name a        # and --name b in another terminal; kill -9 the one that hangs
    turnout job submit render '{"film": "holiday"}' --id holiday
"""

import asyncio

from opentelemetry import trace

from turnout import RetryPolicy, activity, current_job

tracer = trace.get_tracer("films")

HANG_S = 120.0
"""How long the second attempt hangs if nobody kills it."""


@activity(retry=RetryPolicy(max_attempts=3, delay=1.0, jitter=0))
async def render(film: str) -> str:
    """Fetch a film and encode it, in spans of its own."""
    job = current_job()
    with tracer.start_as_current_span("fetch", attributes={"film": film}):
        await asyncio.sleep(0.2)
        if job.attempt == 1:
            raise ConnectionError("the archive does not answer")
    await job.checkpoint("fetched")
    with tracer.start_as_current_span("encode"):
        for step in range(10):
            job.progress(step, 10, "encoding")
            await asyncio.sleep(HANG_S if job.attempt == 2 and step == 3 else 0.12)
    job.log.info("encoded %s", film)
    return f"{film}.webm"
