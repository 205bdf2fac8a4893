"""The metrics of this process as Prometheus reads them: a provider of our own, whatever the program has set up.

It is imported where a page is served, and nowhere else: the SDK takes a while, and memory.
"""

from __future__ import annotations

import functools
import threading

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from turnout.telemetry import metrics
from turnout.version import version


class Page:
    """Serves everything that the process counts; there is one for a process, however many workers it has."""

    CONTENT_TYPE = "text/plain; version=0.0.4"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self._registry, disable_target_info=True)
        # Not the global one: that is the program's to choose.
        provider = MeterProvider([reader], resource=Resource.get_empty(), shutdown_on_exit=False)
        metrics.make(provider.get_meter("turnout", version()))
        metrics.listen()

    def text(self) -> str:
        """The page as of now. May be called from any thread, and asks nothing of any event loop."""
        with self._lock:
            return generate_latest(self._registry).decode()


@functools.cache
def page() -> Page:
    """The page of this process; from the first call on everything is counted."""
    return Page()
