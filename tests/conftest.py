"""Hypothesis without a clock: how long an example takes on a busy machine is no property of the code."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("turnout", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("turnout")
