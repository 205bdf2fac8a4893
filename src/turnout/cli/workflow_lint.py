"""What code of a workflow must not do, and no guard can stop: found by reading it.

The code is that of the workflows, of their classes' methods, and of the functions of the same package that they call.
Names are resolved as Python would, in the module's globals, so `from datetime import datetime as d` hides nothing. A
line that ends in `# turnout: ok` is left alone.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import attrs

from turnout.core.plain import Plain
from turnout.definition.activity import Activity
from turnout.definition.handlers import Handler
from turnout.definition.workflow import RunMethod, Workflow

ALLOWED = "# turnout: ok"

NOW = "use current_workflow().now()"
SLEEP = "await asyncio.sleep(...), which is durable"
CHANCE = "use current_workflow().random"
IDS = "use current_workflow().uuid4()"
OUTSIDE = "do that in an activity"
MACHINE = "pass it as an argument, or read it in an activity: another worker has another"
THREADS = "start tasks with asyncio, or do that in an activity"
ORDER = "sort it first: the order of a set of strings differs from process to process"
HASH = "it differs from process to process: use the value itself"

_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")

CALLS: dict[str, str] = {
    **dict.fromkeys(("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"), NOW),
    "datetime.date.today": NOW,
    **{f"time.{name}": NOW for name in (*_CLOCKS, "localtime", "gmtime", "ctime", "strftime")},
    "time.sleep": SLEEP,
    "os.urandom": IDS,
    "random.SystemRandom": CHANCE,
    "random.Random": CHANCE,
    **dict.fromkeys(("uuid.uuid1", "uuid.uuid4", "uuid.getnode"), IDS),
    **dict.fromkeys(("os.getenv", "os.getpid", "os.cpu_count", "os.uname", "os.getcwd", "os.getlogin"), MACHINE),
    **dict.fromkeys(("socket.gethostname", "socket.getfqdn", "platform.node"), MACHINE),
    **dict.fromkeys(("builtins.input", "io.open", "os.open"), OUTSIDE),
    **dict.fromkeys(("os.listdir", "os.scandir", "os.walk", "os.stat", "os.system", "os.popen"), OUTSIDE),
    **dict.fromkeys(("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"), OUTSIDE),
    **dict.fromkeys(("asyncio.open_connection", "asyncio.start_server"), OUTSIDE),
    "asyncio.to_thread": THREADS,
    **dict.fromkeys(("builtins.hash", "builtins.id"), HASH),
}
"""What must not be called, and what to do instead."""

NAMES = {"os.environ": MACHINE}
"""What must not even be looked at."""

MODULES = {
    "random": CHANCE,
    "secrets": IDS,
    "threading": THREADS,
    "multiprocessing": THREADS,
    "concurrent.futures": THREADS,
    "subprocess": OUTSIDE,
    "socket": OUTSIDE,
    "sqlite3": OUTSIDE,
    "urllib.request": OUTSIDE,
    "http.client": OUTSIDE,
    "requests": OUTSIDE,
    "httpx": OUTSIDE,
    "aiohttp": OUTSIDE,
}
"""Modules nothing of which may be called."""

METHODS = {
    **dict.fromkeys(("read_text", "read_bytes", "write_text", "write_bytes", "iterdir"), OUTSIDE),
    "run_in_executor": THREADS,
}
"""Methods that give themselves away by their name."""

_IN_ORDER = ("builtins.list", "builtins.tuple", "builtins.enumerate", "builtins.iter", "builtins.map", "builtins.zip")


@attrs.frozen(kw_only=True, order=True)
class Finding(Plain):
    """One line that does what workflow code must not."""

    file: str
    line: int
    what: str
    instead: str
    workflow: str

    @property
    def shown(self) -> str:
        return f"{self.file}:{self.line}: {self.what} in workflow {self.workflow}: {self.instead}"


def check(workflows: Iterable[Workflow[..., Any]]) -> list[Finding]:
    """All findings in the code of these workflows, in the order of files and lines; each line once for a thing."""
    found: dict[tuple[str, int, str], Finding] = {}
    for workflow in workflows:
        for function in _functions_of(workflow):
            for finding in _Reader(function, workflow.name).findings():
                found.setdefault((finding.file, finding.line, finding.what), finding)
    return sorted(found.values())


def _functions_of(workflow: Workflow[..., Any]) -> list[FunctionType]:
    """The functions that belong to the workflow, and those of its package that they call, each once."""
    waiting = list(_own(workflow))
    seen: dict[int, FunctionType] = {}
    while waiting:
        function = waiting.pop(0)
        if id(function) not in seen:
            seen[id(function)] = function
            waiting += _Reader(function, workflow.name).called()
    return list(seen.values())


def _own(workflow: Workflow[..., Any]) -> Iterator[FunctionType]:
    if workflow.cls is None:
        yield from _plain(workflow.fn)
        return
    for base in workflow.cls.__mro__[:-1]:
        for value in vars(base).values():
            yield from _plain(value)
            if isinstance(value, Handler):
                yield from _plain(getattr(value, "validate", None))


def _plain(value: object) -> Iterator[FunctionType]:
    """The function in what a class or a module has under some name."""
    if isinstance(value, (RunMethod, Handler)):
        value = value.fn
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, FunctionType):
        yield value


class _Reader:
    """Reads one function."""

    def __init__(self, function: FunctionType, workflow: str) -> None:
        self._function = function
        self._workflow = workflow
        self._file = function.__code__.co_filename
        self._node = _node_of(function)
        self._globals = function.__globals__
        self._imported = _imports_in(self._node)
        self._local = _assigned_in(self._node) - set(self._imported)
        self._sets = _sets_in(self._node)

    # --- what it does -------------------------------------------------------------------------------------------------

    def findings(self) -> Iterator[Finding]:
        for node in _walk(self._node):
            for line, what, instead in self._faults(node):
                if ALLOWED not in linecache.getline(self._file, line):
                    yield Finding(
                        file=_shown(self._file), line=line, what=what, instead=instead, workflow=self._workflow
                    )

    def _faults(self, node: ast.AST) -> Iterator[tuple[int, str, str]]:
        match node:
            case ast.Call():
                yield from self._call(node)
            case ast.Attribute() | ast.Name():
                name = self._name_of(node)
                if name in NAMES:
                    yield node.lineno, name, NAMES[name]
            case ast.For(iter=source) | ast.comprehension(iter=source):
                if self._is_set(source):
                    yield source.lineno, "iteration over a set", ORDER
            case _:
                return

    def _call(self, node: ast.Call) -> Iterator[tuple[int, str, str]]:
        name = self._name_of(node.func)
        shown = f"{name.removeprefix('builtins.').replace('io.open', 'open')}()" if name is not None else ""
        if name is not None and name in CALLS:
            if name != "random.Random" or not node.args:  # with a seed it is as good as a constant
                yield node.lineno, shown, CALLS[name]
        elif name is not None and (module := _module_in(name)) is not None:
            yield node.lineno, shown, MODULES[module]
        elif name is None and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield node.lineno, f".{node.func.attr}()", METHODS[node.func.attr]
        joins = isinstance(node.func, ast.Attribute) and node.func.attr == "join"
        if (name in _IN_ORDER or joins) and any(self._is_set(each) for each in node.args):
            yield node.lineno, "iteration over a set", ORDER

    def _is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call():
                return self._name_of(node.func) in ("builtins.set", "builtins.frozenset")
            case ast.Name(id=name):
                return name in self._sets
            case _:
                return False

    # --- what it calls ------------------------------------------------------------------------------------------------

    def called(self) -> list[FunctionType]:
        """The functions of the same package that it calls."""
        package = str(self._globals.get("__name__", "")).partition(".")[0]
        found: list[FunctionType] = []
        for node in _walk(self._node):
            if isinstance(node, ast.Call):
                value = self._value_of(node.func)
                if isinstance(value, (Workflow, Activity)) or not callable(value):
                    continue
                code = vars(value).get("__init__") if isinstance(value, type) else value
                for function in _plain(code):
                    if function.__module__.partition(".")[0] == package:
                        found.append(function)
        return found

    # --- names --------------------------------------------------------------------------------------------------------

    def _name_of(self, node: ast.expr) -> str | None:
        """The full name of what an expression names, None where that can't be told."""
        value = self._value_of(node)
        if isinstance(node, ast.Attribute) and isinstance(owner := self._value_of(node.value), (ModuleType, type)):
            return f"{_full_name(owner)}.{node.attr}"
        return None if value is None else _full_name(value)

    def _value_of(self, node: ast.expr) -> Any:
        """What an expression of names and dots is, as far as modules and classes go; None where that can't be told."""
        if isinstance(node, ast.Name):
            if node.id in self._imported:
                return self._imported[node.id]
            return None if node.id in self._local else self._globals.get(node.id, getattr(builtins, node.id, None))
        if isinstance(node, ast.Attribute):
            owner = self._value_of(node.value)
            return inspect.getattr_static(owner, node.attr, None) if isinstance(owner, (ModuleType, type)) else None
        return None


def _full_name(value: Any) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    own = getattr(value, "__self__", None)
    if isinstance(own, type):  # a class method, such as datetime.now taken out of its class
        return f"{own.__module__}.{own.__qualname__}.{value.__name__}"
    if type(own).__module__ in ("random", "os"):
        return f"{type(own).__module__}.{getattr(value, '__name__', '')}"
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(name, str) and isinstance(module, str):
        return f"{module}.{name}"
    return "os.environ" if type(value).__qualname__ == "_Environ" else ""


def _module_in(name: str) -> str | None:
    return next((module for module in MODULES if name.startswith(f"{module}.")), None)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """The function's body, with what is defined in it; its decorators and annotations are not its code."""
    body = getattr(node, "body", None)
    for each in body if isinstance(body, list) else [node]:
        yield from ast.walk(each)


def _node_of(function: FunctionType) -> ast.AST:
    """The function in its file; an empty one where there is no source."""
    code = function.__code__
    try:
        tree = ast.parse(Path(code.co_filename).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == code.co_name:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if first == code.co_firstlineno:
                return node
    return ast.Module(body=[], type_ignores=[])


def _imports_in(node: ast.AST) -> Mapping[str, Any]:
    """What is imported within the function: the modules, and what is taken out of them."""
    found: dict[str, Any] = {}
    for each in _walk(node):
        if isinstance(each, ast.Import):
            for alias in each.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or name] = sys.modules.get(name)
        elif isinstance(each, ast.ImportFrom):
            for alias in each.names:
                module = sys.modules.get(each.module or "")
                found[alias.asname or alias.name] = getattr(module, alias.name, None)
    return found


def _assigned_in(node: ast.AST) -> set[str]:
    """The names that are the function's own."""
    names = {each.id for each in _walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        arguments = node.args
        names |= {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    return names


def _sets_in(node: ast.AST) -> set[str]:
    """The names that are given nothing but sets."""
    sets: dict[str, bool] = {}
    for each in _walk(node):
        if isinstance(each, (ast.Assign, ast.AnnAssign)) and each.value is not None:
            value = each.value
            is_set = isinstance(value, (ast.Set, ast.SetComp)) or (
                isinstance(value, ast.Call)
                and isinstance(value.func, ast.Name)
                and value.func.id in ("set", "frozenset")
            )
            for target in each.targets if isinstance(each, ast.Assign) else [each.target]:
                if isinstance(target, ast.Name):
                    sets[target.id] = sets.get(target.id, True) and is_set
    return {name for name, is_set in sets.items() if is_set}


def _shown(file: str) -> str:
    """The file as seen from here."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
