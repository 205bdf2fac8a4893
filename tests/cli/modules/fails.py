"""A module that can't be imported."""

raise RuntimeError("the database is not configured")
