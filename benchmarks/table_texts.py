"""Writes the texts that the fitted static table is fitted to, from clones of public repositories.

    python benchmarks/table_texts.py --clones FOLDER --wordnet FOLDER --out FOLDER
    python -m synaptoroute.encoder_graph fitted-table FOLDER

A clone is a folder ``OWNER+NAME``, a work tree or a bare repository below it as ``repo``;
``--wordnet`` has the ``data.*`` files of WordNet 3.0.  Lines of dialogues, sentences, questions,
glosses and examples of 2 to 30 words are kept, one a line.  None is a text of a set that this
project measures itself with.  Sources and licences: NOTICE.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

WORDS_MIN, WORDS_MAX = 2, 30
END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")
LINKS = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
MARKUP = re.compile(r"[{}<>|_]")


def files(clone: Path, pattern: str) -> Iterator[str]:
    """Contents of the files of a clone whose path matches; files that it lacks are left out."""
    repository = clone / "repo" if (clone / "repo").is_dir() else clone
    git = ["git", "-C", str(repository)]
    listed = subprocess.run(
        [*git, "ls-tree", "-r", "--name-only", "HEAD"], capture_output=True, text=True, check=True
    )
    for name in filter(re.compile(pattern).search, listed.stdout.splitlines()):
        shown = subprocess.run([*git, "show", f"HEAD:{name}"], capture_output=True, check=False)
        if shown.returncode == 0:
            yield shown.stdout.decode("utf-8", "replace")


def sentences(text: str) -> Iterator[str]:
    """The text itself, and its sentences if there are several."""
    text = " ".join(text.split())
    parts = END.split(text)
    for part in dict.fromkeys([text, *parts]):
        if WORDS_MIN <= len(part.split()) <= WORDS_MAX:
            yield part


def strings(content: Any) -> Iterator[str]:
    """All strings of a JSON document, also of documents inside strings."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from strings(each)
    elif isinstance(content, str):
        try:
            inner = json.loads(content) if content[:1] in ("{", "[") else None
        except ValueError:
            return
        if inner is None:
            yield content
        else:
            yield from strings(inner)


def taskmaster(clone: Path) -> Iterator[str]:
    """Lines of dialogues of Taskmaster."""
    for content in files(clone, r"(data|reward)/.*\.json$|dialogs\.json$"):
        for each in strings(json.loads(content)):
            if " " in each and not MARKUP.search(each):
                yield from sentences(each)
    for content in files(clone, r"\.tsv$"):
        for line in re.findall(r"<[UA]>([^<\t]+)|\[A\]([^<\t]+)", content):
            yield from sentences(line[0] or line[1])


def tatoeba(clone: Path) -> Iterator[str]:
    """English sentences of Tatoeba, as LASER has them."""
    for content in files(clone, r"tatoeba.*\.eng$"):
        for line in content.splitlines():
            yield from sentences(line)


def personas(clone: Path) -> Iterator[str]:
    """Lines of conversations of Synthetic-Persona-Chat."""
    for content in files(clone, r"\.csv$"):
        for row in csv.reader(io.StringIO(content)):
            for line in "\n".join(row[:3]).splitlines():
                yield from sentences(re.sub(r"^User \d: ", "", line))


def support(clone: Path) -> Iterator[str]:
    """Titles and sentences of articles of Microsoft's support."""
    for content in files(clone, r"\.md$"):
        for line in re.sub(r"```.*?```", "", content, flags=re.DOTALL).splitlines():
            title = re.match(r"(title|description): (.*)", line.strip())
            plain = title[2].strip("\"'") if title else LINKS.sub(r"\1", line.strip())
            plain = re.sub(r"^[#>\-*\d. ]+", "", plain).replace("**", "").replace("`", "")
            if title or not (re.match(r"[\w.]+:", plain) or MARKUP.search(plain)):
                yield from sentences(plain)


def chatter(clone: Path) -> Iterator[str]:
    """Questions and answers of the corpus of ChatterBot."""
    for content in files(clone, r"/english/.*\.yml$"):
        for line in content.splitlines():
            yield from sentences(line.strip().lstrip("- "))


def wordnet(folder: Path) -> Iterator[str]:
    """Glosses and examples of WordNet."""
    for path in sorted(folder.glob("data.*")):
        for line in path.read_text("latin-1").splitlines():
            if "|" in line and not line.startswith(" "):
                for part in line.split("|", 1)[1].split("; "):
                    yield from sentences(part.strip().strip('"'))


CLONES = {
    "google-research-datasets+Taskmaster": taskmaster,
    "facebookresearch+LASER": tatoeba,
    "google-research-datasets+Synthetic-Persona-Chat": personas,
    "MicrosoftDocs+OfficeDocs-Support": support,
    "gunthercox+chatterbot-corpus": chatter,
}


def write(path: Path, texts: Iterable[str]) -> None:
    """Write each text once, whatever its case."""
    kept = {text.lower(): text for text in texts}
    path.write_text("".join(f"{text}\n" for text in kept.values()), encoding="utf-8")
    print(f"{path.name}: {len(kept)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clones", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name, read in CLONES.items():
        write(given.out / f"{read.__name__}.txt", read(given.clones / name))
    write(given.out / "wordnet.txt", wordnet(given.wordnet))


if __name__ == "__main__":
    main()
