"""`turnout supervisor`: a process that looks after jobs and runs none."""

from __future__ import annotations

import signal

import pytest

from tests.cli.conftest import Cli
from tests.support.waiting import until
from turnout import Client, JobFaulted, activity_ref


async def test_it_looks_after_jobs_that_no_worker_takes(cli: Cli) -> None:
    """A deadline passes with no worker and no reader there: the job is faulted. SIGTERM ends it with 0."""
    async with Client.connect(cli.url, namespace=cli.namespace) as client:
        handle = await client.submit(activity_ref("nobody").options(expires_in=1.0), {})
        with cli.process("supervisor", "--registry-every", "1") as process:

            async def on_record() -> bool:
                loaded = await client.store.registry.load("nobody", handle.id)
                return loaded.record is not None and loaded.record.state.final

            await until(on_record, within_s=60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        with pytest.raises(JobFaulted, match="expired"):
            await handle.result(timeout=30)
