"""The models that can be used: the bundled one, fastembed's, and local folders.

fastembed finds, downloads and describes models.  It is imported only if one of its models
is asked for, and runs no inference here.  What its classes do after the graph (pooling) is
repeated as data below.

Prefixes: a query and an utterance are both short texts, so both get the prefix that a
model's card gives for symmetric similarity, never the pair of query and passage of
document search.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from synaptoroute.config import DEFAULT_MODEL
from synaptoroute.encoder import fast_encoder, universal_encoder
from synaptoroute.encoder.contract import TextEncoder
from synaptoroute.encoder.local import local_recipe, positions_of, trained_tokens
from synaptoroute.encoder.presets import PRESETS, resolve
from synaptoroute.encoder.recipe import (
    BUNDLED_DIM,
    BUNDLED_LICENCE,
    BUNDLED_SIZE_BYTES,
    Pooling,
    Recipe,
    bundled_recipe,
)
from synaptoroute.errors import EncoderError, ModelNotFound

if TYPE_CHECKING:
    from fastembed.common.model_description import DenseModelDescription

_DOWNLOAD_ATTEMPTS: Final = 1
_TEXT_MATCHING_TASK: Final = 4

# Pooling of fastembed's model classes.  A class that is not listed here is not a text
# graph that can run in micro-batches (static tables, SigLIP of fixed length).
_POOLING_BY_CLASS: Final[Mapping[str, Pooling]] = {
    "OnnxTextEmbedding": "cls",
    "CLIPOnnxEmbedding": "none",
    "PooledNormalizedEmbedding": "mean",
    "PooledEmbedding": "mean",
    "JinaEmbeddingV3": "mean",
    "BuiltinSentenceEmbedding": "none",
    "LastTokenNormalizedEmbedding": "last",
}
_OUTPUT_BY_CLASS: Final[Mapping[str, str]] = {"BuiltinSentenceEmbedding": "sentence_embedding"}
_CONSTANTS_BY_CLASS: Final[Mapping[str, Mapping[str, int]]] = {
    "JinaEmbeddingV3": {"task_id": _TEXT_MATCHING_TASK}
}
_PREFIX_BY_FAMILY: Final[Mapping[str, str]] = {
    "intfloat/": "query: ",
    "nomic-ai/nomic-embed-text": "classification: ",
    "google/embeddinggemma": "task: sentence similarity | query: ",
}
# What fastembed says of a model that was trained on English alone.
_ENGLISH_NAME: Final = re.compile(r"-en(-|$)", re.IGNORECASE)
_ENGLISH_DESCRIPTION: Final = re.compile(r", English,|English only")


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One line of the list of models."""

    name: str
    dim: int
    size_bytes: int
    licence: str
    is_local: bool


@dataclass(frozen=True, slots=True)
class _Listed:
    """A model of fastembed's catalogue and the class that owns it."""

    owner: Any
    description: DenseModelDescription

    @property
    def name(self) -> str:
        return self.description.model


def list_models(cache_dir: Path | None = None) -> list[ModelSummary]:
    """List the bundled model, the fast ones, the multilingual one, then fastembed's by name."""
    own = ModelSummary(
        DEFAULT_MODEL, BUNDLED_DIM, BUNDLED_SIZE_BYTES, BUNDLED_LICENCE, is_local=True
    )
    fast = [
        ModelSummary(
            model.name,
            fast_encoder.DIM,
            model.size_bytes,
            fast_encoder.LICENCE,
            is_local=True,
        )
        for model in fast_encoder.MODELS.values()
    ]
    multilingual = ModelSummary(
        universal_encoder.NAME,
        universal_encoder.DIM,
        universal_encoder.SIZE_BYTES,
        universal_encoder.LICENCE,
        is_local=universal_encoder.is_installed(),
    )
    folder = _cache_folder(cache_dir)
    listed = sorted(_catalogue().values(), key=lambda model: model.name.lower())
    return [own, *fast, multilingual, *(_summary(model, folder) for model in listed)]


def fetch_model(name: str, cache_dir: Path | None = None) -> Path:
    """Download a model, if needed; returns its folder.  Shows progress on stderr."""
    name = resolve(name)
    if name == DEFAULT_MODEL:
        return bundled_recipe().model_file.parent
    if name in fast_encoder.MODELS:
        return fast_encoder.MODELS[name].table.file.parent
    if name == universal_encoder.NAME:
        return universal_encoder.resources()
    return _fetch(_look_up(name), cache_dir)


def open_graphless(model: str, cache_dir: Path | None = None) -> TextEncoder | None:
    """Open an encoder that is not a graph, by the name of a model or preset; None for others.

    Raises:
        ModelNotFound: Its extra is not installed.
        ModelCorrupt: A file is not the expected one.
    """
    name = resolve(model)
    if name in fast_encoder.MODELS:
        return fast_encoder.FastEncoder(cache_dir, fast_encoder.MODELS[name])
    if name == universal_encoder.NAME:
        return universal_encoder.UniversalEncoder(cache_dir)
    return None


def find_recipe(model: str | Path, cache_dir: Path | None = None) -> Recipe:
    """Find a model with a graph: the bundled one, a folder, or one of fastembed, in this order."""
    if isinstance(model, str):
        model = resolve(model)
    if model == DEFAULT_MODEL:
        return bundled_recipe()
    if Path(model).is_dir():
        return local_recipe(Path(model))
    if isinstance(model, Path):
        raise ModelNotFound(f"{model} is not a folder", model=str(model))
    listed = _look_up(model)
    return _listed_recipe(listed, _fetch(listed, cache_dir))


def _catalogue() -> dict[str, _Listed]:
    """Read fastembed's catalogue: lower-case name to model, first owner wins."""
    from fastembed import TextEmbedding

    models: dict[str, _Listed] = {}
    for owner in TextEmbedding.EMBEDDINGS_REGISTRY:
        if owner.__name__ in _POOLING_BY_CLASS:
            for description in owner._list_supported_models():
                models.setdefault(description.model.lower(), _Listed(owner, description))
    return models


def _look_up(name: str) -> _Listed:
    models = _catalogue()
    listed = models.get(name.lower())
    if listed is None:
        known = [
            *(preset.name for preset in PRESETS),
            DEFAULT_MODEL,
            *(model.name for model in models.values()),
        ]
        near = _near_matches(name, known)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ModelNotFound(
            f"no model or folder is called {name!r}{hint}", model=name, near_matches=near
        )
    return listed


def _near_matches(name: str, known: list[str]) -> list[str]:
    """Compare names with and without their owner, ignoring case."""
    keys: dict[str, str] = {}
    for full in known:
        keys[full.lower()] = full
        keys.setdefault(full.lower().rpartition("/")[2], full)
    found = difflib.get_close_matches(name.lower(), keys, n=3, cutoff=0.6)
    return list(dict.fromkeys(keys[key] for key in found))


def _fetch(listed: _Listed, cache_dir: Path | None) -> Path:
    """Return the folder of a model, downloaded if it is not in the cache."""
    folder = _cache_folder(cache_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = listed.owner.download_model(
            listed.description, str(folder), retries=_DOWNLOAD_ATTEMPTS
        )
    except Exception as error:  # transport errors of several libraries
        raise EncoderError(
            f"{listed.name} is not in {folder} and could not be downloaded: "
            f"{str(error).rstrip('.')}. Without a network use {DEFAULT_MODEL!r} or a local folder",
            model=listed.name,
        ) from error
    return Path(found)


def _listed_recipe(listed: _Listed, folder: Path) -> Recipe:
    """Describe a downloaded model as its class in fastembed would use it."""
    owner = listed.owner.__name__
    prefix = _prefix(listed.name)
    positions_max = positions_of(folder)
    return Recipe(
        name=listed.name,
        model_file=folder / listed.description.model_file,
        tokenizer_file=folder / "tokenizer.json",
        pooling=_POOLING_BY_CLASS[owner],
        max_tokens=min(trained_tokens(folder), positions_max),
        positions_max=positions_max,
        output=_OUTPUT_BY_CLASS.get(owner),
        query_prefix=prefix,
        utterance_prefix=prefix,
        constant_inputs=_CONSTANTS_BY_CLASS.get(owner, {}),
        scripts=_scripts(listed),
    )


def _scripts(listed: _Listed) -> frozenset[str] | None:
    """Latin script for a model of English alone; None, for all, where that is not known."""
    is_english = _ENGLISH_NAME.search(listed.name) or _ENGLISH_DESCRIPTION.search(
        listed.description.description
    )
    return frozenset({"LATIN"}) if is_english else None


def _prefix(name: str) -> str:
    for family, prefix in _PREFIX_BY_FAMILY.items():
        if name.lower().startswith(family):
            return prefix
    return ""


def _cache_folder(cache_dir: Path | None) -> Path:
    """The folder of downloads; it may not exist."""
    if cache_dir is not None:
        return cache_dir
    from fastembed.common.utils import define_cache_dir

    return Path(define_cache_dir(None))


def _summary(listed: _Listed, cache_folder: Path) -> ModelSummary:
    description = listed.description
    return ModelSummary(
        name=description.model,
        dim=description.dim or 0,
        size_bytes=int(description.size_in_GB * 1_000_000_000),
        licence=description.license,
        is_local=_is_cached(description, cache_folder),
    )


def _is_cached(description: DenseModelDescription, cache_folder: Path) -> bool:
    """Whether the graph is in the cache; does not use the network."""
    source = (description.sources.hf or "").replace("/", "--")
    snapshots = cache_folder / f"models--{source}" / "snapshots"
    return any(snapshots.glob(f"*/{description.model_file}"))
