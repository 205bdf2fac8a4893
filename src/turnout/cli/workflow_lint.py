"""What code of a workflow must not do, and no guard can stop: found by reading it.

The code is that of the workflows, of their classes' methods, and of the functions that they call of the same package,
or of a module in the same directory.
Names are resolved as Python would, in the module's globals, so `from datetime import datetime as d` hides nothing. A
line that ends in `# turnout: ok` is left alone.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
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
OWN = "keep it in the workflow, as a local name or an attribute: another worker has another"

_LOOKS_AT_FILES = ("exists", "isfile", "isdir", "islink", "getsize", "getmtime", "getatime", "getctime", "realpath")
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
    **dict.fromkeys(("os.getppid", "os.getloadavg", "os.times"), MACHINE),
    **dict.fromkeys(("builtins.input", "io.open"), OUTSIDE),
    **{f"os.path.{name}": OUTSIDE for name in _LOOKS_AT_FILES},
    **dict.fromkeys(("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"), OUTSIDE),
    **dict.fromkeys(("asyncio.open_connection", "asyncio.start_server"), OUTSIDE),
    "asyncio.to_thread": THREADS,
    **dict.fromkeys(("builtins.hash", "builtins.id"), HASH),
}
"""What must not be called, and what to do instead."""

PURE = ("os.fspath", "os.fsencode", "os.fsdecode", "os.strerror", "os.path")
"""What may be called of a module of `MODULES`."""

NAMES = {"os.environ": MACHINE, "sys.argv": MACHINE, "sys.stdin": OUTSIDE}
"""What must not even be looked at."""

MODULES = {
    "random": CHANCE,
    "secrets": IDS,
    "threading": THREADS,
    "multiprocessing": THREADS,
    "concurrent.futures": THREADS,
    **dict.fromkeys(
        ("os", "subprocess", "socket", "sqlite3", "glob", "shutil", "tempfile", "smtplib", "ftplib"), OUTSIDE
    ),
    **dict.fromkeys(("urllib.request", "http.client", "urllib3", "requests", "httpx", "aiohttp", "aiofiles"), OUTSIDE),
    **dict.fromkeys(("asyncpg", "psycopg", "psycopg2", "pymongo", "redis", "boto3", "botocore", "grpc"), OUTSIDE),
}
"""Modules nothing of which may be called."""

METHODS = {
    **dict.fromkeys(("read_text", "read_bytes", "write_text", "write_bytes", "unlink", "mkdir"), OUTSIDE),
    **dict.fromkeys(("iterdir", "glob", "rglob"), OUTSIDE),
    "run_in_executor": THREADS,
}
"""Methods that give themselves away by their name."""

_IN_ORDER = (
    *(f"builtins.{name}" for name in ("list", "tuple", "enumerate", "iter", "map", "zip", "filter")),
    *("collections.deque", "builtins.dict.fromkeys"),
)
_IN_NO_ORDER = tuple(
    f"builtins.{name}" for name in ("sorted", "set", "frozenset", "len", "sum", "min", "max", "any", "all")
)
_SETS_OF_SETS = ("union", "intersection", "difference", "symmetric_difference", "copy")
_WRITTEN_IN = {
    **dict.fromkeys(("posix", "nt"), "os"),
    **dict.fromkeys(("posixpath", "ntpath", "genericpath"), "os.path"),
    "_socket": "socket",
    "_sqlite3": "sqlite3",
    "_thread": "threading",
}
"""The modules that functions say they are from, and those that people take them from."""


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
        sets = _sets_in(*(_node_of(function) for function in _own(workflow)))
        for function in _functions_of(workflow):
            for finding in _Reader(function, workflow.name, sets).findings():
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

    def __init__(self, function: FunctionType, workflow: str, sets: Collection[str] = ()) -> None:
        self._function = function
        self._workflow = workflow
        self._file = function.__code__.co_filename
        self._node = _node_of(function)
        self._globals = function.__globals__
        self._imported = _imports_in(self._node)
        self._local = _assigned_in(self._node) - set(self._imported)
        self._sets = _sets_in(self._node) | {name for name in sets if "." in name}
        self._unordered: set[ast.AST] = set()
        """The sources of comprehensions whose order is of no consequence."""

    # --- what it does -------------------------------------------------------------------------------------------------

    def findings(self) -> Iterator[Finding]:
        for node in _walk(self._node):
            self._unordered |= self._without_order(node)
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
                if self._is_set(source) and source not in self._unordered:
                    yield source.lineno, "iteration over a set", ORDER
            case ast.Starred(value=source, ctx=ast.Load()) if self._is_set(source):
                yield source.lineno, "iteration over a set", ORDER
            case ast.Global(names=names):
                yield node.lineno, f"global {', '.join(names)}", OWN
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()) if self._is_of_module(name):
                yield node.lineno, f"{name}[...] of the module is changed", OWN
            case _:
                return

    def _call(self, node: ast.Call) -> Iterator[tuple[int, str, str]]:
        called = self._activity_of(node.func)
        if called is not None and not called.is_async:
            yield node.lineno, f"{called.name}()", f"it is a plain def: await {called.name}.execute(...)"
        name = self._name_of(node.func)
        shown = "open()" if name == "io.open" else f"{(name or '').removeprefix('builtins.')}()"
        if name is not None and name in CALLS:
            if name != "random.Random" or not node.args:  # with a seed it is as good as a constant
                yield node.lineno, shown, CALLS[name]
        elif name is not None and (module := _module_in(name)) is not None and not name.startswith(PURE):
            yield node.lineno, shown, MODULES[module]
        elif name is None and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield node.lineno, f".{node.func.attr}()", METHODS[node.func.attr]
        method = node.func if isinstance(node.func, ast.Attribute) else None
        joins = method is not None and method.attr == "join"
        if (name in _IN_ORDER or joins) and any(self._is_set(each) for each in node.args):
            yield node.lineno, "iteration over a set", ORDER
        if method is not None and method.attr == "pop" and not node.args and self._is_set(method.value):
            yield node.lineno, "pop() of a set", ORDER

    def _activity_of(self, node: ast.expr) -> Activity[..., Any] | None:
        """The activity that a call of this expression calls, with `.options(...)` or without."""
        match node:
            case ast.Call(func=ast.Attribute(value=owner, attr="options")):
                return self._activity_of(owner)
            case _:
                value = self._value_of(node)
                return value if isinstance(value, Activity) else None

    def _without_order(self, node: ast.AST) -> set[ast.AST]:
        """What is gone through by a comprehension whose result is the same in any order."""
        if isinstance(node, ast.SetComp):
            return {each.iter for each in node.generators}
        if isinstance(node, ast.Call) and self._name_of(node.func) in _IN_NO_ORDER:
            inner = [each for each in node.args if isinstance(each, (ast.GeneratorExp, ast.ListComp))]
            return {each.iter for comprehension in inner for each in comprehension.generators}
        return set()

    def _is_of_module(self, name: str) -> bool:
        return name not in self._local and name not in self._imported and name in self._globals

    def _is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return _makes_set(node)
            case ast.Call(func=ast.Attribute(value=owner, attr=attr)) if attr in _SETS_OF_SETS:
                return self._is_set(owner)
            case ast.Call():
                return self._name_of(node.func) in ("builtins.set", "builtins.frozenset")
            case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
                return self._is_set(node.left) or self._is_set(node.right)
            case ast.Name() | ast.Attribute():
                return _dotted(node) in self._sets
            case _:
                return False

    # --- what it calls ------------------------------------------------------------------------------------------------

    def called(self) -> list[FunctionType]:
        """The functions of the same package or directory that it calls."""
        package = str(self._globals.get("__name__", "")).partition(".")[0]
        directory = Path(self._file).parent
        ours = "site-packages" not in directory.parts
        found: list[FunctionType] = []
        for node in _walk(self._node):
            if isinstance(node, ast.Call):
                value = self._value_of(node.func)
                if isinstance(value, (Workflow, Activity)) or not callable(value):
                    continue
                code = vars(value).get("__init__") if isinstance(value, type) else value
                for function in _plain(code):
                    beside = Path(function.__code__.co_filename).parent == directory
                    if (beside and ours) or function.__module__.partition(".")[0] == package:
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
    """The name that people know it by, whichever module has it in truth."""
    name = _own_name(value)
    if name.startswith("asyncio."):
        return f"asyncio.{name.rpartition('.')[2]}"
    module, dot, rest = name.partition(".")
    return f"{_WRITTEN_IN.get(module, module)}{dot}{rest}"


def _own_name(value: Any) -> str:
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
    of_module = {name for each in _walk(node) if isinstance(each, ast.Global) for name in each.names}
    return (names | {each.arg for each in _parameters(node)}) - of_module


def _parameters(node: ast.AST) -> list[ast.arg]:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return []
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def _sets_in(*nodes: ast.AST) -> set[str]:
    """The names, and attributes of self, that are given nothing but sets, or are annotated as such."""
    sets: dict[str, bool] = {}
    for node in nodes:
        sets |= {each.arg: True for each in _parameters(node) if _means_set(each.annotation)}
        for each in _walk(node):
            if isinstance(each, ast.AnnAssign) and (name := _dotted(each.target)):
                sets[name] = sets.get(name, True) and (_means_set(each.annotation) or _makes_set(each.value))
            elif isinstance(each, ast.Assign):
                for name in filter(None, map(_dotted, each.targets)):
                    sets[name] = sets.get(name, True) and _makes_set(each.value)
    return {name for name, is_set in sets.items() if is_set}


def _means_set(annotation: ast.expr | None) -> bool:
    """Whether it is a set of something else than numbers, whose order is the same everywhere."""
    text = ast.unparse(annotation) if annotation is not None else ""
    kind, _, of = text.strip("'\"").removesuffix("]").partition("[")
    return kind.rpartition(".")[2] in ("set", "frozenset", "Set", "FrozenSet", "AbstractSet") and of != "int"


def _makes_set(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Set):  # the order of numbers is the same everywhere
        return not all(isinstance(each, ast.Constant) and isinstance(each.value, int | float) for each in value.elts)
    if isinstance(value, ast.SetComp):
        return True
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("set", "frozenset")


def _dotted(node: ast.AST) -> str:
    """A name, or an attribute of self, as it is written; nothing for all else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id="self"), attr=attr):
            return f"self.{attr}"
        case _:
            return ""


def _shown(file: str) -> str:
    """The file as seen from here."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
