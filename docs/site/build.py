"""Build the documentation site into ``.cache/site``; `make docs-site` calls this.

The Markdown files of this repository are written for a reader of the repository: their links are
relative to the file.  They are copied into one folder, together with pages that are written from
the code.  A link to a page of the site then leads there; a link to another file leads to the
repository.  A warning of Sphinx fails the build: a broken link, a missing heading or picture.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference  # noqa: E402  beside this file

SOURCE = ROOT / ".cache/site-source"
SITE = ROOT / ".cache/site"
REPOSITORY = "https://github.com/synaptoroute/synaptoroute-cluster"

OUTSIDE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "BENCHMARKS.md": "benchmarks.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "helm/synaptoroute/README.md": "chart-values.md",
}
"""Files outside docs/ that are pages of the site."""
PARTS = {
    "Start": [
        "installation",
        "library",
        "concepts",
        "route-sets",
        "change-routes-safely",
        "comparison",
        "changelog",
    ],
    "Deploy and operate": [
        "kubernetes",
        "chart-values",
        "coordinator",
        "operations",
        "redis",
        "sizing",
        "security",
    ],
    "Tune": ["accuracy", "routes-as-files", "ci", "cascade"],
    "Migrate": ["migrate/*"],
    "Integrate": ["decisions-api", "clients", "integrations/*"],
    "Reference": [
        "api",
        "reference/http-api",
        "cli",
        "reference/command-line",
        "reference/settings",
        "reference/metrics",
        "glossary",
    ],
    "Internals": [
        "architecture",
        "protocol",
        "adr/index",
        "threat-model",
        "known-defects",
        "benchmarks",
        "benchmarks/*",
        "contributing",
    ],
}
"""The pages by part; pages of docs/ that are in none of them come last, under *More*."""
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)


def main() -> int:
    """Stage the sources and run Sphinx; return its exit code."""
    # Pages can be staged, and tested, without Sphinx.
    from sphinx.cmd.build import build_main

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--site", type=Path, default=SITE, help="folder of the built site")
    site = parser.parse_args().site
    stage(SOURCE)
    options = ["-b", "html", "-W", "--keep-going", "-q", "-j", "2", "-c", str(HERE)]
    failed = build_main([*options, str(SOURCE), str(site)])
    for path in site.rglob("*.html"):
        path.write_text(_accessible(path.read_text(encoding="utf-8")), encoding="utf-8")
    return failed


def _accessible(html: str) -> str:
    """Mend what axe-core finds in the theme: levels of headings, scrolling by keyboard."""
    for found, mended in (
        ('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'),
        ("<pre>", '<pre tabindex="0">'),
        ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    ):
        html = html.replace(found, mended)
    return html


def stage(target: Path) -> None:
    """Write all pages, and the files that they show, into a folder, which is emptied first."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for folder in ("images", "plots"):
        shutil.copytree(ROOT / "docs" / folder, target / folder)
    sources = {path: _page_of(path) for path in _documents()}
    texts = {
        page: _linked((ROOT / path).read_text(encoding="utf-8"), path, sources)
        for path, page in sources.items()
    }
    texts |= {page: write() for page, write in reference.PAGES.items()}
    texts["adr/index.md"] = _decisions(sources)
    texts["index.md"] += _contents(set(texts))
    for page, text in texts.items():
        (target / page).parent.mkdir(parents=True, exist_ok=True)
        (target / page).write_text(text, encoding="utf-8")


def _documents() -> list[str]:
    """Return the paths of the files of the repository that are pages."""
    inside = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    return [*OUTSIDE, *(path for path in inside if path != "docs/adr/0000-template.md")]


def _page_of(path: str) -> str:
    return OUTSIDE.get(path, path.removeprefix("docs/"))


def _linked(text: str, path: str, sources: dict[str, str]) -> str:
    """Rewrite the links of a file, except inside blocks of code."""
    fences: list[str] = []

    def hide(match: re.Match[str]) -> str:
        fences.append(match[0])
        return f"\x00{len(fences) - 1}\x00"

    def rewrite(match: re.Match[str]) -> str:
        return match[1] + _target(match[2], path, sources) + match[3]

    hidden = _LINK.sub(rewrite, _FENCE.sub(hide, text))
    return re.sub(r"\x00(\d+)\x00", lambda match: fences[int(match[1])], hidden)


def _target(target: str, path: str, sources: dict[str, str]) -> str:
    """Return where a link of a file of the repository leads on the site."""
    if re.match(r"[a-z]+:|#", target):
        return target
    name, mark, anchor = target.partition("#")
    linked = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
    if linked == "docs/adr":
        page = "adr/index.md"
    elif linked in sources:
        page = sources[linked]
    elif f"{linked}/README.md" in sources:
        page = sources[f"{linked}/README.md"]
    elif linked.startswith(("docs/images/", "docs/plots/")):
        page = linked.removeprefix("docs/")
    elif (ROOT / linked).exists():
        kind = "tree" if (ROOT / linked).is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{linked}{mark}{anchor}"
    else:
        return target  # which fails the build
    return posixpath.relpath(page, posixpath.dirname(_page_of(path)) or ".") + mark + anchor


def _decisions(sources: dict[str, str]) -> str:
    """Write the list of the decision records."""
    pages = sorted(page for page in sources.values() if page.startswith("adr/"))
    names = [page.removeprefix("adr/").removesuffix(".md") for page in pages]
    introduction = "# Decisions\n\nWhy the project is built as it is, one decision a page.\n\n"
    return introduction + _tree([":maxdepth: 1"], names)


def _contents(pages: set[str]) -> str:
    """Write the lists of contents of the whole site; they are shown in the sidebar."""
    trees = []
    named = {"index", *(name for names in PARTS.values() for name in names)}
    more = sorted(
        name
        for name in (page.removesuffix(".md") for page in pages)
        if name not in named and not name.startswith(("adr/", "migrate/", "integrations/"))
    )
    for title, patterns in {**PARTS, "More": more}.items():
        names: list[str] = []
        for pattern in patterns:
            folder = pattern.removesuffix("*")
            if folder == pattern:
                names += [pattern] if f"{pattern}.md" in pages else []
            else:
                found = (page.removesuffix(".md") for page in pages if page.startswith(folder))
                names += sorted(found)
        if names:
            trees.append(_tree([":hidden:", f":caption: {title}", ":maxdepth: 1"], names))
    return "\n" + "\n".join(trees)


def _tree(options: list[str], names: list[str]) -> str:
    return "\n".join(["```{toctree}", *options, "", *names, "```", ""])


if __name__ == "__main__":
    sys.exit(main())
