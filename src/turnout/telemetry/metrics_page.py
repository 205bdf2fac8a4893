"""The metrics of this process as Prometheus reads them: a provider of our own, whatever the program has set up.

It is imported where a page is served, and nowhere else: the SDK takes a while, and memory.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from turnout.telemetry import metrics
from turnout.version import version


class MetricsPage:
    """Serves everything that the process counts; there is one for a process, however many workers it has."""

    CONTENT_TYPE = "text/plain; version=0.0.4"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self._registry, disable_target_info=True)
        # Not the global one: that is the program's to choose.
        provider = MeterProvider([reader], resource=Resource.get_empty(), shutdown_on_exit=False)
        metrics.make(provider.get_meter("turnout", version()))
        self._registry.register(_Histograms())
        metrics.listen()

    def text(self) -> str:
        """The page as of now. May be called from any thread, and asks nothing of any event loop."""
        with self._lock:
            return generate_latest(self._registry).decode()


class _Histograms(Collector):
    """The histograms, which are counted without the SDK."""

    def collect(self) -> Iterator[HistogramMetricFamily]:
        for histogram in metrics.HISTOGRAMS:
            metric = histogram.metric
            family = HistogramMetricFamily(
                metric.name.replace(".", "_") + "_seconds", metric.about, labels=metric.labels
            )
            bounds = [*map(str, histogram.bounds_s), "+Inf"]
            for values, (counts, total) in histogram.read().items():
                family.add_metric(values, list(zip(bounds, itertools.accumulate(counts), strict=True)), total)
            yield family


@functools.cache
def page() -> MetricsPage:
    """The page of this process; from the first call on everything is counted."""
    return MetricsPage()
