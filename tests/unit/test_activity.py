"""`@activity` and its options: what is refused at definition, and what a definition gives."""

from __future__ import annotations

import asyncio
import inspect
import math
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from turnout.core.record import Policy
from turnout.core.retry import RetryPolicy
from turnout.core.spec import SubmitOptions
from turnout.definition import Activity, activity, activity_ref
from turnout.definition.activity import NamedActivity
from turnout.definition.workflow import NamedWorkflow, workflow_ref
from turnout.errors import DefinitionError, InvalidArguments, InvalidValue, TurnoutError
from turnout.testing import ActivityEnvironment
from turnout.worker.context import current_job


@activity
async def convert(path: str, format: str = "webm") -> int:
    """Convert a video."""
    return len(path) + len(format)


@activity(name="sums", timeout=timedelta(minutes=1), run_in="process", concurrency=2)
def add(a: int, b: int = 2) -> int:
    return a + b


def name_of(function: Any) -> str:
    return str(function.__name__)


async def test_an_activity_is_still_the_function() -> None:
    """Calling an activity calls its function, with its own signature, name and docstring."""
    assert await convert("a", format="b") == 2
    assert add(1) == 3
    assert (name_of(convert), convert.__doc__, convert.doc) == ("convert", "Convert a video.", "Convert a video.")
    assert asyncio.iscoroutinefunction(convert.fn)


def test_the_name_defaults_to_the_functions() -> None:
    """An activity is named by its function unless `name` says otherwise."""
    assert (convert.name, add.name) == ("convert", "sums")


def test_sync_functions_run_in_threads_unless_told() -> None:
    """An async function has no place of its own; a sync one runs in a thread or where it says."""

    @activity
    def plain() -> None: ...

    assert (convert.is_async, convert.settings.run_in) == (True, None)
    assert (plain.is_async, plain.settings.run_in) == (False, "thread")
    assert add.settings.run_in == "process"


def test_durations_are_seconds_and_defaults_are_documented() -> None:
    """Options are kept as float seconds; what is not given has the documented default."""
    assert add.settings.timeout == 60.0
    assert convert.settings.rules == Policy(retry=RetryPolicy(), max_lost=3, lease=30.0)
    assert (convert.settings.timeout, convert.settings.heartbeat_timeout) == (None, None)
    assert (convert.settings.concurrency, convert.settings.global_concurrency) == (None, None)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "a.b"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "1"}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": timedelta(0)}, "timeout"),
        ({"heartbeat_timeout": 0}, "heartbeat_timeout"),
        ({"heartbeat_timeout": True}, "heartbeat_timeout"),
        ({"lease": 0.5}, "lease"),
        ({"lease": 1801}, "lease"),
        ({"lease": None}, "lease"),
        ({"max_lost": -1}, "max_lost"),
        ({"max_lost": 1.0}, "max_lost"),
        ({"max_lost": None}, "max_lost"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": "2"}, "concurrency"),
        ({"global_concurrency": 0}, "global_concurrency"),
        ({"global_concurrency": True}, "global_concurrency"),
        ({"retry": 3}, "retry"),
        ({"run_in": "fiber"}, "run_in"),
    ],
)
def test_a_bad_option_is_refused_where_it_is_written(options: dict[str, Any], named: str) -> None:
    """A bad value raises a ValueError that names the option, at the decorator, before there is a function."""
    with pytest.raises(ValueError, match=named) as caught:
        activity(**options)
    assert isinstance(caught.value, TurnoutError)


def test_an_unknown_option_is_refused_by_name() -> None:
    """An option that does not exist is a TypeError that names it and lists those that do."""
    with pytest.raises(TypeError, match=r"timeot.*timeout"):
        activity(timeot=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"pathh.*expires_in"):
        convert.options(pathh=3)  # type: ignore[call-arg]


def _generator() -> Any:
    yield 1


async def _async_generator() -> Any:
    yield 1


def _stars(*paths: str) -> None: ...


def _more(**rest: str) -> None: ...


@pytest.mark.parametrize("thing", [_generator, _async_generator, _stars, _more, 5, "name", object(), int, convert])
def test_what_cannot_be_an_activity_is_refused(thing: Any) -> None:
    """Generators, open-ended signatures, classes, and things that are no function are a TypeError at definition."""
    with pytest.raises(DefinitionError):
        activity(thing)


def test_a_lambda_needs_a_name() -> None:
    """A function whose name is no valid token must be given one."""
    with pytest.raises(InvalidValue, match="name"):
        activity(lambda: None)
    assert activity(name="fine")(lambda: None).name == "fine"


def test_an_async_function_runs_on_the_loop_only() -> None:
    """`run_in` on an async function is refused: it would not be obeyed."""

    async def job() -> None: ...

    with pytest.raises(DefinitionError, match="run_in"):
        activity(run_in="process")(job)


# -- options of one submission


def test_options_make_a_copy_for_one_submission() -> None:
    """`.options(...)` leaves the activity as it was, and shares its definition."""
    special = convert.options(id="a", labels={"k": "v"})
    assert isinstance(special, Activity)
    assert (special.fn, special.codec, special.settings) == (convert.fn, convert.codec, convert.settings)
    assert (special.submission.id, convert.submission.id) == ("a", None)
    assert name_of(special) == "convert"


def test_options_add_up() -> None:
    """A later `.options(...)` changes what it names and keeps the rest."""
    special = convert.options(id="a", delay=5).options(delay=timedelta(seconds=7), timeout=1)
    assert (special.submission.id, special.submission.delay, special.submission.timeout) == ("a", 7.0, 1.0)


def test_an_instant_is_kept_as_unix_seconds() -> None:
    """`at` means the same instant in every time zone."""
    here = datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert convert.options(at=here).submission.at_s == datetime(2030, 1, 1, tzinfo=UTC).timestamp()


def test_the_recorded_part_travels() -> None:
    """What a record keeps of a submission is its timeout, policy, deadline and labels."""
    policy = RetryPolicy.none()
    chosen = convert.options(timeout=5, retry=policy, expires_in=60, labels={"a": "b"}).submission
    assert chosen.recorded == SubmitOptions(timeout=5.0, retry=policy, expires_in=60.0, labels={"a": "b"})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"id": "a b"}, "id"),
        ({"id": ""}, "id"),
        ({"id": 5}, "id"),
        ({"id": "12-abcdefghi0"}, "id"),
        ({"if_exists": "maybe"}, "if_exists"),
        ({"if_exists": None}, "if_exists"),
        ({"delay": -1}, "delay"),
        ({"delay": "1"}, "delay"),
        ({"at": datetime(2030, 1, 1)}, "at"),  # noqa: DTZ001
        ({"at": 1e9}, "at"),
        ({"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)}, "delay and at"),
        ({"timeout": 0}, "timeout"),
        ({"retry": 3}, "retry"),
        ({"expires_in": 0}, "expires_in"),
        ({"labels": ["a"]}, "labels"),
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": {1: "a"}}, "labels"),
        ({"labels": {"": "a"}}, "labels"),
        ({"labels": {"a": "b\r\nNats-Rollup: all"}}, "labels"),
        ({"labels": {"a": "x" * 257}}, "labels"),
        ({"labels": {str(n): "" for n in range(33)}}, "labels"),
    ],
)
def test_a_bad_submission_option_is_refused(options: dict[str, Any], named: str) -> None:
    """A bad value in `.options(...)` raises a ValueError that names the option, for a reference by name as well."""
    with pytest.raises(ValueError, match=named):
        convert.options(**options)
    with pytest.raises(InvalidValue, match=named):
        activity_ref("elsewhere").options(**options)


def test_delay_and_at_exclude_each_other_over_two_calls() -> None:
    """A delay and an instant that come by separate calls are refused as well; None takes one back."""
    later = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidValue, match="delay and at"):
        convert.options(delay=1).options(at=later)
    assert convert.options(delay=1).options(at=later, delay=None).submission.delay is None


def test_a_reference_needs_a_valid_name() -> None:
    """An activity by name is checked like one that is defined."""
    assert activity_ref("a").options(id="x").submission.id == "x"
    with pytest.raises(InvalidValue, match="name"):
        activity_ref("a.b")


@pytest.mark.parametrize("known", [activity_ref("elsewhere"), workflow_ref("elsewhere")])
def test_what_is_known_by_its_name_alone_has_no_code_to_call(known: NamedActivity | NamedWorkflow) -> None:
    """Outside of a workflow, calling it says that a client is what takes it."""
    with pytest.raises(DefinitionError, match=r"known by its name alone here: (submit|start) it with a client"):
        _ = known()


def test_bind_takes_every_parameter_name() -> None:
    """A user's parameter may be called self, activity, fn or args; the payload has it by its name."""

    @activity
    def odd(self: int, activity: int, fn: int, args: int) -> None: ...

    assert odd.bind(1, 2, fn=3, args=4) == '{"self":1,"activity":2,"fn":3,"args":4}'
    assert odd.bind(self=1, activity=2, fn=3, args=4) == '{"self":1,"activity":2,"fn":3,"args":4}'
    with pytest.raises(InvalidArguments, match="activity"):
        odd.bind(1)  # type: ignore[call-arg]


# -- what may be decorated


class Shop:
    """Functions of every kind that a class can hold."""

    def __init__(self, name: str = "shop") -> None:
        self.name = name

    def sell(self, what: str) -> str:
        return f"{self.name} sells {what}"

    @activity
    @staticmethod
    async def open(hour: int) -> int:
        return hour

    @staticmethod
    @activity(name="close_shop")
    def close(hour: int) -> int:
        return hour + 1


async def test_a_static_method_is_a_function() -> None:
    """In either order of the decorators, async code and plain: it is run where its kind of function is."""
    assert (Shop.open.is_async, Shop.open.bind(8)) == (True, '{"hour":8}')
    assert await Shop.open(8) == 8
    assert (Shop.close.is_async, Shop.close.bind(8), Shop.close(8)) == (False, '{"hour":8}', 9)


def test_a_method_is_refused_and_one_of_an_object_is_not() -> None:
    """A job has no `self`: said where it is decorated, with what to write instead."""
    with pytest.raises(DefinitionError, match=r"Shop\.sell is a method.*staticmethod"):
        activity(Shop.sell)
    thing: Any = classmethod(lambda cls: None)
    with pytest.raises(DefinitionError, match="takes a function"):
        activity(thing)
    bound = activity(Shop("baker").sell)
    assert bound.bind("bread") == '{"what":"bread"}'
    assert bound("bread") == "baker sells bread"


def test_an_activity_can_be_pickled_and_passes_for_its_function() -> None:
    """A process pool takes it by its name, options go along, and a framework sees that it is async."""
    assert pickle.loads(pickle.dumps(add)) is add
    again = pickle.loads(pickle.dumps(add.options(id="a", labels={"k": "v"})))
    assert (again.submission, again.fn) == (add.options(id="a", labels={"k": "v"}).submission, add.fn)
    assert inspect.iscoroutinefunction(convert)
    assert asyncio.iscoroutinefunction(convert)
    assert not inspect.iscoroutinefunction(add)
    assert list(inspect.signature(convert).parameters) == ["path", "format"]


@activity
def first(items: list[int]) -> int:
    return next(iter(items))


async def test_the_environment_tells_a_stopiteration() -> None:
    """Code that raises one in a thread ends, as it does in a worker; Python makes another error of it."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        await ActivityEnvironment().run(first, [])


@activity
async def report(done: Any, total: Any = None) -> None:
    current_job().progress(done, total)


@pytest.mark.parametrize(
    ("done", "total"), [(10**400, None), (1, -(10**400)), (math.nan, None), (1, math.inf), ("1", 2)]
)
async def test_progress_that_no_record_can_keep_is_refused(done: Any, total: Any) -> None:
    """A number that is none, or beyond every double, raises where it is reported, by the name of the argument."""
    fn = report.fn
    env = ActivityEnvironment()

    @activity(name="reporting")
    async def code() -> None:
        await fn(done, total)

    with pytest.raises(InvalidValue, match=r"progress (done|total) must be a finite number"):
        await env.run(code)
    assert env.progress == []


def test_options_of_a_submission_count_whenever_they_are_asked_for() -> None:
    """What travels with a job is worked out once, and anew for other options."""

    @activity
    def convert() -> None: ...

    assert convert.recorded.timeout is None
    assert convert.options(timeout=5).recorded.timeout == 5
    assert convert.options(timeout=5).options(timeout=6).recorded.timeout == 6
