"""`python -m bench.untold worker ...` is `turnout worker ...` without its set-up of telemetry: what does that cost?"""

from __future__ import annotations

import sys
from collections.abc import Callable

from turnout.cli import serve
from turnout.cli.main import main


def _no_set_up(*_: object, **__: object) -> Callable[[], None]:
    return lambda: None


if __name__ == "__main__":
    if not hasattr(serve, "set_up_telemetry"):
        sys.exit("turnout.cli.serve sets telemetry up in another way now: this comparison has to be made anew")
    vars(serve)["set_up_telemetry"] = _no_set_up
    main()
