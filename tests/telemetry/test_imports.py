"""What tracing costs those who do not trace: nothing is imported for it."""

from __future__ import annotations

import subprocess
import sys


def test_no_sdk_is_imported_for_a_program_that_does_not_trace() -> None:
    """Client, worker and command line need the API alone; `turnout.tracing` is what imports the SDK."""
    code = (
        "import sys, turnout; [getattr(turnout, name) for name in turnout.__all__]\n"
        "import turnout.cli.main, turnout.cli.serve, turnout.telemetry.setup\n"
        "turnout.telemetry.setup.set_up('x')()\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry.sdk')]\n"
        "import turnout.tracing\n"
        "assert 'opentelemetry.sdk.trace' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={}, check=False)
    assert done.returncode == 0, done.stderr
