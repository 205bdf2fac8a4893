"""An activity that waits for the job of another one."""

from turnout import activity, current_job


@activity
async def answer() -> int:
    return 42


@activity
async def ask_another() -> int:
    return int(await (await current_job().client.submit(answer)).result())
