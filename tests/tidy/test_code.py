"""Rules of style that a machine can check.

Every test collects all violations before it fails, so that one run names them all.
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
BANNED_SUFFIXES = ("Manager", "Helper", "Util", "Utils")
BANNED_MODULES = frozenset({"utils", "util", "common", "misc", "helpers", "helper"})
# Rooms that may read the wall clock; the others receive times as arguments.
CLOCK_ROOMS = frozenset(
    [
        "cli",
        "web",
        "server",
        "router",
        "engine",
        "sequencer",
        "web",  # certificates and API keys expire
        "replication",
        "serving",
        "cascade",
        "threads",
        "tracing",
        "storage",
        "synaptoroute_coordinator",
    ]
)
UNIT_FOLDERS = {"synaptoroute_coordinator": "coordinator"}
# Rooms without logic of their own; tests of other rooms cover them.
UNTESTED_ROOMS = frozenset(
    {"__init__", "version", "cluster", "errors", "failpoints", "ports", "threads"}
)
# Programs for the terminal.
PRINTING = (
    "node/synaptoroute/cli",
    "coordinator/synaptoroute_coordinator/cli",
    "benchmarks",
    "examples",
    "tests/conformance/programs",
    "tests/support/environments.py",
)
# A bracket around one letter keeps these patterns from matching themselves.
MARKS = re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.}])/(?:[w]ork|[r]oot|[h]ome|opt/[p]ypi)/[\w.]")
HOSTS = re.compile(
    r"pypi[.]org|pythonhosted[.]org|npmjs[.]org|deb[.]debian[.]org|\b[i]ndex-url\b|\b[f]ind-links\b"
)
OUTSIDE_NAMES = re.compile(r"[.]{2}/[s]hared|\b[s]hared/data\b|\b[i]ssue #?\d+\b", re.IGNORECASE)


def code() -> tuple[Path, ...]:
    """Return the files of node/ and coordinator/."""
    return python_files(*SOURCE_ROOTS)


def room(path: Path) -> str:
    """Return the room of a file of the node, or the coordinator's package."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "coordinator":
        return parts[1]
    return parts[-1 if len(parts) < 3 else 2].removesuffix(".py")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a module, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_have_at_most_700_lines() -> None:
    """The limit holds for code and for tests."""
    long = [
        f"{name_of(path)}: {count} lines"
        for path in python_files()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    ]

    assert [] == long


def test_functions_have_at_most_70_lines() -> None:
    """Decorators do not count."""
    long = [
        f"{name_of(path)}:{function.lineno} {function.name}: {count} lines"
        for path in python_files()
        for function in functions(ast.parse(path.read_text(encoding="utf-8")))
        if (count := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    ]

    assert [] == long


def test_lines_have_at_most_100_columns() -> None:
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


def test_no_class_is_a_manager_and_no_module_is_called_utils() -> None:
    """Such names do not say what a thing is."""
    classes = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in code()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith(BANNED_SUFFIXES)
    ]
    modules = [name_of(path) for path in python_files() if path.stem in BANNED_MODULES]

    assert [] == classes
    assert [] == modules


def test_no_marks_of_unfinished_work() -> None:
    """Unfinished work is not committed."""
    left = [
        f"{name_of(path)}:{number}"
        for path, text in texts()
        if path.suffix not in {".json", ".txt"}
        for number, line in enumerate(text.splitlines(), 1)
        if MARKS.search(line)
    ]

    assert [] == left


def test_only_the_command_line_and_benchmarks_print() -> None:
    """Library code logs or returns a value."""
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


def test_pure_rooms_do_not_read_the_wall_clock() -> None:
    """They receive times as arguments."""
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
    """Settings are read once and passed down."""
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
    """node/ and coordinator/ contain packages but are not packages themselves."""
    assert [] == [name_of(root) for root in SOURCE_ROOTS if (root / "__init__.py").exists()]
    assert (ROOT / "node/synaptoroute/py.typed").exists()


def test_every_module_has_a_docstring() -> None:
    """A module says what it contains."""
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


def test_no_file_contains_a_machine_path() -> None:
    """No committed file depends on the paths of one machine."""
    found = [
        f"{name_of(path)}:{number}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATHS.search(line)
    ]

    assert [] == found


def test_no_text_names_a_package_index() -> None:
    """The package index is configured on the machine that installs."""
    found = [
        f"{name_of(path)}:{number}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if HOSTS.search(line)
    ]

    assert [] == found


def test_code_names_no_outside_folder_and_no_issue_number() -> None:
    """Code and comments are understood from the repository alone."""
    found = [
        f"{name_of(path)}:{number}"
        for path in files()
        if path.suffix in {".py", ".sql", ".lua"}
        and any(root in path.parents for root in SOURCE_ROOTS)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if OUTSIDE_NAMES.search(line)
    ]

    assert [] == found


def test_nothing_turns_the_verification_of_certificates_off() -> None:
    """Neither in the code nor in what it is deployed with."""
    ways = re.compile(
        r"verify=False|CERT_NONE|check_hostname *= *False|_create_unverified_context"
        r"|insecureSkipVerify|insecure_skip_verify|verify none|curl -k"
    )
    places = [*code(), *(each for top in ("deploy", "helm") for each in (ROOT / top).rglob("*"))]
    found = [
        str(path.relative_to(ROOT))
        for path in places
        if path.is_file() and ways.search(path.read_text(encoding="utf-8", errors="replace"))
    ]

    assert [] == found
