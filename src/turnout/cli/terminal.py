"""What the terminal can show, by the environment: NO_COLOR and TERM."""

from __future__ import annotations

import os


def dumb() -> bool:
    """It can move no cursor: nothing is drawn on it, only lines are printed."""
    return os.environ.get("TERM") == "dumb"


def plain() -> bool:
    """No colours: its reader does not want them, or it can't show them."""
    return bool(os.environ.get("NO_COLOR")) or dumb()
