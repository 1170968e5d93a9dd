"""The pages of docs/migrate: their programs are those of examples/, and their links lead on."""

from __future__ import annotations

import ast
import json
import re

import pytest

from foreign_files import FOREIGN_FILES
from repository import ROOT

pytestmark = pytest.mark.unit

FOLDER = ROOT / "docs" / "migrate"
PAGES = sorted(FOLDER.glob("*.md"))


def test_programs_of_the_page_are_those_that_are_tested() -> None:
    page = (FOLDER / "semantic-router.md").read_text(encoding="utf-8")
    for name in ("semantic_router_before.py", "semantic_router_after.py"):
        program = (ROOT / "examples" / "migrate" / name).read_text(encoding="utf-8")
        assert f"```python\n{program}```" in page, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_on_a_page_is_valid(page: object) -> None:
    text = page.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(block, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_format_has_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES).lower()
    for name, *_ in FOREIGN_FILES.values():
        assert name.split("-")[0] in text, name
    overview = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"]({page.name})" in overview for page in PAGES if page.stem != "README")


def test_figures_of_the_page_are_those_of_the_benchmark() -> None:
    """The program that was moved is at least as accurate as it was."""
    results = json.loads((ROOT / "benchmarks/results/migration.json").read_text())
    page = (FOLDER / "semantic-router.md").read_text(encoding="utf-8")
    for count in ("10", "20"):
        found = results["figures"]["clinc150"][count]
        for program, shares in found.items():
            cells = (count, program, *(f"{share:.3f}" for share in shares.values()))
            assert f"| {' | '.join(cells)} |" in page
        before, after = found["semantic-router"], found["synaptoroute-cluster"]
        assert after["accuracy"] >= before["accuracy"]
        assert after["answered"] >= before["answered"]
