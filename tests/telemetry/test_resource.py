"""What sends: the same resource as the SDK makes, at less cost."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.resources import SERVICE_NAME, Resource

from turnout.telemetry.exporters import resource


def test_it_is_the_sdks_resource_but_for_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to the SDK's and found under it in a dictionary; its JSON is made once, not for each span."""
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    ours, theirs = resource("turnout-worker"), Resource.create({SERVICE_NAME: "turnout-worker"})
    assert ours == theirs
    assert {theirs: "found"}[ours] == "found"
    monkeypatch.setattr("opentelemetry.sdk.resources.dumps", None)
    assert hash(ours) == hash(ours)
    with pytest.raises(TypeError):
        hash(theirs)


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs it knows better."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "billing")
    assert resource("turnout-worker").attributes[SERVICE_NAME] == "billing"
