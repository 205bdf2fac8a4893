"""The version of this installation."""

from __future__ import annotations


def version() -> str:
    """The installed version, looked up when it is asked for: that takes a while."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("turnout")
    except PackageNotFoundError:
        return "0+unknown"
