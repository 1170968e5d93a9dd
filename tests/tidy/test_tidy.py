"""The style of the house, where a machine can judge it.

Every test collects all offenders before it fails, so that one run names them all.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from repository import ROOT, SOURCE_ROOTS, files, name_of, python_files, texts

pytestmark = pytest.mark.tidy

FILE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
BANNED_SUFFIXES = (
    "Manager", "Helper", "Util", "Utils", "Handler", "Service", "Processor", "Data", "Info",
    "Base", "Abstract",
)  # fmt: skip
BANNED_MODULES = frozenset({"utils", "util", "common", "misc", "helpers", "helper"})
# Rooms that may read the wall clock; the rest gets times as values.
CLOCK_ROOMS = frozenset(
    [
        "cli",
        "server",
        "router",
        "engine",
        "sequencer",
        "replication",
        "serving",
        "cascade",
        "threads",
        "storage",
        "synaptoroute_coordinator",
    ]
)
UNIT_FOLDERS = {"synaptoroute_coordinator": "coordinator"}
# Without logic of their own; the tests of others run through them.
UNTESTED_ROOMS = frozenset({"__init__", "version", "cluster", "errors", "failpoints", "threads"})
# Rooms whose whole purpose is to speak to a terminal.
PRINTING = ("node/synaptoroute/cli", "coordinator/synaptoroute_coordinator/cli", "benchmarks")
# A bracket around one letter keeps these patterns from finding themselves.
MARKS = re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.}])/(?:[w]ork|[r]oot|[h]ome|opt/[p]ypi)/[\w.]")
HOSTS = re.compile(
    r"pypi[.]org|pythonhosted[.]org|npmjs[.]org|deb[.]debian[.]org|\b[i]ndex-url\b|\b[f]ind-links\b"
)
SPOKEN_OF = re.compile(r"[.]{2}/[s]hared|\b[s]hared/data\b|\b[i]ssue #?\d+\b", re.IGNORECASE)


def code() -> tuple[Path, ...]:
    """The code that ships."""
    return python_files(*SOURCE_ROOTS)


def room(path: Path) -> str:
    """The room of the node that a file belongs to, or the coordinator's package."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "coordinator":
        return parts[1]
    return parts[-1 if len(parts) < 3 else 2].removesuffix(".py")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a module, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def given_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names that a module gives to its own things, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


def test_no_file_is_longer_than_a_sitting() -> None:
    """A file has at most 700 lines, of code as of tests."""
    long = [
        f"{name_of(path)}: {count} lines"
        for path in python_files()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    ]

    assert [] == long


def test_no_function_needs_scrolling() -> None:
    """A function has at most 70 lines."""
    long = [
        f"{name_of(path)}:{function.lineno} {function.name}: {count} lines"
        for path in python_files()
        for function in functions(ast.parse(path.read_text(encoding="utf-8")))
        if (count := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    ]

    assert [] == long


def test_lines_fit_in_a_hundred_columns() -> None:
    """Python, scripts and SQL keep to 100 columns."""
    kinds = {".py", ".sql", ".lua", ".sh", ""}
    wide = [
        f"{name_of(path)}:{number} has {len(line)} columns"
        for path, text in texts()
        if path.suffix in kinds and path.name not in {"LICENSE", "NOTICE"}
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > COLUMNS_MAX
    ]

    assert [] == wide


def test_names_say_what_a_thing_is() -> None:
    """No class is a Manager and no module is called utils."""
    classes = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in code()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith(BANNED_SUFFIXES)
    ]
    modules = [name_of(path) for path in python_files() if path.stem in BANNED_MODULES]

    assert [] == classes
    assert [] == modules


def test_nothing_is_left_for_later() -> None:
    """No committed text holds a mark of unfinished work."""
    left = [
        f"{name_of(path)}:{number}"
        for path, text in texts()
        if path.suffix not in {".json", ".txt"}
        for number, line in enumerate(text.splitlines(), 1)
        if MARKS.search(line)
    ]

    assert [] == left


def test_only_the_command_line_prints() -> None:
    """Code that ships writes to a log or returns a value."""
    printing = [
        f"{name_of(path)}:{node.lineno}"
        for path in python_files()
        if not name_of(path).startswith(PRINTING)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]

    assert [] == printing


def test_only_the_shell_reads_the_wall_clock() -> None:
    """Tensor, scoring, encoder, batcher and the values get times as values."""
    reading = [
        f"{name_of(path)}:{node.lineno}"
        for path in code()
        if room(path) not in CLOCK_ROOMS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in {"time", "time_ns", "now", "utcnow"}
        and isinstance(node.value, ast.Name)
        and node.value.id in {"time", "datetime"}
    ]

    assert [] == reading


def test_only_config_reads_the_environment() -> None:
    """Settings are read once and passed down; setting a variable for a library is no reading."""
    reading = [
        f"{name_of(path)}:{node.lineno}"
        for path in code()
        if path.stem != "config" and room(path) != "cli"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.expr) and _reads_environment(node)
    ]

    assert [] == reading


def _reads_environment(node: ast.expr) -> bool:
    """Whether an expression takes a value out of the environment."""
    match node:
        case ast.Attribute(value=ast.Name(id="os"), attr="getenv"):
            return True
        case ast.Attribute(value=ast.Attribute(attr="environ"), attr="get" | "items" | "copy"):
            return True
        case ast.Subscript(value=ast.Attribute(attr="environ"), ctx=ast.Load()):
            return True
    return False


def test_source_roots_are_not_packages() -> None:
    """node/ and coordinator/ hold packages and are none, so editable installs stay plain."""
    assert [] == [name_of(root) for root in SOURCE_ROOTS if (root / "__init__.py").exists()]
    assert (ROOT / "node/synaptoroute/py.typed").exists()


def test_every_module_opens_with_what_it_owns() -> None:
    """A module without a docstring has no stated purpose."""
    silent = [
        name_of(path)
        for path in code()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert [] == silent


def test_every_room_has_unit_tests() -> None:
    """tests/unit/<room>/ holds the tests of a package, tests/unit/ those of a single module."""
    folder = ROOT / "tests/unit"
    untested = sorted(
        name
        for name in {room(path) for path in code()}
        if not list(folder.glob(f"{UNIT_FOLDERS.get(name, name)}/test_*.py"))
        and not (folder / f"test_{name}.py").exists()
        and name not in UNTESTED_ROOMS
    )

    assert [] == untested


def test_no_text_names_a_machine() -> None:
    """Nothing committed depends on where somebody's files lie."""
    found = [
        f"{name_of(path)}:{number}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATHS.search(line)
    ]

    assert [] == found


def test_no_text_names_a_package_index() -> None:
    """Where packages come from is the business of the machine that installs them."""
    found = [
        f"{name_of(path)}:{number}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if HOSTS.search(line)
    ]

    assert [] == found


def test_code_speaks_of_the_project_alone() -> None:
    """Code that ships names no folder beside the repository and no number of an issue."""
    found = [
        f"{name_of(path)}:{number}"
        for path in files()
        if path.suffix in {".py", ".sql", ".lua"}
        and any(root in path.parents for root in SOURCE_ROOTS)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if SPOKEN_OF.search(line)
    ]

    assert [] == found
