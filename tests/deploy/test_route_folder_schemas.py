"""The JSON Schemas of route folders: an editor accepts what is read, and marks mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from needs import lacking
from repository import ROOT
from synaptoroute.importers.folder_schemas import SCHEMAS, schema_of

pytestmark = pytest.mark.deploy

GOOD = {
    "route": "name: a\nutterances: [x]\nnegatives: [y]\nthreshold: 0.4\npayload: null\n",
    "settings": "topk: 3\nthreshold: null\nignore: ['[0-9]+']\nfeedback: {items_max: 5}\n",
    "tests": "x: a\ny: null\n",
    "set": "name: a@1\nlimits: {routes_max: 3}\n",
    "aliases": "a: {set: b, shadow: c, shadow_share: 0.5}\n",
}
BAD = {
    "route": "name: a\nutterence: [x]\n",
    "settings": "topk: '3'\n",
    "tests": "x: 7\n",
    "set": "limits: {routes: 3}\n",
    "aliases": "a: {share: 0.5}\n",
}


def accepts(kind: str, path: Path, folder: Path) -> bool:
    """Whether the schema of a kind of file accepts a file."""
    program = Path(sys.executable).with_name("check-jsonschema")
    if not program.exists():
        lacking("the program 'check-jsonschema'")
    schema = folder / f"{kind}.json"
    schema.write_text(json.dumps(schema_of(kind)), encoding="utf-8")
    done = subprocess.run(
        [program, "--schemafile", schema, path], capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


@pytest.mark.parametrize("kind", SCHEMAS)
def test_schema_accepts_files_and_marks_mistakes(kind: str, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD[kind], encoding="utf-8")
    (tmp_path / "bad.yaml").write_text(BAD[kind], encoding="utf-8")

    assert accepts(kind, tmp_path / "good.yaml", tmp_path)
    assert not accepts(kind, tmp_path / "bad.yaml", tmp_path)


def test_schemas_accept_the_example_folder(tmp_path: Path) -> None:
    for path in sorted((ROOT / "examples/support").iterdir()):
        assert accepts(path.stem if path.stem in SCHEMAS else "route", path, tmp_path), path
