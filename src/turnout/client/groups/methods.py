"""The part of a client that submits groups and lists them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar, overload

import attrs

from turnout.client.away import outwaits
from turnout.client.groups.handle import GroupHandle, info_of
from turnout.client.groups.info import GroupInfo
from turnout.client.handle import AnyHandle
from turnout.client.reader import Reader
from turnout.client.submitter import Submitter, new_id
from turnout.core.group import (
    MEMBERS_MOST,
    FollowUp,
    GroupRecord,
    MemberKind,
    Roster,
    ThenOn,
    member_id,
    then_id,
    valid_group_id,
)
from turnout.crashpoints import reach
from turnout.definition.activity import Activity, ActivityRef, NamedActivity, activity_ref, as_activity
from turnout.definition.ambient import refuse_within
from turnout.definition.options import Submission, refuse_options
from turnout.definition.plain_json import decode_json
from turnout.errors import GroupExists, InvalidArguments, InvalidValue, JobExists, TurnoutError
from turnout.nats.pages import newest_of
from turnout.nats.stream import kv_stream
from turnout.store.groups import GroupTaken
from turnout.store.member_list import list_parameter
from turnout.store.members import PART, Members
from turnout.store.perform import Performer, Store
from turnout.telemetry import spans

logger = logging.getLogger("turnout.client")

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = frozenset(
    {"timeout", "retry", "labels", "expires_in", "start_within", "requires", "priority", "cancellation"}
)
"""The options of a submission that a job takes along whoever submits it, and whenever."""

_ALIKE = 64
"""Among so many kinds of members it is looked whether one is there already."""


class GroupMethods:
    """What a `Client` can do with groups."""

    store: Store
    _performer: Performer
    _reader: Reader
    _submitter: Submitter
    _handle: Callable[[str, ActivityRef | None], AnyHandle]

    @overload
    async def submit_group(
        self,
        activity: Activity[P, Coroutine[Any, Any, R]],
        payloads: Iterable[Any],
        *,
        id: str | None = None,
        then: str | ActivityRef | None = None,
        then_on: ThenOn = "ended",
    ) -> GroupHandle[R]: ...
    @overload
    async def submit_group(
        self,
        activity: Activity[P, R],
        payloads: Iterable[Any],
        *,
        id: str | None = None,
        then: str | ActivityRef | None = None,
        then_on: ThenOn = "ended",
    ) -> GroupHandle[R]: ...
    @overload
    async def submit_group(
        self,
        activity: str | NamedActivity,
        payloads: Iterable[Any],
        *,
        id: str | None = None,
        then: str | ActivityRef | None = None,
        then_on: ThenOn = "ended",
    ) -> GroupHandle[Any]: ...
    @overload
    async def submit_group(
        self,
        activity: Iterable[tuple[str | ActivityRef, Any]],
        *,
        id: str | None = None,
        then: str | ActivityRef | None = None,
        then_on: ThenOn = "ended",
    ) -> GroupHandle[Any]: ...
    @outwaits
    async def submit_group(
        self,
        activity: str | ActivityRef | Iterable[tuple[str | ActivityRef, Any]],
        payloads: Iterable[Any] | None = None,
        *,
        id: str | None = None,
        then: str | ActivityRef | None = None,
        then_on: ThenOn = "ended",
    ) -> GroupHandle[Any]:
        """Submit many jobs as one: of an activity with these payloads, or of pairs of an activity and a payload.

        The group is there whole, or not at all: once its record is stored, whoever lives submits what is missing. The
        jobs' ids are `<group>-<n>`, from 0. `then`: an activity that is given the list of how all have ended, as one
        argument, when all have (`then_on="ended"`) or if all have completed (`"completed"`). It runs once, also when
        nobody waits for it.

            files = [{"path": path} for path in paths]
            group = await client.submit_group(convert_video, files, id="batch-7", then=summarize)

        All payloads are checked before anything is stored. Errors are those of `submit`; GroupExists when the id is
        taken, JobExists when a job has the id of one of these. Once the record is stored no trouble is raised any more.
        """
        refuse_within("call the activities, and await asyncio.gather")
        members = _pairs(activity, payloads)
        name = new_id() if id is None else valid_group_id(id)
        roster = await self._roster(members)
        record = GroupRecord(
            name,
            len(members),
            activity=roster.kinds[0].activity if len({kind.activity for kind in roster.kinds}) == 1 else "",
            created_at=self.store.connection.now(),
            nonce=self.store.chance.nonce(),
            then=await self._follow_up(then, then_on),
        )
        handle = self._group(name, [ref for ref, _ in members])
        if id is not None:
            await self._refuse_taken(record, handle)
        destination = self.store.names.bare(roster.kinds[0].activity)
        with spans.submitting(roster.kinds[0].activity, None, destination, count=record.total) as headers:
            await self._submit_group(attrs.evolve(record, headers=headers), roster, handle)
        return handle

    def group(self, group_id: str, activity: str | ActivityRef | None = None) -> GroupHandle[Any]:
        """A handle on the group of this id; nothing is asked of the server yet. With its activity the results are of
        the activity's type."""
        return self._group(valid_group_id(group_id), [] if activity is None else [as_activity(activity)])

    @outwaits
    async def groups(self) -> AsyncGenerator[GroupInfo]:
        """The groups whose records are kept, the newest first."""
        kept = {each.record.id: each.record async for _, each in self.store.groups.written_since(0) if each.record}
        members = Members(self.store, self._performer)
        for record in sorted(kept.values(), key=lambda record: record.created_at, reverse=True):
            yield await info_of(members, record)

    async def _submit_group(self, record: GroupRecord, roster: Roster, handle: GroupHandle[Any]) -> None:
        groups = self.store.groups
        record = await groups.put_roster(record, roster)
        try:
            kept = await groups.create(record)
        except GroupTaken:
            await groups.forget_roster(record)
            raise _exists(record.id, handle) from None
        reach("group.created")
        try:
            await Members(self.store, self._performer).publish(kept, roster, fresh=True)
        except TurnoutError as error:  # it is stored, and will be there whole
            text = "group %s is stored, and a supervisor submits what is missing of it: %s"
            logger.warning(text, record.id, error)

    async def _roster(self, members: Sequence[tuple[ActivityRef, Any]]) -> Roster:
        """Who the members are, every payload checked."""
        texts = [
            ref.codec.encode_object(payload) if isinstance(ref, Activity) else self._submitter.encode_untyped(payload)
            for ref, payload in members
        ]
        for name in {ref.name for ref, _ in members if not isinstance(ref, Activity)}:
            of_it = [text for (ref, _), text in zip(members, texts, strict=True) if ref.name == name]
            await self._submitter.contracts.check(name, of_it)
        known: dict[int, int] = {}
        kinds: list[MemberKind] = []
        for ref, _ in members:
            if id(ref) not in known:
                kind = self._kind(ref)
                if kind not in kinds[-_ALIKE:]:
                    kinds.append(kind)
                known[id(ref)] = len(kinds) - 1 - kinds[::-1].index(kind)
        kind_of = [known[id(ref)] for ref, _ in members]
        return Roster(tuple(kinds), tuple(texts), tuple(kind_of) if len(kinds) > 1 else ())

    def _kind(self, ref: ActivityRef) -> MemberKind:
        _refuse(ref, "a group's jobs get their ids from it", _OPTIONS | {"delay", "at"})
        return MemberKind(ref.name, self._submitter.recorded(ref), self._submitter.at(ref.submission))

    async def _follow_up(self, then: str | ActivityRef | None, on: ThenOn) -> FollowUp | None:
        if on not in ("ended", "completed"):
            raise InvalidValue(f'then_on must be "ended" or "completed", not {on!r}')
        if then is None:
            return None
        ref = activity_ref(then) if isinstance(then, str) else then
        if not isinstance(ref, ActivityRef):
            raise InvalidValue(f"then must be an activity, or the name of one, not {then!r}")
        why = "what follows a group gets its id and its time from it"
        _refuse(ref, why, _OPTIONS)
        if not isinstance(ref, Activity):
            await self._submitter.contracts.check(ref.name, [])
        return FollowUp(ref.name, await self._list_parameter(ref), self._submitter.recorded(ref), on)

    async def _list_parameter(self, ref: ActivityRef) -> str | None:
        """The parameter that takes the list: of an activity by name as its contract says, if there is one yet."""
        if isinstance(ref, Activity):
            payload: Any = decode_json(ref.codec.encode_arguments(([],), {}), "payload")
            if payload == []:
                return ""
            if not isinstance(payload, dict) or list(payload.values()) != [[]]:
                raise InvalidArguments(f"then: {ref.name} must take one argument, the list of how the jobs have ended")
            return str(next(iter(payload)))
        contract = await self.store.nodes.contract(ref.name)
        if contract is None:
            return None
        parameter = list_parameter(contract.payload_schema)
        if parameter is None:
            raise InvalidArguments(f"then: {ref.name} must take one argument, the list of how the jobs have ended")
        return parameter

    async def _refuse_taken(self, record: GroupRecord, handle: GroupHandle[Any]) -> None:
        """A chosen id may be taken, by a group, or for one of its jobs by another job, whatever its activity."""
        if (await self.store.groups.load(record.id)).record is not None:
            raise _exists(record.id, handle)
        names, connection = self.store.names, self.store.connection
        ids = [member_id(record.id, number) for number in range(record.total)]
        ids += [then_id(record.id)] if record.then is not None else []
        registry = kv_stream(names.jobs_bucket)
        for first in range(0, len(ids), PART):
            some = ids[first : first + PART]
            found = await newest_of(connection, names.work, [names.jobs("*", job_id) for job_id in some])
            records = await newest_of(connection, registry, [names.record("*", job_id) for job_id in some])
            found |= {subject: raw for subject, raw in records.items() if raw.data}
            if found:
                job_id = min(found).decode().rpartition(".")[2]
                text = f"job {job_id} exists already: choose another id for the group"
                raise JobExists(text, self._handle(job_id, None))

    def _group(self, name: str, refs: Iterable[ActivityRef]) -> GroupHandle[Any]:
        decoders = {ref.name: ref.codec.decode_result for ref in refs if isinstance(ref, Activity)}
        return GroupHandle(name, self.store, self._performer, self._reader, decoders)


def _pairs(
    activity: str | ActivityRef | Iterable[tuple[str | ActivityRef, Any]], payloads: Iterable[Any] | None
) -> list[tuple[ActivityRef, Any]]:
    """The activity and the payload of each member. InvalidValue for none, for too many, and for what is no pair."""
    if isinstance(activity, str | ActivityRef):
        if payloads is None:
            raise InvalidValue("payloads: give a list of them, one for each job of the group")
        ref = as_activity(activity)
        members = [(ref, payload) for payload in payloads]
    else:
        if payloads is not None:
            raise InvalidValue("give an activity and a list of payloads, or a list of (activity, payload)")
        members = _mixed(activity)
    if not 0 < len(members) <= MEMBERS_MOST:
        raise InvalidValue(f"a group has at least one job and at most {MEMBERS_MOST:,}, not {len(members):,}")
    return members


def _mixed(given: Iterable[Any]) -> list[tuple[ActivityRef, Any]]:
    members: list[tuple[ActivityRef, Any]] = []
    named: dict[str, ActivityRef] = {}
    for entry in given:
        if not isinstance(entry, tuple) or len(entry) != 2 or not isinstance(entry[0], str | ActivityRef):
            raise InvalidValue(f"a group takes pairs of an activity and its payload, not {entry!r}")
        ref, payload = entry
        if isinstance(ref, str):
            ref = named.setdefault(ref, activity_ref(ref))
        members.append((ref, payload))
    return members


def _refuse(ref: ActivityRef, why: str, taken: frozenset[str]) -> None:
    """InvalidValue for any option of a submission that is not among those that are taken here."""
    refuse_options(ref.name, ref.submission, [each for each in attrs.fields_dict(Submission) if each not in taken], why)


def _exists(name: str, handle: GroupHandle[Any]) -> GroupExists:
    return GroupExists(f"group {name} exists already: choose another id", handle)
