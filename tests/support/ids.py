"""Names of a test's cases that are the same in every process."""

from __future__ import annotations

import re


def settled(value: object) -> str:
    """A value as text, without the addresses of what is in it."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
