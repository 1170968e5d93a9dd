"""The catalogue: fastembed's models open from its cache, and offline errors are clear.

fastembed's own code runs without a network, over a cache that holds the bundled model's
files where fastembed keeps a download.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from synaptoroute.config import DEFAULT_MODEL
from synaptoroute.encoder import Encoder, fast_encoder, fetch_model, list_models
from synaptoroute.encoder.catalogue import find_recipe
from synaptoroute.encoder.recipe import bundled_recipe
from synaptoroute.errors import EncoderError, ModelNotFound

pytestmark = pytest.mark.unit

LISTED = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def fill_cache(cache_dir: Path, repository: str, graph: str = "model.onnx") -> Path:
    """Store the bundled model like a finished download of another one."""
    home = cache_dir / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / ("0" * 40)
    (snapshot / graph).parent.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    (snapshot / graph).symlink_to(bundled_recipe().model_file)
    (snapshot / "tokenizer.json").symlink_to(bundled_recipe().tokenizer_file)
    (snapshot / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    (snapshot / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 128}))
    return snapshot


def test_cached_model_opens_by_name_in_any_case(tmp_path: Path) -> None:
    """fastembed finds the files; the session is the encoder's own."""
    fill_cache(tmp_path, "Qdrant/all-MiniLM-L6-v2-onnx")
    listed = Encoder(LISTED.upper(), cache_dir=tmp_path)

    assert (LISTED, 384, 128) == (listed.name, listed.dim, listed.max_tokens)
    assert np.array_equal(
        Encoder(probe=False).encode(["a refund please"]), listed.encode(["a refund please"])
    )


def test_fetch_returns_the_folder_of_a_cached_model(tmp_path: Path) -> None:
    """A second fetch needs no network."""
    snapshot = fill_cache(tmp_path, "Qdrant/all-MiniLM-L6-v2-onnx")

    assert snapshot == fetch_model(LISTED, tmp_path)


def test_fetch_returns_the_installed_folder_of_the_bundled_model() -> None:
    """There is nothing to download."""
    assert (fetch_model(DEFAULT_MODEL) / "model.onnx").is_file()


def test_failed_download_names_what_works_offline(tmp_path: Path) -> None:
    """The error says which models need no network."""
    with pytest.raises(EncoderError, match=DEFAULT_MODEL) as caught:
        Encoder(LISTED, cache_dir=tmp_path)

    assert not isinstance(caught.value, ModelNotFound)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("bge-small-en-v1.5", "BAAI/bge-small-en-v1.5"),
        ("BAAI/bge-smal-en-v1.5", "BAAI/bge-small-en-v1.5"),
    ],
)
def test_unknown_name_lists_similar_names(name: str, near: str) -> None:
    """A misspelt name starts no download."""
    with pytest.raises(ModelNotFound, match=near):
        Encoder(name)


def test_unlike_name_lists_no_similar_names() -> None:
    """No suggestion is better than a wrong one."""
    with pytest.raises(ModelNotFound) as caught:
        fetch_model("zzzzzzzz")

    assert "did you mean" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "repository", "graph", "pooling", "prefix"),
    [
        (
            "BAAI/bge-small-en-v1.5",
            "Qdrant/bge-small-en-v1.5-onnx-Q",
            "model_optimized.onnx",
            "cls",
            "",
        ),
        (
            "snowflake/snowflake-arctic-embed-xs",
            "Snowflake/snowflake-arctic-embed-xs",
            "onnx/model.onnx",
            "cls",
            "",
        ),
        (
            "intfloat/multilingual-e5-large",
            "Qdrant/multilingual-e5-large-onnx",
            "model.onnx",
            "mean",
            "query: ",
        ),
        (
            "nomic-ai/nomic-embed-text-v1.5",
            "nomic-ai/nomic-embed-text-v1.5",
            "onnx/model.onnx",
            "mean",
            "classification: ",
        ),
        (LISTED, "Qdrant/all-MiniLM-L6-v2-onnx", "model.onnx", "mean", ""),
    ],
)
def test_pooling_and_prefix_follow_the_family(
    tmp_path: Path, name: str, repository: str, graph: str, pooling: str, prefix: str
) -> None:
    """As fastembed's classes do; queries and utterances get the same prefix."""
    snapshot = fill_cache(tmp_path, repository, graph)
    if name.startswith("intfloat"):
        (snapshot / "model.onnx_data").touch()

    found = find_recipe(name, tmp_path)

    assert (pooling, prefix, prefix) == (found.pooling, found.query_prefix, found.utterance_prefix)
    assert snapshot / graph == found.model_file
    is_english = not name.startswith("intfloat")
    assert (frozenset({"LATIN"}) if is_english else None) == found.scripts


def test_list_starts_with_the_bundled_model_and_marks_local_models(tmp_path: Path) -> None:
    """Local models need no network."""
    fill_cache(tmp_path, "Qdrant/all-MiniLM-L6-v2-onnx")

    models = list_models(tmp_path)

    assert [DEFAULT_MODEL, *fast_encoder.MODELS] == [model.name for model in models[:3]]
    assert models[1].is_local
    downloaded = [model.name for model in models[4:] if model.is_local]
    assert [LISTED] == downloaded
    assert len(models) > 30
    assert len(models) == len({model.name.lower() for model in models})
    assert all(model.dim > 0 and model.size_bytes > 0 for model in models)
    assert "apache-2.0" == models[0].licence
    assert "minishlab/potion-base-8M" not in {model.name for model in models}
