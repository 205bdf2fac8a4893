"""What must hold of groups and of debounced submissions, by name: called at each change that the server makes."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import attrs

from tests.sim.invariants import Invariants, Violation, life_of
from turnout import fastjson
from turnout.core.group import GroupRecord, member_id, then_id
from turnout.core.record import JobRecord, JobState
from turnout.testing.memory import Message
from turnout.wire.converter import load

if TYPE_CHECKING:
    from tests.sim.group_simulation import GroupSimulation


class GroupInvariants(Invariants):
    """The watcher of groups and bursts. A burst is the debounced submissions of one key."""

    sim: GroupSimulation

    def __init__(self, sim: GroupSimulation) -> None:
        super().__init__(sim)
        self.groups: dict[str, GroupRecord] = {}
        self._open_groups: set[str] = set()
        self._ways: defaultdict[str, set[JobState]] = defaultdict(set)
        """How each job has ended, once or more."""
        self._removed: set[str] = set()
        """The jobs whose record somebody has ever deleted."""
        self._attempts: Counter[tuple[str, int]] = Counter()
        self._waiting: dict[str, str] = {}
        """The job of each burst that takes submissions."""
        self._written: defaultdict[str, list[str]] = defaultdict(list)
        """The payloads of each burst, in the order in which they got into records."""
        self._ran: set[str] = set()
        self.told: set[str] = set()
        """The submissions of bursts that a client was told are stored."""
        self.refused: set[str] = set()
        """Those of which a client was told that they are not."""

    # -- what the server tells -----------------------------------------------------------------------------------------

    def grouped(self, message: Message) -> None:
        """The record of a group was stored."""
        after, before = load(message.data, GroupRecord), self.groups.get(message.subject.rpartition(".")[2])
        text = f"published {after.published} cancelled {after.cancelled} ends {after.ends} {after.finished_at}"
        self.sim.note(f"     group {after.id} {text} by {self.sim.writer()}")
        self.groups[after.id] = after
        self._open_groups.add(after.id)
        if before is not None:
            self.what_was_seen_stays(before, after)
        for number in range(after.total):
            state = after.seen.of_member(number)
            if state is not None and (before is None or before.seen.of_member(number) is None):
                self.ends_are_true(member_id(after.id, number), state)
        if after.finished_at is not None:
            self.finishes_last(after)
            self._open_groups.discard(after.id)

    def saved(self, before: JobRecord | None, after: JobRecord, expires: bool) -> None:
        super().saved(before, after, expires)
        if after.state.final:
            self._ways[after.id].add(after.state)
        group, _, which = after.id.rpartition("-")
        if group in self.sim.bundles:
            self.there_whole_or_not_at_all(group, after.id)
            if which == "then":
                self.follows_all(group)
        life = life_of(after.spec.payload.text or "")
        if "~" in life:
            self._debounced(life, before, after)

    def written(self, message: Message) -> None:
        super().written(message)
        if not message.data:
            self._removed.add(message.subject.rpartition(".")[2])

    def stored(self, message: Message) -> None:
        super().stored(message)
        found = self.delivery_of(message)
        group = found.id.rpartition("-")[0] if found is not None else ""
        if found is not None and group in self.sim.bundles:
            self.there_whole_or_not_at_all(group, found.id)

    def started(self, record: JobRecord) -> None:
        super().started(record)
        self.runs_once(record)
        life = life_of(record.spec.payload.text or "")
        if life in self.refused:
            raise Violation("D4 refused is not stored", f"{life} runs, whose submitter was told that it is not stored")
        if "~" in life:
            self._ran.add(life)
        if record.id.endswith("-then"):
            self.told_how_all_have_ended(record)

    # -- groups --------------------------------------------------------------------------------------------------------

    def there_whole_or_not_at_all(self, group: str, job_id: str) -> None:
        """G1: no job of a group is there before the group is, and in the end all are."""
        if group not in self.groups:
            raise Violation("G1 whole or not at all", f"{job_id} is there, and its group is not")

    def ends_are_true(self, job_id: str, state: JobState) -> None:
        """G2: a member counts as it has ended; as cancelled, where somebody has removed it."""
        if state not in self._ways[job_id] and not (state is JobState.cancelled and job_id in self._removed):
            raise Violation("G2 ends are true", f"{job_id} counts as {state}: it has ended as {self._ways[job_id]}")

    def follows_all(self, group: str) -> None:
        """G3: what follows a group comes when all its members have ended, if it is to come at all."""
        record = self.groups[group]
        if record.seen.left or not record.follows:
            raise Violation("G3 follows once, behind all", f"{group} has {record.seen.counts()}, and is followed")

    def runs_once(self, record: JobRecord) -> None:
        """G3, D2: also one that was submitted again, with another payload under the same id, runs once."""
        self._attempts[record.id, record.attempt] += 1
        if self._attempts[record.id, record.attempt] > 1:
            name = "G3 follows once, behind all" if record.id.endswith("-then") else "D2 runs once"
            raise Violation(name, f"attempt {record.attempt} of {record.id} runs a second time")

    def told_how_all_have_ended(self, record: JobRecord) -> None:
        """G3: its payload says so of each member, in their order."""
        group = self.groups[record.id.removesuffix("-then")]
        listed: list[dict[str, Any]] = fastjson.loads(record.spec.payload.text or "")["ended"]
        told = [(each["id"], JobState(each["state"])) for each in listed]
        if [name for name, _ in told] != [member_id(group.id, number) for number in range(group.total)]:
            raise Violation("G3 follows once, behind all", f"{group.id}: the list is {told}")
        for name, state in told:
            self.ends_are_true(name, state)

    def what_was_seen_stays(self, before: GroupRecord, after: GroupRecord) -> None:
        """G4: no writer takes back what another one has written of a group."""
        if after == attrs.evolve(before, cancel=after.cancel, cancelled=0) and after.cancel is not None:
            return  # somebody cancels it once more: all that are open are asked again
        back = after.published < before.published or after.cancelled < before.cancelled
        seen = [(before.seen.of_member(n), after.seen.of_member(n)) for n in range(after.total)]
        taken = any(was is not None and now is not was for was, now in seen)
        if back or taken or before.finished_at is not None or (before.cancel is not None and after.cancel is None):
            raise Violation("G4 what was seen stays", f"{before} became {after}")

    def finishes_last(self, record: GroupRecord) -> None:
        """G5: a group finishes when all its jobs have ended, and what follows is there."""
        follower = then_id(record.id)
        there = self.accepted.get(follower, 0) > 0
        if record.seen.left or there != record.follows:
            raise Violation("G5 finishes last", f"{record.id}: {record.seen.left} left, {follower} there: {there}")

    def promised_group(self, group: str) -> None:
        """G1: a group that a client was told is stored, is."""
        if group not in self.groups:
            raise Violation("G1 whole or not at all", f"nothing tells of {group}, which was stored")

    # -- bursts --------------------------------------------------------------------------------------------------------

    def jobs_of(self, key: str) -> list[str]:
        """The jobs of a burst that have not ended."""
        found = [each for each in self.records.values() if not each.state.final]
        return [each.id for each in found if life_of(each.spec.payload.text or "").startswith(f"{key}~")]

    def _debounced(self, life: str, before: JobRecord | None, after: JobRecord) -> None:
        key = life.partition("~")[0]
        was = life_of(before.spec.payload.text or "") if before is not None else ""
        if life != was:
            self._written[key].append(life)
        if life != was and before is not None and after.state is JobState.scheduled:
            if (after.due_at or 0.0) < (before.due_at or 0.0):
                raise Violation("D3 the latest instant", f"{after.id} was due {before.due_at}, now {after.due_at}")
        if after.state is JobState.scheduled:
            self.one_takes_submissions(key, after.id)

    def one_takes_submissions(self, key: str, job_id: str) -> None:
        """D1: of the jobs of a key one at most waits for its time."""
        other = self.records.get(self._waiting.get(key, ""))
        if other is not None and other.id != job_id and other.state is JobState.scheduled:
            raise Violation("D1 one job", f"{other.id} and {job_id} both wait")
        self._waiting[key] = job_id

    def what_was_submitted_runs(self, life: str) -> None:
        """D2: what a client was told is stored has run, or something that was submitted later."""
        order = self._written[life.partition("~")[0]]
        if life not in order or not self._ran.intersection(order[order.index(life) :]):
            raise Violation("D2 runs once", f"neither {life} nor anything later has run: {order}")

    # -- at rest -------------------------------------------------------------------------------------------------------

    def unfinished(self) -> str:
        if self._open_groups:
            return f"groups that have not finished: {sorted(self._open_groups)}"
        return super().unfinished()

    def at_rest(self) -> None:
        super().at_rest()
        for life in self.told:
            if life.partition("~")[0] not in self.sim.ended_by_clients:
                self.what_was_submitted_runs(life)
