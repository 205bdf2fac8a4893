"""What tells one version of a worker's workflows from another: a hash of their code."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable
from typing import Any

from turnout.definition.workflow import Workflow


def build_of(workflows: Iterable[Workflow[..., Any]]) -> str:
    """The build of a worker that was given none: a hash of the source of its workflows."""
    digest = hashlib.sha256()
    for workflow in sorted(workflows, key=lambda each: each.name):
        code = workflow.fn if workflow.cls is None else workflow.cls
        try:
            source = inspect.getsource(code)
        except (OSError, TypeError):  # what was typed at a prompt has no source
            source = repr(workflow.fn.__code__.co_code)
        digest.update(f"{workflow.name}\0{source}\0".encode())
    return digest.hexdigest()[:12]
