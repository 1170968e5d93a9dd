"""Documents against code: what is written down is so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from repository import ROOT, files, name_of
from synaptoroute.config import NodeConfig

pytestmark = pytest.mark.tidy

ADR_LINES_MAX = 60
ADR_CHARACTERS_MAX = 3_500
ADR_HEADINGS = ["Context", "Decision", "Consequences", "Alternatives tried"]
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_NAMED_FILE = re.compile(r"`([\w./-]+\.(?:py|sql|lua|yaml|yml|toml))`")


def markdown() -> list[Path]:
    """Every committed Markdown file."""
    return [path for path in files() if path.suffix == ".md"]


def anchors(text: str) -> set[str]:
    """The fragments that headings give to links."""
    headings = re.findall(r"^#{1,6} (.+)$", _FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def adrs() -> list[Path]:
    """The decision records, in order."""
    return sorted((ROOT / "docs/adr").glob("*.md"))


def settings_table() -> ModuleType:
    """The script that writes the table of settings."""
    path = ROOT / "docs/settings_table.py"
    spec = importlib.util.spec_from_file_location("settings_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_relative_links_lead_somewhere() -> None:
    """A link into the repository names a file, and a heading of it, that are there."""
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


def test_files_that_architecture_names_exist() -> None:
    """ARCHITECTURE.md is a map; every file on it can be opened."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    paths = [name_of(path) for path in files()]
    missing = [
        name
        for name in _NAMED_FILE.findall(text)
        if not any(path == name or path.endswith(f"/{name}") for path in paths)
    ]

    assert [] == missing


@pytest.mark.parametrize("path", adrs(), ids=lambda path: path.stem)
def test_decision_record_has_four_parts_on_one_page(path: Path) -> None:
    """A record says what forced the decision, what it is, what follows, what else was tried."""
    text = path.read_text(encoding="utf-8")
    number = path.name[:4]

    assert re.fullmatch(r"\d{4}-[a-z0-9]+(-[a-z0-9]+)*\.md", path.name)
    assert text.startswith(f"# {number}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ADR_HEADINGS
    assert len(text.splitlines()) <= ADR_LINES_MAX
    assert len(text) <= ADR_CHARACTERS_MAX


def test_decision_records_are_numbered_without_gaps() -> None:
    """The next record takes the next number."""
    assert list(range(len(adrs()))) == [int(path.name[:4]) for path in adrs()]


def test_changelog_has_room_for_the_next_change() -> None:
    """Keep a Changelog: Unreleased stands on top, with kinds that the format knows."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

    assert re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)[0] == "Unreleased"
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_every_setting_is_described() -> None:
    """Each field of the settings has its line in the docstring."""
    described = settings_table().descriptions(NodeConfig)

    assert set(NodeConfig.model_fields) == set(described)


def test_table_of_settings_is_that_of_the_code() -> None:
    """docs/operations.md lists the settings as they are; `make docs` rewrites it."""
    module = settings_table()
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")

    assert module.table() == text.partition(module.BEGIN)[2].partition(module.END)[0].strip()
