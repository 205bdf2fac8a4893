"""Two activities of one name."""

from turnout import activity


@activity(name="twin")
async def first() -> None:
    pass


@activity(name="twin")
async def second() -> None:
    pass
