"""Starting a fork: what it shares becomes its own, then it is started as every workflow is (W5, W16)."""

from __future__ import annotations

import attrs

from turnout import crashpoints
from turnout.core.spec import Body
from turnout.core.workflows.fork import Past
from turnout.core.workflows.standing import asked_again
from turnout.core.workflows.task import Starting, first_record
from turnout.core.workflows.values import Answer, ChildOptions, Command, CommandKind, Input, key_of
from turnout.store.commit import Committer
from turnout.store.histories import Stored
from turnout.store.others import has_failed
from turnout.store.payloads import life_owner
from turnout.store.perform import Store
from turnout.store.starts import Starts


class Forks:
    """Starts forks. Errors are those of the connection, and `IdTaken`."""

    def __init__(self, store: Store) -> None:
        self._payloads = store.payloads
        self._histories = store.histories
        self._starts = Starts(store.inbox, store.histories)
        self._committer = Committer(store)

    async def start(self, starting: Starting, past: Past) -> Stored:
        """Start it; what it asks for anew is asked for when this returns. A worker makes sure of that, too."""
        owned = await self._owned(starting, past)
        crashpoints.reach("fork.copied")
        stored = await self._starts.start(owned)
        await self._committer.commit(stored)
        return stored

    async def _owned(self, starting: Starting, past: Past) -> Starting:
        """The start with copies of the large bodies that are others': those go with the lives that they belong to."""
        owner, start = life_owner(starting.id, starting.life), starting.start
        payload = await self._payloads.copied(start.payload, "payload", owner, starting.nonce)
        carried = tuple([await self._input(each, owner, f"c{n}") for n, each in enumerate(start.carried)])
        shared = attrs.evolve(starting, past=past)
        asked = {command.id for command in asked_again(first_record(shared))}
        past = attrs.evolve(
            past,
            inputs=tuple([await self._input(each, owner, f"i{n}") for n, each in enumerate(past.inputs)]),
            commands=tuple([await self._command(each, starting, past, asked) for each in past.commands]),
            answers=tuple([await self._answer(each, owner, f"a{n}") for n, each in enumerate(past.answers)]),
        )
        start = attrs.evolve(start, payload=payload, carried=carried)
        return attrs.evolve(starting, start=start, past=past)

    async def _input(self, given: Input, owner: str, key: str) -> Input:
        ending = given.ending
        if ending is not None and ending.result is not None:
            ending = attrs.evolve(ending, result=await self._payloads.copied(ending.result, "input", owner, key))
        return attrs.evolve(given, body=await self._payloads.copied(given.body, "input", owner, key), ending=ending)

    async def _command(self, command: Command, starting: Starting, past: Past, asked: set[str]) -> Command:
        """The payload of a child that is started anew is the child's own."""
        key = key_of(starting.id, starting.life, past.run, command.id)
        if command.id in asked and command.child is not None and command.target != key:
            command = await self._joining(command, command.child)
        if command.body.ref is None:
            return command
        owner = life_owner(starting.id, starting.life)
        if command.kind is CommandKind.child and command.id in asked:
            owner = life_owner(command.target, key)
        return attrs.evolve(command, body=await self._payloads.copied(command.body, "payload", owner, key))

    async def _joining(self, command: Command, child: ChildOptions) -> Command:
        """The child that is there under this id is joined, whoever has started it since, unless it has failed: then
        another one is started in its place."""
        found = await self._histories.newest(command.target)
        if child.if_exists != "join" or found is None or not has_failed(found.record):
            return command
        return attrs.evolve(command, child=attrs.evolve(child, if_exists="replace"))

    async def _answer(self, answer: Answer, owner: str, key: str) -> Answer:
        result: Body | None = answer.result
        if result is None:
            return answer
        return attrs.evolve(answer, result=await self._payloads.copied(result, "result", owner, key))
