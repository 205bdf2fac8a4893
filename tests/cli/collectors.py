"""Collectors in trouble: one refuses for now, one for good, one says nothing, and one is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import attrs

from tests.cli.conftest import Cli
from tests.support.forks import Piped
from tests.support.otlp import Answer, OtlpReceiver

ANSWERS: tuple[Answer | None, ...] = (503, 400, "hang", None)
AWAY = "http://127.0.0.1:1"


@attrs.frozen
class Troubled:
    """A worker whose collector answers so (None: there is none), in a namespace of its own."""

    answer: Answer | None
    collector: OtlpReceiver
    cli: Cli
    worker: Piped


@contextmanager
def troubled_workers(cli: Cli, target: str, environment: Callable[[str], dict[str, str]]) -> Iterator[list[Troubled]]:
    """A worker of `target` for each trouble; `environment` is what it needs to send to the collector at a URL."""
    with ExitStack() as stack:
        found = []
        for answer in ANSWERS:
            collector = stack.enter_context(OtlpReceiver(answer or 200))
            own = Cli(cli.url, f"{cli.namespace}_{answer}")
            env = environment(collector.url if answer is not None else AWAY)
            worker = stack.enter_context(own.process("worker", target, "-o", "json", env=env))
            found.append(Troubled(answer, collector, own, worker))
        yield found
