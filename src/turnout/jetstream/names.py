"""What everything is called on the server. No user text reaches a subject or a key but as a validated token."""

from __future__ import annotations

import attrs

from turnout.core.values import NAME, valid_name


@attrs.frozen
class Names:
    """The streams, buckets and subjects of one namespace.

    >>> Names("turnout").jobs("convert_video", "a1")
    'turnout.jobs.convert_video.a1'
    """

    ns: str = attrs.field(default="turnout")

    @ns.validator
    def _check(self, _: object, value: str) -> None:
        valid_name(value, "namespace")

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
    def logs(self) -> str:
        return f"{self.ns}_logs"

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

    def bare(self, activity: str) -> str:
        """Where `nats pub` submits."""
        return f"{self.ns}.jobs.{activity}"

    def jobs(self, activity: str, job_id: str) -> str:
        """Where a job with an id lies; `*` for either asks for all."""
        return f"{self.ns}.jobs.{activity}.{job_id}"

    def timer(self, activity: str, job_id: str) -> str:
        return f"{self.ns}.timers.{activity}.{job_id}"

    def fault(self, activity: str, job_id: str, generation: int | str) -> str:
        return f"{self.ns}.faults.{activity}.{job_id}.{generation}"

    def log(self, activity: str, job_id: str) -> str:
        """Where the lines of a job's log lie."""
        return f"{self.ns}.logs.{activity}.{job_id}"

    def control(self, node: str) -> str:
        return f"{self.ns}.control.{node}"

    def record(self, activity: str, job_id: str) -> str:
        """The subject of a job's record in the registry's stream."""
        return f"$KV.{self.ns}_jobs.{activity}.{job_id}"

    def stored(self, activity: str, job_id: str) -> str:
        """Where the server tells of a job's record once it is stored; nothing is kept there."""
        return f"{self.ns}.stored.{activity}.{job_id}"

    def node(self, node: str) -> str:
        return f"$KV.{self.ns}_nodes.{node}"

    def activity(self, activity: str) -> str:
        return f"$KV.{self.ns}_activities.{activity}"

    def job_of(self, subject: str) -> tuple[str, str | None] | None:
        """The activity and the id (None: a bare job) that a subject of the work stream names; None for any other.

        The server stores whatever is published, `*` literally too: what is no id names nothing, like a bare job's
        subject, and never becomes a part of a subject or key of ours.
        """
        parts = subject.split(".")
        if len(parts) not in (3, 4) or parts[1] != "jobs" or parts[0] != self.ns or not NAME.fullmatch(parts[2]):
            return None
        return parts[2], parts[3] if len(parts) == 4 and NAME.fullmatch(parts[3]) else None


def kv_stream(bucket: str) -> str:
    """The stream behind a key-value bucket."""
    return f"KV_{bucket}"
