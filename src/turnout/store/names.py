"""What everything is called on the server. No user text reaches a subject or a key but as a validated token."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

import attrs

from turnout.core.spec import DEFAULT_PRIORITY, EXPRESS, NAME, PRIORITIES, is_express, is_name, priority_of, valid_name
from turnout.core.struct import struct
from turnout.nats.stream import kv_subject

_LANE = re.compile(rf"({NAME.pattern})~(f?)([{PRIORITIES[0]}-{PRIORITIES[-1]}])")


def lane(activity: str, number: int) -> str:
    """The token of a subject, and the name of a consumer, that stands for this lane of the activity.

    >>> lane("convert_video", 3), lane("convert_video", 1), lane("convert_video", 3 + EXPRESS)
    ('convert_video', 'convert_video~1', 'convert_video~f3')
    """
    if is_express(number):
        return f"{activity}~f{priority_of(number)}"
    return activity if number == DEFAULT_PRIORITY else f"{activity}~{number}"


def activity_of(token: str) -> tuple[str, int]:
    """The activity and the number of a lane. What is no lane's token is an activity's name."""
    found = _LANE.fullmatch(token)
    return (token, DEFAULT_PRIORITY) if found is None else (found[1], int(found[3]) + (EXPRESS if found[2] else 0))


@struct
class Place:
    """Where a job lies: of which activity, under which id (None: a bare one), in which lane, or on its way to the nodes
    that fit."""

    activity: str
    id: str | None
    lane: int = DEFAULT_PRIORITY
    routed: bool = False


class Entry(NamedTuple):
    """The hashed key and the lane of a line in which a job waits, and the job."""

    key: str
    priority: int
    activity: str
    id: str


def _token(build: str) -> str:
    return hashlib.sha256(build.encode()).hexdigest()[:16]


def _valid_namespace(_: object, __: object, value: str) -> None:
    valid_name(value, "namespace")


def _begin_of_records(names: Names) -> str:
    return kv_subject(names.jobs_bucket)


@attrs.frozen
class Names:
    """The streams, buckets and subjects of one namespace.

    >>> Names("turnout").jobs("convert_video", "a1")
    'turnout.jobs.convert_video.a1'
    """

    ns: str = attrs.field(default="turnout", validator=_valid_namespace)
    _records: str = attrs.field(
        init=False, repr=False, eq=False, default=attrs.Factory(_begin_of_records, takes_self=True)
    )
    """What the subjects of records begin with: each job needs three of them."""

    @property
    def work(self) -> str:
        return f"{self.ns}_work"

    @property
    def alarms(self) -> str:
        return f"{self.ns}_alarms"

    @property
    def faults(self) -> str:
        return f"{self.ns}_faults"

    @property
    def completions(self) -> str:
        """The stream of what was said from outside by publishing it."""
        return f"{self.ns}_completions"

    @property
    def logs(self) -> str:
        return f"{self.ns}_logs"

    @property
    def limits(self) -> str:
        return f"{self.ns}_limits"

    @property
    def jobs_bucket(self) -> str:
        return f"{self.ns}_jobs"

    @property
    def nodes_bucket(self) -> str:
        return f"{self.ns}_nodes"

    @property
    def activities_bucket(self) -> str:
        return f"{self.ns}_activities"

    @property
    def payloads_bucket(self) -> str:
        return f"{self.ns}_payloads"

    @property
    def all_jobs(self) -> str:
        """Whatever lies where consumers of activities and of their lanes hand it out."""
        return f"{self.ns}.jobs.>"

    def bare(self, activity: str) -> str:
        """Where `nats pub` submits."""
        return f"{self.ns}.jobs.{activity}"

    def jobs(self, activity: str, job_id: str, priority: int = DEFAULT_PRIORITY) -> str:
        """Where a job with an id lies, of this priority; `*` for activity or id asks for all, of any priority for the
        former."""
        return f"{self.ns}.jobs.{lane(activity, priority)}.{job_id}"

    def waiting(self, activity: str, priority: int = DEFAULT_PRIORITY) -> tuple[str, ...]:
        """All the subjects of a lane: bare jobs lie in the default one."""
        named = self.jobs(activity, "*", priority)
        return (self.bare(activity), named) if priority == DEFAULT_PRIORITY else (named,)

    def anywhere(self, job_id: str) -> str:
        """Every subject of the work stream that carries a job of this id, or its timer, whatever its activity."""
        return f"{self.ns}.*.*.{job_id}"

    def timer(self, activity: str, job_id: str) -> str:
        return f"{self.ns}.timers.{activity}.{job_id}"

    def parked(self, key: str, activity: str, job_id: str, priority: int = DEFAULT_PRIORITY) -> str:
        """Where it lies that a job of this priority waits for a place of a limit, whose key is hashed; `*` asks for
        all, of any priority for the key."""
        return f"{self.ns}.parked.{lane(key, priority)}.{activity}.{job_id}"

    def routed(self, route: str, activity: str, job_id: str) -> str:
        """Where a job lies that requires properties of its node, once one without them was handed it; `*` for all."""
        return f"{self.ns}.parked.routes.{route}.{activity}.{job_id}"

    def places(self, key: str) -> str:
        """Where it lies who holds the places of a limit's key, which is hashed."""
        return f"{self.ns}.limits.places.{key}"

    def limit(self, name: str) -> str:
        """Where a limit of this hashed name is kept."""
        return f"{self.ns}.limits.rules.{name}"

    def fault(self, activity: str, job_id: str, generation: int | str) -> str:
        return f"{self.ns}.faults.{activity}.{job_id}.{generation}"

    def log(self, activity: str, job_id: str) -> str:
        """Where the lines of a job's log lie."""
        return f"{self.ns}.logs.{activity}.{job_id}"

    def answer(self, kind: str, job_id: str) -> str:
        """Where `nats pub` completes a job (`complete`), or lets it fail (`fail`)."""
        return f"{self.ns}.{kind}.{job_id}"

    def answer_of(self, subject: str) -> tuple[str, str] | None:
        """The kind of answer and the id that a subject names; None for any other."""
        parts = subject.split(".")
        named = len(parts) == 3 and parts[0] == self.ns and parts[1] in ("complete", "fail")
        return (parts[1], parts[2]) if named and is_name(parts[2]) else None

    def control(self, node: str) -> str:
        return f"{self.ns}.control.{node}"

    def record(self, activity: str, job_id: str) -> str:
        """The subject of a job's record in the registry's stream."""
        return f"{self._records}.{activity}.{job_id}"

    def debounced(self, activity: str, key: str) -> str:
        """The subject of what says which job a hashed key stands for, beside the records: it has a token more."""
        return kv_subject(self.jobs_bucket, "_debounced", activity, key)

    def stored(self, activity: str, job_id: str) -> str:
        """Where the server tells of a job's record once it is stored; nothing is kept there."""
        return f"{self.ns}.stored.{activity}.{job_id}"

    def node(self, node: str) -> str:
        return kv_subject(self.nodes_bucket, node)

    def activity(self, activity: str) -> str:
        return kv_subject(self.activities_bucket, activity)

    # --- workflows ----------------------------------------------------------------------------------------------------

    @property
    def inbox(self) -> str:
        """The stream of what reaches workflows."""
        return f"{self.ns}_inbox"

    @property
    def history(self) -> str:
        """The stream of what workflows have recorded."""
        return f"{self.ns}_history"

    def bare_start(self, workflow: str) -> str:
        """Where `nats pub` starts a workflow."""
        return f"{self.ns}.workflows.{workflow}"

    def input(self, workflow: str, workflow_id: str, kind: str, what: str = "") -> str:
        """Where an input of one workflow lies; `>` for the kind asks for all."""
        subject = f"{self.ns}.workflows.{workflow}.{workflow_id}.{kind}"
        return f"{subject}.{what}" if what else subject

    def workflow_timer(self, workflow: str, workflow_id: str, life: str, run: int | str = "", command: str = "") -> str:
        """Where a pending timer lies; without a command all of the run, without a run all of the life."""
        subject = f"{self.ns}.wftimers.{workflow}.{workflow_id}.{life}"
        if run == "":
            return f"{subject}.>"
        return f"{subject}.{run}.{command or '*'}"

    def records(self, workflow_id: str) -> str:
        """Where the history of a workflow lies, whatever its name (ids are unique)."""
        return f"{self.ns}.history.{workflow_id}"

    def recorded(self, workflow_id: str) -> str:
        """Where the server tells of a workflow's record once it is stored, headers only; nothing is kept there."""
        return f"{self.ns}.recorded.{workflow_id}"

    def query(self, workflow: str, build: str = "") -> str:
        """Where those who can answer queries about workflows of this name listen; or those of one build."""
        subject = f"{self.ns}.query.{workflow}"
        return f"{subject}.{_token(build)}" if build else subject

    def pinned(self, workflow: str, build: str) -> str:
        """Where workers of a build take what others were handed of the runs that are pinned to it."""
        return f"{self.ns}.pinned.{workflow}.{_token(build)}"

    def home(self, node: str) -> str:
        """Where a node takes what others were handed of the workflows that it has in memory."""
        return f"{self.ns}.home.{_token(node)}"

    def input_of(self, subject: str) -> tuple[str, str, str, str] | None:
        """The workflow, id, kind and what that a subject of the inbox names; None for any other.

        A bare start has neither id nor kind.
        """
        parts = subject.split(".", 5)
        if len(parts) < 3 or parts[0] != self.ns or parts[1] != "workflows" or not is_name(parts[2]):
            return None
        if len(parts) == 3:
            return parts[2], "", "", ""
        if len(parts) == 4 or not is_name(parts[3]):
            return None
        return parts[2], parts[3], parts[4], parts[5] if len(parts) == 6 else ""

    # --- settings -----------------------------------------------------------------------------------------------------

    def setting(self, name: str) -> str:
        """The subject of what holds for the whole namespace: a key beside those of activities, which have no dot."""
        return kv_subject(self.activities_bucket, "_settings", name)

    def pause(self, activity: str) -> str:
        """The subject of an activity's pause, which is kept beside its contract; `*` asks for all."""
        return kv_subject(self.activities_bucket, "_paused", activity)

    def opened(self, activity: str, priority: int | str = "*") -> str:
        """The subject under which it is kept that the activity has jobs of this priority; `*` asks for all."""
        return kv_subject(self.activities_bucket, "_lanes", activity, str(priority))

    # --- schedules ----------------------------------------------------------------------------------------------------

    def schedule(self, name: str) -> str:
        """The subject of a schedule's record: a key beside those of activities, which have no dot. `*` asks for all."""
        return kv_subject(self.activities_bucket, "_schedules", name)

    def tick_timer(self, name: str, what: str) -> str:
        """Where the timer of a tick lies until its time: one token more than a delayed job's; `*` for all."""
        return f"{self.ns}.timers._schedules.{name}.{what}"

    def tick(self, name: str, what: str) -> str:
        """Where a tick lies from its time on, for whoever deals with it."""
        return f"{self.ns}.timers._due.{name}.{what}"

    def schedule_of(self, subject: str) -> str | None:
        """The schedule whose tick lies on this subject; None for any other."""
        parts = subject.split(".")
        due = len(parts) == 5 and parts[:3] == [self.ns, "timers", "_due"]
        return parts[3] if due and is_name(parts[3]) else None

    # --- groups -------------------------------------------------------------------------------------------------------

    def group(self, group_id: str) -> str:
        """The subject of a group's record: a key beside those of activities, which have no dot. `*` asks for all."""
        return kv_subject(self.activities_bucket, "_groups", group_id)

    # --- what a subject names -----------------------------------------------------------------------------------------

    def parked_of(self, subject: str) -> Entry | None:
        """What the subject of a parked job names; None for any other."""
        parts = subject.split(".")
        if len(parts) != 5 or parts[:2] != [self.ns, "parked"]:
            return None
        key, priority = activity_of(parts[2])
        if not all(map(is_name, (key, *parts[3:]))):
            return None
        return Entry(key, priority, parts[3], parts[4])

    def is_routed(self, subject: str) -> bool:
        """Whether what lies on this subject is a job on its way to the nodes that fit."""
        return subject.startswith(f"{self.ns}.parked.routes.")

    def job_of(self, subject: str) -> tuple[str, str | None] | None:
        """The activity and the id (None: a bare job) that a subject of the work stream names; None for any other."""
        found = self.place_of(subject)
        return None if found is None else (found.activity, found.id)

    def place_of(self, subject: str) -> Place | None:
        """What a subject of the work stream says of the job that lies there; None for one of no job.

        The server stores whatever is published, `*` literally too: what is no id names nothing, like a bare job's
        subject, and never becomes a part of a subject or key of ours.
        """
        parts = subject.split(".")
        if len(parts) == 6 and self.is_routed(subject):
            return Place(parts[4], parts[5], routed=True) if all(map(is_name, parts[3:])) else None
        if len(parts) not in (3, 4) or parts[1] != "jobs" or parts[0] != self.ns:
            return None
        job_id = parts[3] if len(parts) == 4 and is_name(parts[3]) else None
        if is_name(parts[2]):
            return Place(parts[2], job_id)
        activity, number = activity_of(parts[2])
        return Place(activity, job_id, number) if number != DEFAULT_PRIORITY and job_id is not None else None
