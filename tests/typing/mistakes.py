"""What a type checker must refuse: every line that ends in `# wrong` is an error, and no other line is."""

from __future__ import annotations

from turnout import Client, JobHandle, activity


@activity
async def convert(path: str, format: str = "webm") -> int:
    return len(path)


@activity(run_in="process")
def count(text: str) -> int:
    return len(text)


async def mistakes(client: Client) -> None:
    await convert(5)  # wrong
    count("a", words=())  # wrong
    await client.submit(convert, path=5)  # wrong
    await client.submit(convert, pathh="a")  # wrong
    await client.submit(convert)  # wrong
    await client.submit(convert.options(id="a"), "a", 1)  # wrong
    await client.submit(count, 5)  # wrong
    convert.options(idd="a")  # wrong
    convert.options(if_exists="maybe")  # wrong
    handle: JobHandle[str] = await client.submit(convert, "a")  # wrong
    text: str = await (await client.submit(count, "a")).result()  # wrong
    print(handle, text)


@activity(timeot=3)  # wrong
def option() -> None: ...


@activity(run_in="fiber")  # wrong
def place() -> None: ...
