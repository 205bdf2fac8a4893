"""What the careless workflows call of a module that lies beside theirs."""

from __future__ import annotations

from os import getenv


def home() -> str | None:
    return getenv("HOME")
