"""What is to happen in one simulated history; with its seed it determines every step.

A plan has a text form, printed with every failure and read by `pytest tests/sim --sim-plan=...`:

    seed=7;jobs=plain:FKC,bare:C;crash=3+9;faults=freeze@4.0:9.0:1;acts=cancel@2.5:0;deliver=5
"""

from __future__ import annotations

import random
from typing import Any

import attrs

LETTERS = "CWPFXLTNKZDSI"
"""What an attempt's code does: Complete, Work for three leases, Progress and checkpoint, Fail, be fatal (X), retry
Later, Time out, fail with what is Not retried, take its node with it (K), be fro(Z)en, be cut off (D), Stop its node,
Ignore a cancel."""

KINDS = ("plain", "delayed", "expiring", "bare")
FAULTS = ("freeze", "cut", "crash", "stop", "server", "kill", "early", "lossy", "sup")
ACTS = ("cancel", "retry", "delete", "submit", "beside")
REPLACE = "replace"
"""What a client does as well, but not in the random plans: what they are follows from their seeds."""

RANKS = {"first": 1, "last": 5}
"""Likewise: jobs of such a kind have this priority, and a client gives it to them."""

UNBEGUN = "unbegun"
"""Likewise: a client deletes the job, if nobody has begun it."""

PAUSE = "pause"
"""Likewise: for `PAUSED_S` it is on record that the activity is paused, of which no consumer knows here."""
PAUSED_S = 5.0


@attrs.frozen
class Fault:
    """`kind` at `at` seconds, for `length` seconds, on node number `who`. `pass`: time passes."""

    kind: str
    at: float
    length: float = 0.0
    who: int = 0


@attrs.frozen
class Act:
    """A client does `kind` to job number `job` at `at` seconds."""

    kind: str
    at: float
    job: int = 0


@attrs.frozen
class Plan:
    seed: int = 0
    jobs: tuple[tuple[str, str], ...] = (("plain", "C"),)
    crash: tuple[int, ...] = ()
    faults: tuple[Fault, ...] = ()
    acts: tuple[Act, ...] = ()
    deliver: int = 25
    max_lost: int = 2
    nodes: int = 2
    supervisors: int = 1
    everywhere: bool = False
    """Whether the history is to be played once more for each of its effects, with a crash before that one."""

    def __str__(self) -> str:
        fields = [
            f"seed={self.seed}",
            "jobs=" + ",".join(f"{kind}:{script}" for kind, script in self.jobs),
            "crash=" + ("*" if self.everywhere else "+".join(map(str, self.crash))),
            "faults=" + ",".join(f"{f.kind}@{f.at}:{f.length}:{f.who}" for f in self.faults),
            "acts=" + ",".join(f"{a.kind}@{a.at}:{a.job}" for a in self.acts),
            f"deliver={self.deliver}",
            f"max_lost={self.max_lost}",
            f"nodes={self.nodes}",
            f"supervisors={self.supervisors}",
        ]
        return ";".join(fields)

    @classmethod
    def parse(cls, text: str) -> Plan:
        raw = dict(field.split("=", 1) for field in text.split(";") if field)
        values: dict[str, Any] = {k: int(v) for k, v in raw.items() if v.isdigit() and k not in ("jobs", "crash")}
        if raw.get("jobs"):
            values["jobs"] = tuple((job.split(":")[0], job.split(":")[1]) for job in raw["jobs"].split(","))
        if raw.get("crash") == "*":
            values["everywhere"] = True
        elif raw.get("crash"):
            values["crash"] = tuple(int(n) for n in raw["crash"].split("+"))
        if raw.get("faults"):
            values["faults"] = tuple(_fault(text) for text in raw["faults"].split(","))
        if raw.get("acts"):
            values["acts"] = tuple(_act(text) for text in raw["acts"].split(","))
        return cls(**values)

    @classmethod
    def of_seed(cls, seed: int) -> Plan:
        """A random plan; the same for the same seed."""
        dice = random.Random(seed)
        jobs = tuple(
            (dice.choice(KINDS), "".join(dice.choice(LETTERS) for _ in range(dice.randrange(1, 5))))
            for _ in range(dice.choice((1, 1, 2)))
        )
        faults = tuple(
            Fault(dice.choice(FAULTS), round(dice.random() * 25, 2), round(dice.random() * 12, 2), dice.randrange(2))
            for _ in range(dice.randrange(4))
        )
        acts = tuple(
            Act(dice.choice(ACTS), round(dice.random() * 30, 2), dice.randrange(len(jobs)))
            for _ in range(dice.randrange(3))
        )
        crash = tuple(sorted(dice.sample(range(1, 30), dice.randrange(3))))
        deliver, supervisors = dice.choice((3, 5, 25)), dice.choice((1, 2))
        return cls(seed, jobs, crash, faults, acts, deliver=deliver, supervisors=supervisors)


def _fault(text: str) -> Fault:
    kind, _, rest = text.partition("@")
    at, length, who = rest.split(":")
    return Fault(kind, float(at), float(length), int(who))


def _act(text: str) -> Act:
    kind, _, rest = text.partition("@")
    at, job = rest.split(":")
    return Act(kind, float(at), int(job))
