"""What is spelt once for all spans is what the library spells for each."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common import _internal
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from turnout.telemetry.exporters import TRACES
from turnout.telemetry.spelling import LONGEST, REMEMBERED

KEYS = st.sampled_from(["a", "b", "turnout.job.id"])
SCALARS = st.one_of(
    st.sampled_from([0, 1, -1, True, False, 0.0, 1.0, -0.0, "", "1", "True", "x" * LONGEST, "x" * (LONGEST + 1)]),
    st.text(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(KEYS, SCALARS, max_size=2), st.binary())


def spans(attributes: list[dict[str, Any]]) -> list[ReadableSpan]:
    context = SpanContext(1, 2, is_remote=False)
    scope = InstrumentationScope("turnout")
    return [ReadableSpan("run x", context, attributes=each, instrumentation_scope=scope) for each in attributes]


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> SpanExporter:
    """An OTLP exporter as a worker has it; what it changes in the library is put back."""
    monkeypatch.setattr(_internal, "_encode_key_value", _internal._encode_key_value)
    (made,) = TRACES.made("otlp")
    assert isinstance(made, SpanExporter)
    return made


def test_the_library_spells_the_same_with_it(exporter: SpanExporter) -> None:
    """Byte for byte, be the attributes alike or not, and of whatever kind."""
    remembering = _internal._encode_key_value
    plain = inspect.unwrap(remembering)

    @settings(max_examples=200)
    @given(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=5))
    def the_same(attributes: list[dict[str, Any]]) -> None:
        spelt = []
        for function in (plain, remembering, remembering):
            vars(_internal)["_encode_key_value"] = function
            spelt.append(encode_spans(spans(attributes)).SerializeToString(deterministic=True))
        assert spelt[0] == spelt[1] == spelt[2]

    the_same()


def test_an_attribute_is_spelt_once(exporter: SpanExporter) -> None:
    """However many spans have it, and whatever else comes in between; a long text is let go."""
    spell = _internal._encode_key_value
    text = "".join(["no", "op"])
    assert spell("turnout.job.activity", text) is spell("turnout.job.activity", "noop")
    assert spell("turnout.job.attempt", 1) is spell("turnout.job.attempt", 1)
    assert spell("exception.stacktrace", "x" * (LONGEST + 1)) is not spell("exception.stacktrace", "x" * (LONGEST + 1))
    first = spell("turnout.job.id", "first")
    for n in range(REMEMBERED):
        spell("turnout.job.id", f"job-{n}")
    assert spell("turnout.job.id", "first") is not first


def test_it_is_done_once(exporter: SpanExporter) -> None:
    """A second exporter, of metrics say, finds it done."""
    before = _internal._encode_key_value
    list(TRACES.made("otlp"))
    assert _internal._encode_key_value is before


def test_a_release_that_spells_elsewhere_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs more there, and nothing else."""
    monkeypatch.delattr(_internal, "_encode_key_value")
    assert len(list(TRACES.made("otlp"))) == 1
    assert not hasattr(_internal, "_encode_key_value")
