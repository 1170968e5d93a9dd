"""Documents agree with the code: links, named files and tests, settings, metrics, failures."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from metric_names import exposition, families
from repository import ROOT, SOURCE_ROOTS, files, name_of, python_files
from synaptoroute.config import NodeConfig
from synaptoroute.replication.session import LogState
from synaptoroute_coordinator.config import CoordinatorConfig

pytestmark = pytest.mark.tidy

ADR_LINES_MAX = 60
THREATS_MIN = 25
ADR_CHARACTERS_MAX = 3_500
ADR_HEADINGS = ["Context", "Decision", "Consequences", "Alternatives tried"]
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?:)([^)\s]+)\)")
_OTHER_PROJECT = re.compile(r"\bsynaptoroute\[\w|\binstall (?:-\S+ )*[\"']?synaptoroute(?![\w-])")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
FLEET_METRICS = ROOT / "coordinator/synaptoroute_coordinator/app/metrics.py"
FAILURE_ROWS_MIN = 48
_ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
_TEST_NAME = re.compile(r"`(test_\w+)`")
_TEST = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)
# A stop of a walk: `file.py:function`, `room/file.py:Class.method`.
_STOP = re.compile(r"`([\w./-]+\.py):([A-Za-z_][\w.]*)`")
_EVENT_NAME = re.compile(r"[a-z]+(?:_[a-z]+)*")
_LOG_LEVELS = {"debug", "info", "warning", "error", "exception", "log"}
_NAMED_FILE = re.compile(r"`([\w./-]+\.(?:py|sql|lua|yaml|yml|toml))`")


def markdown() -> list[Path]:
    """Return every Markdown file."""
    return [path for path in files() if path.suffix == ".md"]


def anchors(text: str) -> set[str]:
    """Return the link fragments of the headings."""
    headings = re.findall(r"^#{1,6} (.+)$", _FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def adrs() -> list[Path]:
    """Return the decision records in order."""
    return sorted((ROOT / "docs/adr").glob("*.md"))


def settings_table() -> ModuleType:
    """Import the script that writes the table of settings."""
    path = ROOT / "docs/settings_table.py"
    spec = importlib.util.spec_from_file_location("settings_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_relative_links_resolve() -> None:
    """The linked file and its heading exist."""
    broken = []
    for path in markdown():
        for target in _LINK.findall(_FENCE.sub("", path.read_text(encoding="utf-8"))):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            linked = (path.parent / name).resolve() if name else path
            if not linked.exists() or (
                anchor and anchor not in anchors(linked.read_text(encoding="utf-8"))
            ):
                broken.append(f"{name_of(path)}: {target}")

    assert [] == broken


def test_pictures_exist_and_are_shown() -> None:
    """A picture that no document shows is removed; the others are taken by a script."""
    shown = {
        (path.parent / name).resolve()
        for path in markdown()
        for name in _PICTURE.findall(_FENCE.sub("", path.read_text(encoding="utf-8")))
    }
    kept = set((ROOT / "docs/images").iterdir())
    script = (ROOT / "docs/screenshots.py").read_text(encoding="utf-8")

    assert [] == [name_of(path) for path in shown if not path.exists()]
    assert set() == kept - shown
    assert [] == [path.name for path in kept if path.stem.rpartition("-")[0] not in script]


def test_documents_install_this_project() -> None:
    """The package index has another project that is called `synaptoroute`."""
    wrong = [
        f"{name_of(path)}: {line.strip()}"
        for path in files()
        if path.suffix in {".md", ".py", ".yaml", ".yml", ".toml", ".js", ".ts"}
        for line in path.read_text(encoding="utf-8").splitlines()
        if _OTHER_PROJECT.search(line)
    ]

    assert [] == wrong


def test_every_extra_is_documented() -> None:
    text = (ROOT / "docs/installation.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert set(project["optional-dependencies"]) == set(
        re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    )


def test_files_named_in_architecture_exist() -> None:
    """A file may be named by the end of its path."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = [name_of(path) for path in files()]
    missing = [
        name
        for name in _NAMED_FILE.findall(text)
        if not any(path == name or path.endswith(f"/{name}") for path in paths)
    ]

    assert [] == missing


@cache
def definitions(path: Path) -> frozenset[str]:
    """Return the dotted names of the functions, classes and variables of a module."""

    def walk(body: list[ast.stmt], prefix: str) -> list[str]:
        found = []
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found += [prefix + node.name, *walk(node.body, f"{prefix}{node.name}.")]
            elif isinstance(node, ast.Assign):
                found += [prefix + each.id for each in node.targets if isinstance(each, ast.Name)]
        return found

    return frozenset(walk(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def test_stops_of_the_walks_in_architecture_exist() -> None:
    """Every `path.py:function` and `path.py:Class.method` is defined in such a file."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    sources = {name_of(path): path for path in python_files(*SOURCE_ROOTS)}
    missing = [
        f"{file}:{name}"
        for file, name in _STOP.findall(text)
        if not any(
            name in definitions(path)
            for source, path in sources.items()
            if source == file or source.endswith(f"/{file}")
        )
    ]

    assert [] == missing


@pytest.mark.parametrize("path", adrs(), ids=lambda path: path.stem)
def test_decision_record_has_the_four_sections(path: Path) -> None:
    """A record fits on one page."""
    text = path.read_text(encoding="utf-8")
    number = path.name[:4]

    assert re.fullmatch(r"\d{4}-[a-z0-9]+(-[a-z0-9]+)*\.md", path.name)
    assert text.startswith(f"# {number}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ADR_HEADINGS
    assert len(text.splitlines()) <= ADR_LINES_MAX
    assert len(text) <= ADR_CHARACTERS_MAX


def test_decision_records_are_numbered_without_gaps() -> None:
    """Numbers start at zero."""
    assert list(range(len(adrs()))) == [int(path.name[:4]) for path in adrs()]


def test_changelog_starts_with_unreleased() -> None:
    """The sections are those of Keep a Changelog."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

    assert re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)[0] == "Unreleased"
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_every_setting_has_a_description() -> None:
    """The class docstring describes every field."""
    described = settings_table().descriptions(NodeConfig)

    assert set(NodeConfig.model_fields) == set(described)


def test_settings_table_is_up_to_date() -> None:
    """`make docs` rewrites the table in docs/operations.md."""
    module = settings_table()

    assert module.table() == OPERATIONS.partition(module.BEGIN)[2].partition(module.END)[0].strip()


def operations_section(heading: str) -> str:
    """Return the text between a heading and the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)^#+ ", OPERATIONS, re.M | re.S)
    assert found, heading
    return found[1]


def columns(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without the header."""
    lines = [line for line in operations_section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def fleet_metrics() -> set[str]:
    """Return the metrics that the code of the coordinator names."""
    text = FLEET_METRICS.read_text(encoding="utf-8")
    found = set(re.findall(r'"synaptoroute_(fleet_[a-z_]+)"', text))
    found |= {f"fleet_{name}" for name in re.findall(r'^ +\("([a-z_]+)", "', text, re.MULTILINE)}
    counters = set(re.findall(r'CounterMetricFamily\(\s*"synaptoroute_(\w+)"', text))
    return {f"synaptoroute_{name}{'_total' if name in counters else ''}" for name in found}


@pytest.mark.parametrize(
    ("column", "config"), [(1, NodeConfig), (2, CoordinatorConfig)], ids=["node", "coordinator"]
)
def test_every_setting_has_a_documented_use(
    column: int, config: type[NodeConfig | CoordinatorConfig]
) -> None:
    """The table names every setting and no other."""
    cells = [row[column] for row in columns("Which setting, when")]
    named = {name for cell in cells for name in re.findall(r"`([A-Z_]+)(?:=\w+)?`", cell)}

    assert {name.upper() for name in config.model_fields} == named


def test_every_metric_is_documented() -> None:
    """The table names every metric of nodes and coordinators and no other."""
    named = [name for row in columns("Metrics") for name in re.findall(r"`(\w+)`", row[0])]
    node = {
        f"{name}_total" if f"{name}_total " in exposition() else name
        for name in families(exposition())
    }

    assert len(named) == len(set(named))
    assert node | fleet_metrics() == set(named)


def section(path: str, heading: str) -> str:
    """Return a section of a document."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def names_of_tests() -> set[str]:
    """Return the names of all tests."""
    paths = (ROOT / "tests").rglob("test_*.py")
    return {name for path in paths for name in _TEST.findall(path.read_text(encoding="utf-8"))}


def test_failure_table_has_every_row_once() -> None:
    """Rows are numbered in order."""
    numbers = [int(row[0]) for row in _ROW.findall(section("docs/operations.md", "Failure table"))]

    assert list(range(1, len(numbers) + 1)) == numbers
    assert FAILURE_ROWS_MIN <= len(numbers)


def test_every_row_of_the_failure_table_names_a_test() -> None:
    """The test shows the behaviour of the row."""
    for number, _, _, test in _ROW.findall(section("docs/operations.md", "Failure table")):
        assert _TEST_NAME.search(test), number


@pytest.mark.parametrize(
    "path",
    [
        "docs/operations.md",
        "docs/protocol.md",
        "docs/known-defects.md",
        "docs/threat-model.md",
    ],
)
def test_tests_named_in_documents_exist(path: str) -> None:
    """A renamed test is renamed in the documents, too."""
    text = (ROOT / path).read_text(encoding="utf-8")

    assert set() == set(_TEST_NAME.findall(text)) - names_of_tests()


def test_every_row_of_the_threat_model_names_its_means_and_a_test() -> None:
    """A threat without a test is a claim."""
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.count("|") == 5 and "---" not in line]
    threats = [row for row in rows if not row.startswith("| attempt |")]

    assert THREATS_MIN <= len(threats)
    for row in threats:
        assert re.search(r"`(test_|tests/)", row), row


def test_every_log_state_is_documented() -> None:
    """The table of states is complete."""
    text = section("docs/operations.md", "States of the log")
    states = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)

    assert sorted(state.value for state in LogState) == sorted(states)


def test_codes_of_the_redis_checks_are_documented() -> None:
    source = (ROOT / "node/synaptoroute/sequencer/server_checks.py").read_text(encoding="utf-8")
    codes = set(re.findall(r'Finding\(\s*"(\w+)"', source))
    table = section("docs/redis.md", "`synaptoroute doctor`")
    documented = {
        code
        for line in table.splitlines()
        if line.startswith("| `")
        for code in re.findall(r"`(\w+)`", line.split("|")[1])
    }

    assert codes | {"settings"} == documented


def log_events() -> set[str]:
    """Return the names of the events in the code; other lines of the log are sentences."""
    found: set[str] = set()
    for path in python_files():
        if path.is_relative_to(ROOT / "tests") or path.is_relative_to(ROOT / "benchmarks"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                found |= _events_of(node, node.func)
    return found


def _events_of(call: ast.Call, called: ast.Attribute) -> set[str]:
    names = [
        each.value
        for argument in call.args[:2]
        for each in ast.walk(argument)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]
    is_log = called.attr in _LOG_LEVELS and "log" in ast.unparse(called.value).lower()
    is_refusals = called.attr == "_log_refusals"
    is_event = [bool(_EVENT_NAME.fullmatch(each)) for each in names]
    return set(names) if names and (is_log or is_refusals) and all(is_event) else set()


def test_every_log_event_is_explained() -> None:
    section = OPERATIONS.split("\n## Log events\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = set(re.findall(r"`(\w+)`", " ".join(rows)))

    assert {"listening", "queries_refused", "static_table_refused"} <= documented
    assert log_events() == documented
