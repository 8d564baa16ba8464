"""The rules of the source's layout hold, and the checks of them see what breaks one."""

from __future__ import annotations

import ast
import functools
import textwrap
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import advnas_lightning

ROOT = Path(advnas_lightning.__file__).parent
FILES = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.rglob("*.py"))}
LIGHTNINGS_PRIVATES = "engine/lightning_private.py"  # the one file that may read what is Lightning's own
LONGEST_FILE, LONGEST_CLASS = 400, 300  # lines
SHORTER_FILES = {"engine/strategy.py": 350}  # what everyone who writes a strategy reads
# Modules that are private by their name, and have no public one in the oldest release that is supported.
PRIVATE_MODULES = {"torch.utils._pytree", "hydra._internal.callbacks", "hydra._internal.core_plugins.basic_sweeper"}
# Documented, for all that they begin with an underscore: of named tuples, whose fields they must not clash with; of
# Hydra's configurations; how often a tensor was changed in place; and the one way to end a process at once.
DOCUMENTED = {"_asdict", "_fields", "_make", "_replace", "_target_", "_version"}
DOCUMENTED_FUNCTIONS = {"os._exit"}
OWN = {"self", "cls", "mcs"}


@functools.cache
def nodes(source: str) -> list[ast.AST]:
    """All of a source's syntax tree."""
    return list(ast.walk(ast.parse(source)))


def long_classes(source: str) -> list[str]:
    """Each class of too many lines."""
    classes = [node for node in nodes(source) if isinstance(node, ast.ClassDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in classes}
    return [f"{name}: {length} lines" for name, length in lengths.items() if length > LONGEST_CLASS]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_own(node: ast.expr) -> bool:
    """Whether an expression is the object, the class, or what they inherit."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in OWN


def others_privates(source: str) -> Iterator[str]:
    """Each private name of something else: an attribute, a module, or what is imported from one."""
    for node in nodes(source):
        if isinstance(node, ast.Attribute):
            allowed = node.attr in DOCUMENTED or ast.unparse(node) in DOCUMENTED_FUNCTIONS or is_own(node.value)
            if is_private(node.attr) and not allowed:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (f"{module}{alias.name}" for alias in node.names):
                inside = any(name == allowed or name.startswith(f"{allowed}.") for allowed in PRIVATE_MODULES)
                if not inside and any(map(is_private, name.split("."))):
                    yield f"line {node.lineno}: {name}"


def changed_classes(source: str) -> list[str]:
    """Each assignment to an object's ``__class__``."""
    found = []
    for node in nodes(source):
        assigned = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == "__class__"
        setting = (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("setattr", "__setattr__"))
            and any(isinstance(argument, ast.Constant) and argument.value == "__class__" for argument in node.args)
        )
        if assigned or setting:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def module_of(file: str) -> str:
    return ".".join(["advnas_lightning", *Path(file).with_suffix("").parts]).removesuffix(".__init__")


def imports(file: str, source: str, modules: set[str]) -> set[str]:
    """The package's modules that a file imports, wherever in it: also in functions, and for annotations alone."""
    package = module_of(file) if file.endswith("__init__.py") else module_of(file).rpartition(".")[0]
    found = set()
    for node in nodes(source):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base)
    return found & modules


def cycle(files: dict[str, str]) -> list[str] | None:
    """Modules that import each other in a circle, if there are any."""
    modules = {module_of(file) for file in files}
    graph = {module_of(file): imports(file, source, modules) for file, source in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


def test_no_file_is_too_long_to_be_read_at_once() -> None:
    lengths = {file: len(source.splitlines()) for file, source in FILES.items()}
    assert {file: n for file, n in lengths.items() if n > SHORTER_FILES.get(file, LONGEST_FILE)} == {}


def test_no_class_is_too_long_to_be_read_at_once() -> None:
    assert {file: found for file, source in FILES.items() if (found := long_classes(source))} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycle(FILES) is None


def test_no_object_changes_its_class() -> None:
    assert {file: found for file, source in FILES.items() if (found := changed_classes(source))} == {}


def test_nothing_private_is_read_from_another_object() -> None:
    others = {file: source for file, source in FILES.items() if file != LIGHTNINGS_PRIVATES}
    assert {file: found for file, source in others.items() if (found := list(others_privates(source)))} == {}


def test_no_test_imports_another() -> None:
    for path in Path(__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", None) or ""
            parts = [part for name in (*names, module) for part in name.split(".")]
            assert not any(part == "conftest" or part.startswith("test_") for part in parts), path


def test_every_exception_names_a_file_that_is_there() -> None:
    assert {LIGHTNINGS_PRIVATES, *SHORTER_FILES} <= FILES.keys()
    source = "\n".join(FILES.values())
    assert [module for module in PRIVATE_MODULES if f"from {module} import" not in source] == []


# -- the checks can fail ---------------------------------------------------------------------------------------------


def test_a_long_class_is_seen_also_inside_a_function() -> None:
    body = "\n".join(["def make():", "    class Long:", *(f"        x{i} = {i}" for i in range(LONGEST_CLASS))])
    assert long_classes(body) == [f"Long: {LONGEST_CLASS + 1} lines"]
    assert long_classes(body.rpartition("\n")[0]) == []


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("self._own", None),
        ("cls._own", None),
        ("super()._own()", None),
        ("self.__dict__", None),
        ("pair._replace(loss=1)", None),
        ("os._exit(1)", None),
        ("posix._exit(1)", "line 1: posix._exit"),
        ("import torch.utils._pytree", None),
        ("from torch.utils import _pytree as pytree", None),
        ("trainer._run()", "line 1: trainer._run"),
        ("trainer._running = True", "line 1: trainer._running"),
        ("self.trainer._run", "line 1: self.trainer._run"),
        ("self._own._other", "line 1: self._own._other"),
        ("type(self)._shared", "line 1: type(self)._shared"),
        ("def f(search=None):\n    return search._cost", "line 2: search._cost"),
        ("import torch._dynamo", "line 1: torch._dynamo"),
        ("from lightning.pytorch.loops import _utilities", "line 1: lightning.pytorch.loops._utilities"),
        ("def f():\n    from advnas_lightning.space import _describe", "line 2: advnas_lightning.space._describe"),
    ],
)
def test_a_private_name_of_another_object_is_seen(line: str, seen: str | None) -> None:
    assert list(others_privates(line)) == ([] if seen is None else [seen])


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("x = self.__class__", 0),
        ("search.__class__ = Other", 1),
        ("a, self.__class__ = 1, Other", 1),
        ("setattr(search, '__class__', Other)", 1),
        ("object.__setattr__(search, '__class__', Other)", 1),
    ],
)
def test_a_change_of_class_is_seen(line: str, count: int) -> None:
    assert len(changed_classes(line)) == count


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("from advnas_lightning.b import B", "x = 1", False),
        ("from advnas_lightning import b", "from advnas_lightning.a import A", True),
        ("import advnas_lightning.b", "from .a import A", True),
        ("def f():\n    from advnas_lightning.b import B", "from advnas_lightning.a import A", True),
        (
            "if TYPE_CHECKING:\n    from advnas_lightning.b import B",
            "def g():\n    from advnas_lightning import a",
            True,
        ),
        ("from advnas_lightning.c import C", "from advnas_lightning.a import A", True),  # by way of c
        ("import b", "from advnas_lightning.a import A", False),  # somebody else's b
    ],
)
def test_a_circle_of_imports_is_seen(first: str, second: str, found: bool) -> None:
    files = {"__init__.py": "", "a.py": first, "b.py": second, "c.py": "from advnas_lightning import b"}
    assert (cycle({name: textwrap.dedent(text) for name, text in files.items()}) is not None) == found
