"""The spans that a job's own code makes carry the job: a search by its id finds them all."""

from __future__ import annotations

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor

from turnout.telemetry import spans
from turnout.telemetry.spans import JOB

CARRIED = (spans.JOB_ID, spans.JOB_ACTIVITY, spans.JOB_ATTEMPT, spans.NODE_ID)
ASKER = (spans.WORKFLOW_ID, spans.WORKFLOW_NAME, spans.WORKFLOW_RUN)


class JobSpans(SpanProcessor):
    """Gives each span that begins inside a job `turnout.job.id`, `.activity`, `.attempt` and `turnout.node.id`;
    of a workflow's activity `turnout.workflow.id`, `.name` and `.run` as well. One that submits another job keeps that
    one's, and one that starts another workflow likewise.

    `turnout worker` has it; a program that sets up its own provider adds it, before the processors that export:

        provider = TracerProvider()
        provider.add_span_processor(JobSpans())
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        # A span with a context of its own was begun inside the job all the same.
        facts = context_api.get_value(JOB, parent_context) or context_api.get_value(JOB)
        if isinstance(facts, dict):
            own = span.attributes or {}  # it may submit another job, or start another workflow
            if spans.JOB_ID not in own:
                span.set_attributes({key: facts[key] for key in CARRIED})
            if spans.WORKFLOW_ID in facts and spans.WORKFLOW_ID not in own:
                span.set_attributes({key: facts[key] for key in ASKER})
