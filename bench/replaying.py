"""Replaying long histories: their records decoded, added up, and the code led through them, as a worker does it that
has the workflow not in its cache.

The histories are made by the code itself and by what a worker records of it, without a server: as many inputs and
commands, a record for each input.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.child import measure
from bench.flows import Counter, chain
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import fastjson
from turnout.cli.serve import collect_seldom
from turnout.core.spec import Body
from turnout.core.workflows.standing import Standing, stand
from turnout.core.workflows.task import Author, Draft, Now, Starting, first_record
from turnout.core.workflows.values import CommandKind, Ending, EndKind, Input, InputKind, Start
from turnout.definition.workflow import Workflow, workflow_of
from turnout.node import UserViews
from turnout.wire.histories import dump_history_record, load_history_record
from turnout.worker.workflows.instance import Facts, Instance
from turnout.worker.workflows.replay import replay
from turnout.worker.workflows.task import apply_inputs

LEAST = 50_000.0
"""Events in a second of CPU, decoding included."""

_AT = 1_800_000_000.0
_STEP_S = 0.005


def of_activities(events: int) -> list[bytes]:
    """The records of activities one after the other: two events for each."""
    steps = max(1, events // 2)

    def ends(standing: Standing) -> Iterable[Input]:
        for command in standing.pending.values():
            if command.kind is CommandKind.activity:
                ending = Ending(EndKind.completed, result=_body("1"))
                yield _input(standing, InputKind.done, what=command.id, run=1, ending=ending)

    return _made(_workflow(chain), f'{{"steps":{steps}}}', events, ends)


def of_signals(events: int) -> list[bytes]:
    """The records of signals to one workflow: an event for each."""

    def signals(standing: Standing) -> Iterable[Input]:
        yield _input(standing, InputKind.signal, what="add", id=secrets.token_hex(6), body=_body('{"n":1}'))

    return _made(_workflow(Counter), "{}", events, signals)


KINDS: dict[str, Callable[[int], list[bytes]]] = {"activities": of_activities, "signals": of_signals}
WORK = {"activities": "activities one after the other", "signals": "signals"}


def _workflow(defined: object) -> Workflow[..., Any]:
    workflow = workflow_of(defined)
    assert workflow is not None
    workflow.codec.prepare()
    return workflow


def _body(text: str) -> Body:
    return Body(text=text, size=len(text))


def _input(standing: Standing, kind: InputKind, **more: Any) -> Input:
    return Input(kind, standing.newest.at + _STEP_S, seq=standing.upto + 1, life=standing.life, **more)


def _made(
    workflow: Workflow[..., Any], payload: str, events: int, given: Callable[[Standing], Iterable[Input]]
) -> list[bytes]:
    """Records until there are so many events, or the workflow has ended; `given`: the inputs of each next task."""
    life = secrets.token_hex(8)
    start = Start(payload=_body(payload), at=_AT, wake=1)
    record = first_record(Starting(id="history", name=workflow.name, life=life, nonce="first", start=start))
    standing, found = stand([(record, 1)]), [dump_history_record(record)]
    instance = Instance(workflow, Facts(id=record.id, name=record.name, life=life, run=1, start=start), UserViews())
    while standing.events < events and not standing.state.final:
        draft = Draft(standing)
        inputs = [(each, record.name) for each in given(standing)] if standing.begun else []
        done = apply_inputs(draft, inputs, standing.newest.at + _STEP_S, instance.apply)
        if done.broken is not None:
            raise done.broken
        author = Author(node="filler-0000000000", build="bench", nonce=secrets.token_hex(8))
        made = draft.record(author, Now(at=standing.newest.at + _STEP_S, waits=instance.waits()))
        assert made is not None
        found.append(dump_history_record(made))
        standing = stand([(made, standing.seq + 1)], standing)
    instance.drop()
    return found


async def replayed(path: str, name: str) -> dict[str, Any]:
    """Events per second of CPU of a replay, decoding included; and of reading the same lines as JSON."""
    collect_seldom()  # as a worker of the command line
    workflow = _workflow(chain if name == "activities" else Counter)
    lines = Path(path).read_bytes().splitlines()
    begun = time.process_time()
    for line in lines:
        fastjson.loads(line)
    parsed_s, begun = time.process_time() - begun, time.process_time()
    records = [load_history_record(line, of_run=True) for line in lines]
    standing = stand([(record, number + 1) for number, record in enumerate(records)])
    instance = replay(workflow, records, standing, UserViews())
    took = time.process_time() - begun
    instance.drop()
    return {"rate": standing.events / took, "json": standing.events / parsed_s}


def measured(sizes: Sizes) -> list[Row]:
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for kind, make in KINDS.items():
            Path(folder, kind).write_bytes(b"\n".join(make(sizes.jobs)))
        for _ in range(sizes.rounds):
            for kind, rounds in found.items():
                rounds.append(measure("bench.replaying:replayed", path=str(Path(folder, kind)), name=kind))

    def row(kind: str) -> Row:
        return Row(
            key=f"replay_{kind}",
            work=f"replay {sizes.jobs:,} events, {WORK[kind]}",
            unit="/s",
            rounds=[each["rate"] for each in found[kind]],
            against=[each["json"] for each in found[kind]],
            other="its JSON read",
            aim=Aim(of="value", least=LEAST),
        )

    return [row(kind) for kind in KINDS]


if __name__ == "__main__":
    show(measured, "How fast the histories of workflows are replayed.")
