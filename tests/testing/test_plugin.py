"""The pytest plugin, used as its users do: in a project of their own, in either mode of pytest-asyncio."""

from __future__ import annotations

import sys
from pathlib import Path

import nats
import pytest

from turnout import Client, activity
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory, own_namespace

pytest_plugins = ["pytester"]

TESTS = """
    import pytest
    from turnout import activity

    @activity
    async def double(n: int) -> int:
        return 2 * n

    {mark}
    async def test_with_block(turnout_client, turnout_worker):
        async with turnout_worker(double, concurrency=2):
            handle = await turnout_client.submit(double, 4)
            assert await handle.result(timeout=30) == 8

    {mark}
    async def test_awaited(turnout_client, turnout_worker):
        worker = await turnout_worker(double)
        assert await (await turnout_client.submit(double, 5)).result(timeout=30) == 10
"""


WORKFLOW_TESTS = """
    import asyncio
    from datetime import timedelta
    from turnout import activity, workflow

    @activity
    async def double(n: int) -> int:
        return 2 * n

    @workflow
    async def late(n: int) -> int:
        await asyncio.sleep(365 * 24 * 3600)
        return await double(n)

    async def test_a_year(workflow_environment):
        env = await workflow_environment(workflows=[late], activities={double: lambda n: n + 1})
        began = env.now()
        assert await (await env.start(late, 4)).result() == 5
        assert env.now() - began == timedelta(days=365)

    @workflow
    async def forgetful() -> None:
        if seen:
            await asyncio.sleep(1)
        seen.append(1)

    seen = []

    async def test_what_a_replay_finds(workflow_environment):
        env = await workflow_environment(workflows=[forgetful])
        handle = await env.start(forgetful)
        await env.advance(1)
        assert (await handle.info()).state == "completed"
"""


def test_the_fixture_for_workflows_needs_no_server(pytester: pytest.Pytester) -> None:
    """An environment of the fixture is left at the end of the test, which fails there for what a replay has found."""
    pytester.makepyfile(WORKFLOW_TESTS)
    result = pytester.runpytest_subprocess("-o", "asyncio_mode=auto", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*NonDeterminism*"])


@activity
async def greet(name: str) -> str:
    return f"hello {name}"


@pytest.mark.parametrize("mode", [pytest.param("auto", marks=pytest.mark.breadth), "strict"])
def test_fixtures_work_in_a_project_of_ones_own(pytester: pytest.Pytester, mode: str) -> None:
    """A project with pytest-asyncio, in either mode, gets a server, a client and workers without any set-up."""
    pytester.makepyfile(TESTS.format(mark="@pytest.mark.asyncio" if mode == "strict" else ""))
    result = pytester.runpytest_subprocess("-o", f"asyncio_mode={mode}", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)


def test_the_plugin_does_without_pytest_asyncio(pytester: pytest.Pytester) -> None:
    """Where pytest-asyncio is missing other tests run as ever, and the async fixtures say what to install."""
    pytester.makeconftest(
        """
        import importlib, importlib.util, sys
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "pytest_asyncio" else real(name, *rest)
        plugin = importlib.import_module("turnout.testing.plugin")
        pytest_plugins = ["turnout.testing.plugin"]
        """
    )
    pytester.makepyfile(
        """
        def test_other(): pass
        def test_needs_it(turnout_worker): pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:turnout")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*pip install pytest-asyncio*"])


def test_the_plugin_costs_nothing_until_it_is_used(pytester: pytest.Pytester) -> None:
    """A test run that uses no fixture of ours imports neither the client nor nats."""
    pytester.makepyfile(
        """
        import sys
        def test_modules(): assert not {"nats", "pydantic", "turnout.client"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


async def test_a_namespace_is_gone_after_its_test(nats_server: NatsServer) -> None:
    """Streams, buckets and object stores of a test's namespace are removed; those of others stay."""
    async with own_namespace(nats_server) as other:
        async with own_namespace(nats_server) as client:
            await client.submit(greet, "ann")
            during = await stream_names(nats_server)
        after = await stream_names(nats_server)
        assert any(client.namespace in name for name in during)
        assert not any(client.namespace in name for name in after)
        assert any(other.namespace in name for name in after)


async def stream_names(server: NatsServer) -> list[str]:
    connection = await nats.connect(server.url)
    try:
        return [info.config.name or "" for info in await connection.jetstream().streams_info()]
    finally:
        await connection.close()


async def test_left_over_workers_are_stopped(turnout_client: Client) -> None:
    """Workers that a test leaves running have stopped when the factory is left."""
    async with WorkerFactory(turnout_client) as factory:
        await factory(greet)
        assert len(await turnout_client.nodes()) == 1
    assert await turnout_client.nodes() == []


def test_the_server_has_the_package_to_itself() -> None:
    """`turnout.testing.NatsServer` is importable without pytest: `turnout dev` uses it."""
    import subprocess

    program = "import sys, turnout.testing; sys.exit(bool({'pytest', 'nats'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path.cwd(), check=False).returncode == 0
