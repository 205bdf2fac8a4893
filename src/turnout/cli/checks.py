"""What `turnout doctor` says of one thing that it has looked at."""

from __future__ import annotations

from typing import Literal

import attrs

Verdict = Literal["ok", "note", "wrong"]


@attrs.frozen
class Check:
    """One thing that was looked at. `remedy`: what to do, if anything."""

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""
