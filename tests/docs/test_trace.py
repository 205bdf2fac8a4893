"""docs/howto/debug-with-jaeger.md shows a run that there was; nothing in it was drawn or typed by hand."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from docs.draw_trace import DOCUMENT, KEPT, PICTURE, Picture, draw, renewed


def test_the_picture_is_that_of_the_kept_spans() -> None:
    """The drawing and the quoted output are what docs/draw_trace.py makes of the spans in docs/images/trace.json."""
    picture = Picture.load(KEPT)
    assert draw(picture) == PICTURE.read_text(), "run: python -m docs.draw_trace --again"
    assert renewed(DOCUMENT.read_text(), picture) == DOCUMENT.read_text()


def test_every_span_is_drawn() -> None:
    """Well-formed, a bar and a name for each span, an arrow for each link of an attempt, and no colour but in CSS."""
    picture = Picture.load(KEPT)
    svg = ElementTree.fromstring(PICTURE.read_text())
    titles = [each.text or "" for each in svg.iterfind(".//{*}rect/{*}title")]
    assert sorted(title.partition(" (")[0] for title in titles) == sorted(span.name for span in picture.spans)
    attempts = [span for span in picture.spans if span.kind == "CONSUMER"]
    arrows = [each for each in svg.iterfind(".//{*}path") if each.get("class") == "link"]
    assert len(arrows) == sum(len(span.links) for span in attempts) + 1  # and one in the legend
    assert not re.findall(r'(?:fill|stroke)="#', PICTURE.read_text()), "colours depend on light and dark"


def test_the_story_is_the_whole_one() -> None:
    """Failed, lost, and completed on another node, told by spans of the kinds that the document explains."""
    attempts = [span for span in Picture.load(KEPT).spans if span.kind == "CONSUMER"]
    outcomes = [span.attributes["turnout.attempt.outcome"] for span in attempts]
    assert outcomes == ["faulted", "lost", "completed"]
    assert attempts[1].attributes["turnout.node.id"] != attempts[2].attributes["turnout.node.id"]


def test_what_the_document_names_is_sent() -> None:
    """Attributes, events and kinds that the document tells of for this run are in its spans."""
    spans = Picture.load(KEPT).spans
    sent = {name for span in spans for name in span.attributes} | {span.kind for span in spans}
    sent |= {event.name for span in spans for event in span.events} | {span.name for span in spans}
    sent |= {name for span in spans for event in span.events for name in event.attributes}
    text = DOCUMENT.read_text()
    words = re.findall(r"`(turnout\.[a-z_.]+|error\.type)", text) + re.findall(r"\| `([a-z ]+)` \|", text)
    words += re.findall(r"\| ([A-Z]{6,}) \|", text) + ["exception", "retry", "progress", "checkpoint", "log"]
    elsewhere = {"turnout.link", "turnout.tracing"}  # of replays; a module
    elsewhere |= {"turnout.workflow.id", "turnout.workflow.answer"}  # of workflows, and of what they are asked
    assert len(set(words)) >= 18
    assert set(words) - sent <= elsewhere
