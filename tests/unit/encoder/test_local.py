"""Local models: any folder with an ONNX graph and a tokenizer is an encoder.

The folders link to the bundled model's files; a second, real model is used if
``SYNAPTOROUTE_TEST_MODEL_DIR`` names its folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from synaptoroute.encoder import Encoder
from synaptoroute.encoder.local import local_recipe
from synaptoroute.encoder.recipe import bundled_recipe
from synaptoroute.errors import (
    ConfigError,
    EncoderError,
    ModelCorrupt,
    ModelNotFound,
    SynaptoRouteError,
)

pytestmark = pytest.mark.unit

TEXTS = ["I need a refund", "a", "where is my parcel today please", "yes or no"]


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the bundled model's files and no configuration."""
    made = tmp_path / "my-model"
    made.mkdir()
    (made / "model.onnx").symlink_to(bundled_recipe().model_file)
    (made / "tokenizer.json").symlink_to(bundled_recipe().tokenizer_file)
    return made


def test_bare_folder_pools_by_mean(folder: Path) -> None:
    """The vectors are those of the bundled model."""
    local = Encoder(folder)

    assert ("my-model", 384, 512) == (local.name, local.dim, local.max_tokens)
    assert np.array_equal(Encoder(probe=False).encode(TEXTS), local.encode(TEXTS))


def test_folder_may_be_given_as_text(folder: Path) -> None:
    """As in a settings file."""
    assert Encoder(folder).fingerprint == Encoder(str(folder)).fingerprint


def test_folder_with_the_bundled_configuration_has_its_fingerprint(folder: Path) -> None:
    """The fingerprint depends on content and use, not on the place."""
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 256})

    assert Encoder(probe=False).fingerprint == Encoder(folder).fingerprint


def test_cls_pooling_is_read_from_the_folder(folder: Path) -> None:
    """From the pooling file of sentence-transformers."""
    write_json(
        folder / "1_Pooling" / "config.json",
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    )
    local = Encoder(folder)

    vectors = local.encode(TEXTS)

    assert "cls" == local_recipe(folder).pooling
    assert np.abs(vectors - Encoder(probe=False).encode(TEXTS)).max() > 0.01
    assert np.allclose(1.0, np.linalg.norm(vectors, axis=1), atol=1e-6)
    for row, text in zip(vectors, TEXTS, strict=True):
        assert np.abs(local.encode([text])[0] - row).max() < 1e-5


def test_last_token_pooling_ignores_padding(folder: Path) -> None:
    """The last real token is used, also in a run with longer texts."""
    write_json(folder / "synaptoroute.json", {"pooling": "last"})
    local = Encoder(folder)
    texts = ["card " * 20, "card " * 21, "card " * 21]

    together = local.encode(texts)

    assert local.stats().padding_tokens > 0
    for row, text in zip(together, texts, strict=True):
        assert np.abs(local.encode([text])[0] - row).max() < 1e-5


def test_own_file_overrides_other_configuration(folder: Path) -> None:
    """synaptoroute.json comes first."""
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 256})
    write_json(
        folder / "synaptoroute.json",
        {
            "pooling": "mean",
            "max_tokens": 32,
            "query_prefix": "query: ",
            "utterance_prefix": "passage: ",
            "output": "last_hidden_state",
        },
    )
    local = Encoder(folder)

    assert 32 == local.max_tokens
    assert 32 == local.tokenize(["word " * 100])[0].count
    assert local.tokenize(["x"])[0].key != local.tokenize_utterances(["x"])[0].key


def test_declared_scripts_decide_what_is_understood(folder: Path) -> None:
    """Without them every script is compared; they are not part of the fingerprint."""
    texts = ["где мой заказ", "where is my order"]
    undeclared = Encoder(folder)
    write_json(folder / "synaptoroute.json", {"scripts": ["LATIN", "GREEK"]})
    declared = Encoder(folder)

    assert frozenset({"LATIN", "GREEK"}) == local_recipe(folder).scripts
    assert [True, True] == [tokens.is_understood for tokens in undeclared.tokenize(texts)]
    assert [False, True] == [tokens.is_understood for tokens in declared.tokenize(texts)]
    assert undeclared.fingerprint == declared.fingerprint


def test_graph_that_is_not_batch_invariant_runs_text_by_text(folder: Path) -> None:
    """So vectors do not depend on the batch, at the price of more runs."""
    graph = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").unlink()
    # Field 6 of an ONNX model is its documentation: the graph stays what it was.
    note = b"DynamicQuantizeLinear"
    (folder / "model.onnx").write_bytes(graph + b"\x32" + bytes([len(note)]) + note)
    local = Encoder(folder)

    vectors = local.encode(["card " * 20, "card " * 21, "card " * 21])

    assert not local.is_batch_invariant
    assert Encoder(probe=False).is_batch_invariant
    assert 0 == local.stats().padding_tokens
    assert (3, 384) == vectors.shape


@pytest.mark.parametrize(
    "place", ["onnx/model.onnx", "model_optimized.onnx", "any-name-if-only-one.onnx"]
)
def test_usual_places_of_the_graph_are_found(folder: Path, place: str) -> None:
    """Exporters write the graph to several places."""
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / "model.onnx").rename(folder / place)

    assert folder / place == local_recipe(folder).model_file


def test_several_graphs_of_unusual_names_need_a_choice(folder: Path) -> None:
    """The own file names one."""
    (folder / "model.onnx").rename(folder / "a.onnx")
    (folder / "b.onnx").symlink_to(folder / "a.onnx")

    with pytest.raises(ModelNotFound, match="2 graphs"):
        local_recipe(folder)
    write_json(folder / "synaptoroute.json", {"model_file": "b.onnx"})
    assert folder / "b.onnx" == local_recipe(folder).model_file


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_missing_file_is_not_found(folder: Path, name: str) -> None:
    """The error names it."""
    (folder / name).unlink()

    with pytest.raises(ModelNotFound, match=name):
        Encoder(folder)


def test_absent_folder_is_not_found(tmp_path: Path) -> None:
    """A Path is never downloaded."""
    with pytest.raises(ModelNotFound, match="not a folder"):
        Encoder(tmp_path / "absent")


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_broken_file_is_corrupt(folder: Path, name: str) -> None:
    """The error names the file."""
    (folder / name).unlink()
    (folder / name).write_bytes(b"\x00 nonsense")

    with pytest.raises(ModelCorrupt, match=name):
        Encoder(folder)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"poolling": "mean"}, ConfigError),
        ({"pooling": "max"}, ConfigError),
        ({"max_tokens": "many"}, ConfigError),
        ({"max_tokens": True}, ConfigError),
        ({"max_tokens": 100_000}, ConfigError),
        ({"model_file": "absent.onnx"}, ModelNotFound),
        ({"output": "absent"}, EncoderError),
        ({"pooling": "none"}, EncoderError),
        ({"scripts": "LATIN"}, ConfigError),
        ({"scripts": []}, ConfigError),
        ({"scripts": ["Klingon"]}, ConfigError),
        ({"scripts": [["LATIN"]]}, ConfigError),
        ([], EncoderError),
    ],
)
def test_wrong_own_file_is_refused(
    folder: Path, content: object, error: type[SynaptoRouteError]
) -> None:
    """A wrong key or value is an error."""
    write_json(folder / "synaptoroute.json", content)

    with pytest.raises(error):
        Encoder(folder)


def test_unreadable_configuration_is_refused(folder: Path) -> None:
    """A truncated configuration is not treated as absent."""
    (folder / "config.json").write_text('{"max_position')

    with pytest.raises(EncoderError, match=r"config\.json"):
        local_recipe(folder)


@pytest.mark.parametrize(
    "modes",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
    ],
)
def test_unsupported_pooling_is_refused(folder: Path, modes: dict[str, bool]) -> None:
    """A wrong pooling would give plausible but wrong vectors."""
    write_json(folder / "1_Pooling" / "config.json", modes)

    with pytest.raises(EncoderError, match="not offered"):
        local_recipe(folder)


@pytest.mark.parametrize(
    ("config", "tokenizer_config", "expected"),
    [
        ({"max_position_embeddings": 512, "model_type": "bert"}, {}, (512, 512)),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta"}, {}, (512, 512)),
        ({"max_position_embeddings": 8192}, {"model_max_length": 8192}, (512, 8192)),
        ({"max_position_embeddings": 512}, {"model_max_length": 128}, (128, 512)),
        ({}, {"model_max_length": 77}, (77, 77)),
        ({}, {"model_max_length": int(1e30)}, (512, 512)),
    ],
)
def test_lengths_come_from_the_folder(
    folder: Path,
    config: dict[str, object],
    tokenizer_config: dict[str, object],
    expected: tuple[int, int],
) -> None:
    """Tokens kept and positions; a long context must be asked for."""
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    found = local_recipe(folder)

    assert expected == (found.max_tokens, found.positions_max)


@pytest.mark.skipif(
    "SYNAPTOROUTE_TEST_MODEL_DIR" not in os.environ, reason="needs a second model's folder"
)
def test_second_real_model_routes_and_is_batch_invariant() -> None:
    """Another model works from its folder, with its own fingerprint."""
    other = Encoder(Path(os.environ["SYNAPTOROUTE_TEST_MODEL_DIR"]))
    texts = ["I want a refund", "how do I get my money back", "nice weather", "card " * 60]

    together = other.encode(texts)

    assert together[0] @ together[1] > together[0] @ together[2] + 0.2
    assert other.fingerprint != Encoder(probe=False).fingerprint
    for row, text in zip(together, texts, strict=True):
        assert np.abs(other.encode([text])[0] - row).max() < 1e-5
