"""The sources of the documentation site: every page is listed, every link leads somewhere.

`make docs-site` also checks the anchors, with Sphinx, which these tests do not need.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from repository import ROOT

pytestmark = pytest.mark.tidy

_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs/site/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all pages, as Sphinx reads them."""
    folder = tmp_path_factory.mktemp("site") / "source"
    builder.stage(folder)
    return folder


def test_every_link_between_pages_leads_to_a_file(pages: Path) -> None:
    broken = [
        f"{path.relative_to(pages)}: {link}"
        for path in pages.rglob("*.md")
        for link in _LINK.findall(_FENCE.sub("", path.read_text(encoding="utf-8")))
        if not (path.parent / link).exists()
    ]

    assert [] == broken


def test_contents_list_every_page(pages: Path) -> None:
    listed = set(re.findall(r"^[\w/.-]+$", (pages / "index.md").read_text("utf-8"), re.MULTILINE))
    decisions = (pages / "adr/index.md").read_text(encoding="utf-8")
    missing = [
        name
        for path in pages.rglob("*.md")
        if (name := path.relative_to(pages).with_suffix("").as_posix()) not in {"index", *listed}
        and not re.search(rf"^{re.escape(path.stem)}$", decisions, re.MULTILINE)
    ]

    assert [] == missing


def test_links_lead_to_pages_of_the_site_or_to_the_repository(builder: ModuleType) -> None:
    sources = {"docs/api.md": "api.md", "README.md": "index.md", "docs/migrate/README.md": "m.md"}

    def target(link: str, path: str) -> str:
        return builder._target(link, path, sources)

    assert "api.md#queries" == target("docs/api.md#queries", "README.md")
    assert "../index.md" == target("../../README.md", "docs/adr/0001-x.md")
    assert "m.md" == target("migrate", "docs/api.md")
    assert "images/a.png" == target("docs/images/a.png", "README.md")
    assert f"{builder.REPOSITORY}/blob/main/LICENSE" == target("LICENSE", "README.md")
    assert f"{builder.REPOSITORY}/tree/main/examples" == target("../examples", "docs/api.md")
    assert "#here" == target("#here", "docs/api.md")
    assert "https://localhost/" == target("https://localhost/", "docs/api.md")


def test_reference_names_every_operation_command_and_setting(pages: Path) -> None:
    """The pages are written from the code; a few known names show that nothing was lost."""
    reference = {path.stem: path.read_text(encoding="utf-8") for path in pages.glob("reference/*")}

    assert "### POST /v1/query\n" in reference["http-api"]
    assert "### Match\n" in reference["http-api"]
    assert "### synaptoroute routes lint\n" in reference["command-line"]
    assert "`--strict`" in reference["command-line"]
    assert "`SYNAPTOROUTE_DATABASE`" in reference["settings"]
    assert "| `synaptoroute_" in reference["metrics"]
