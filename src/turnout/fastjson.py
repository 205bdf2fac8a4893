"""JSON bytes, by orjson where it is installed (the `speed` extra) and by the standard library elsewhere.

Both are compact and UTF-8; both refuse what JSON cannot carry with a `TypeError` or `ValueError`. What they say about
NaN differs (orjson writes null), so a caller who takes values from outside checks for it first.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


dumps: Callable[[Any], bytes] = _dumps
loads: Callable[[bytes | str], Any] = json.loads

try:
    _orjson = importlib.import_module("orjson")
except ImportError:
    pass
else:
    dumps, loads = _orjson.dumps, _orjson.loads
