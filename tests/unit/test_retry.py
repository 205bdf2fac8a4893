"""The retry policy: how long to wait before the next attempt, and when to give up."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.core.retry import RetryPolicy, mro_names, qualified, seconds
from turnout.errors import CompleteLater, Fatal, InvalidValue, RetryLater, Snooze

ANY = ("builtins.Exception",)
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 2000),
    delay=st.floats(0, 1e6, allow_subnormal=False),
    factor=st.floats(1, 1000),
    max_delay=st.floats(0, 1e6, allow_subnormal=False),
    jitter=st.floats(0, 1),
)


def test_the_default_policy_is_three_attempts() -> None:
    """Without options a job gets three attempts, after waits of one and two seconds."""
    policy = RetryPolicy()
    assert [policy.next_delay(failures=n, error_mro=ANY, u=0.5) for n in (1, 2, 3)] == [1.0, 2.0, None]


def test_the_wait_grows_by_the_factor_up_to_the_maximum() -> None:
    """Before attempt n+1 it waits min(delay * factor^(n-1), max_delay)."""
    policy = RetryPolicy(max_attempts=9, delay=2, factor=3, max_delay=20, jitter=0)
    assert [policy.delay_after(n, 0.3) for n in (1, 2, 3, 4)] == [2, 6, 18, 20]


@given(policies, st.integers(1, 2000), st.floats(0, 1, exclude_max=True))
def test_a_wait_stays_within_its_jitter(policy: RetryPolicy, failures: int, u: float) -> None:
    """For every policy the wait is finite, not negative, and off its base by at most the jitter fraction."""
    base = RetryPolicy(
        max_attempts=policy.max_attempts,
        delay=policy.delay,
        factor=policy.factor,
        max_delay=policy.max_delay,
        jitter=0,
    ).delay_after(failures, 0.0)
    wait = policy.delay_after(failures, u)
    assert math.isfinite(wait)
    assert wait >= 0
    assert abs(wait - base) <= base * policy.jitter + 1e-9 * base
    assert base <= policy.max_delay


@given(policies, st.integers(1, 3000))
def test_attempts_never_exceed_the_budget(policy: RetryPolicy, failures: int) -> None:
    """A wait is given for fewer failures than max_attempts, and for no other number."""
    assert (policy.next_delay(failures=failures, error_mro=ANY, u=0.5) is not None) == (failures < policy.max_attempts)


def test_delays_are_taken_from_the_list_in_order() -> None:
    """`delays` gives each wait, and one attempt more than it has entries."""
    policy = RetryPolicy(delays=[1, timedelta(seconds=5)], jitter=0)
    assert policy.max_attempts == 3
    assert [policy.next_delay(failures=n, error_mro=ANY, u=0.5) for n in (1, 2, 3)] == [1.0, 5.0, None]


def test_none_reports_the_first_failure() -> None:
    """`RetryPolicy.none()` gives up after the first failure."""
    assert RetryPolicy.none().next_delay(failures=1, error_mro=ANY, u=0.5) is None


@pytest.mark.parametrize(
    ("policy", "error", "retried"),
    [
        (RetryPolicy(), ValueError(), True),
        (RetryPolicy(), KeyboardInterrupt(), False),
        (RetryPolicy(retry_on=OSError), TimeoutError(), True),
        (RetryPolicy(retry_on=(OSError,)), ValueError(), False),
        (RetryPolicy(retry_on="OSError"), ConnectionResetError(), True),
        (RetryPolicy(retry_on=("turnout.errors.RetryLater",)), RetryLater(1), True),
        (RetryPolicy(never_on=(Fatal,)), Fatal("no"), False),
        (RetryPolicy(never_on=ValueError), UnicodeError(), False),
    ],
)
def test_exceptions_match_over_their_bases(policy: RetryPolicy, error: BaseException, retried: bool) -> None:
    """An exception is retried when a class of its MRO is in retry_on and none is in never_on."""
    assert policy.matches(mro_names(error)) is retried


def test_class_names_are_qualified() -> None:
    """A policy that travels names classes by module and qualified name, so nothing needs to be imported."""
    assert RetryPolicy(retry_on=(Fatal, "OSError")).retry_on == ("turnout.errors.Fatal", "builtins.OSError")
    assert qualified(Fatal) == "turnout.errors.Fatal"
    assert mro_names(Fatal("x"))[0] == "turnout.errors.Fatal"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"max_attempts": 1.5}, "max_attempts"),
        ({"delay": -1}, "delay"),
        ({"delay": "1"}, "delay"),
        ({"delay": math.nan}, "delay"),
        ({"max_delay": math.inf}, "max_delay"),
        ({"factor": 0.5}, "factor"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": None}, "jitter"),
        ({"retry_on": 3}, "retry_on"),
        ({"never_on": (int,)}, "never_on"),
        ({"delays": [1], "max_attempts": 4}, "delays"),
        ({"delays": [-1]}, "delays"),
    ],
)
def test_a_bad_value_is_named(options: dict[str, Any], named: str) -> None:
    """A policy with a bad value cannot be made, and the error names the option."""
    with pytest.raises(InvalidValue, match=named):
        RetryPolicy(**options)


@given(st.floats(0, 1e6))
def test_seconds_are_the_same_as_a_timedelta(value: float) -> None:
    """A duration means the same as a number of seconds and as a timedelta, to its microsecond."""
    assert math.isclose(seconds(timedelta(seconds=value), "x"), seconds(value, "x"), abs_tol=1e-6)


SCRIPT = """
from turnout.core.retry import RetryPolicy, mro_names

class RateLimited(Exception):
    pass

if __name__ == "__main__":
    print(RetryPolicy(retry_on=(RateLimited,), never_on=("__main__.RateLimited", "OSError")))
"""


@pytest.mark.parametrize("how", [["rates.py"], ["-m", "rates"], ["./rates.py"]])
def test_a_policy_of_a_script_names_its_classes_as_a_worker_does(tmp_path: Path, how: list[str]) -> None:
    """A class of the module that is run goes by the module's own name, which is how a worker imports it."""
    (tmp_path / "rates.py").write_text(SCRIPT)

    def python(*args: str) -> str:
        done = subprocess.run([sys.executable, *args], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    policy = python(*how)
    assert "retry_on=('rates.RateLimited',)" in policy
    assert "never_on=('rates.RateLimited', 'builtins.OSError')" in policy
    worker = "import rates; from turnout.core.retry import mro_names; print(mro_names(rates.RateLimited())[0])"
    assert python("-c", worker).strip() == "rates.RateLimited"


@pytest.mark.parametrize(
    ("main", "name"),
    [
        ({"__spec__": SimpleNamespace(name="shop.orders")}, "shop.orders.Refused"),
        ({"__spec__": None, "__file__": "/srv/shop/orders.py"}, "orders.Refused"),
        ({"__spec__": None}, "__main__.Refused"),
        (None, "__main__.Refused"),
    ],
    ids=["module", "script", "prompt", "nothing"],
)
def test_a_class_of_the_program_goes_by_the_name_that_others_import_it_by(
    main: dict[str, Any] | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m shop.orders` and `python orders.py`; what is typed at a prompt has no other name."""
    if main is None:
        monkeypatch.delitem(sys.modules, "__main__")
    else:
        module = ModuleType("__main__")
        vars(module).update(main)
        monkeypatch.setitem(sys.modules, "__main__", module)
    assert qualified(type("Refused", (Exception,), {"__module__": "__main__"})) == name


@pytest.mark.parametrize("delay", [-1, float("nan"), "5", None, True, timedelta(days=5000)])
@pytest.mark.parametrize(
    ("raised", "named"),
    [(RetryLater, "RetryLater: delay"), (Snooze, "Snooze: delay"), (CompleteLater, "CompleteLater: timeout")],
)
def test_what_is_raised_with_a_bad_time_says_so(raised: Any, named: str, delay: Any) -> None:
    """It names the argument, whatever was given instead of seconds."""
    if raised is CompleteLater and delay is None:
        assert CompleteLater(None).timeout_s is None
        return
    with pytest.raises(InvalidValue, match=f"^{named} must be"):
        raised(delay)
