"""Packed graphs of models other than the bundled one, as ``model prepare`` left them.

A graph is a file beside the model, or in the cache, with a file that says how it was
checked.  Both are found by the digest of the model's file, the way it is pooled and the
precision, so a changed model has none.  A model that cannot be packed has the second file
alone, with the reason.

A float32 graph computes the vectors of the model's own file up to their last bits, as
another CPU would, and has its fingerprint.  An int8 graph has a fingerprint of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.packed_session import PackedSession
from synaptoroute.encoder.prepared import cache_folder
from synaptoroute.encoder.recipe import Recipe, read_digest
from synaptoroute.errors import EncoderError, ModelCorrupt

PACKED_VERSION: Final = 1
"""Part of the file names and of int8 fingerprints: raise it when graphs give other numbers."""
PACKED_GLOB: Final = "packed-*.json"
_FORMAT: Final = "synaptoroute-packed-model"
_FILE_BYTES_MAX: Final = 1 << 20
_log = logging.getLogger(__name__)

Exact = Literal["float32", "int8"]


@dataclass(frozen=True, slots=True)
class PackedCheck:
    """Result of the comparison of a packed graph with the file of its model.

    Attributes:
        cosine_min: Least cosine of a text's vector to that of the model's file.
        agreement: Share of texts with the same nearest neighbour.
        accuracy: Share of probe texts that get their route.
        accuracy_of_file: The same with vectors of the model's file.
        is_invariant: Whether a text has the same bits alone and in every batch.
        speedup: Texts a second in batches, over those of the model's file.
        lone_speedup: The same one by one.
        cpu: Model of the processor.
    """

    cosine_min: float
    agreement: float
    accuracy: float
    accuracy_of_file: float
    is_invariant: bool
    speedup: float
    lone_speedup: float
    cpu: str


@dataclass(frozen=True, slots=True)
class PackedProbe:
    """A text as token ids, and its vector by the model's own file."""

    ids: list[int]
    vector: list[float]


@dataclass(frozen=True, slots=True)
class PackedModel:
    """Result of ``model prepare`` for one model in one precision.

    Attributes:
        model: Its name.
        key: Digest of what the graph depends on.
        output: The output of the model's file that the graph stands for.
        reason: Why the graph is not used; empty if it is.
        graph_sha256: Digest of the graph's file.
        cosine_min: Cosine to the probe below which the graph is not used.
    """

    model: str
    key: str
    precision: Exact
    reason: str
    output: str = ""
    heads: int = 0
    graph_sha256: str = ""
    check: PackedCheck | None = None
    cosine_min: float = 1.0
    probe: tuple[PackedProbe, ...] = ()
    folder: Path | None = None

    @property
    def is_used(self) -> bool:
        return not self.reason


def packed_key(recipe: Recipe, model_sha256: str, precision: Exact) -> str:
    """Digest of everything that a packed graph and its check depend on."""
    parts = [model_sha256, recipe.output or "", recipe.pooling, precision, str(PACKED_VERSION)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def find_packed(
    recipe: Recipe, model_sha256: str, precision: Exact, cache_dir: Path | None
) -> PackedModel | None:
    """Find what was prepared for a model; None if nothing was, or it cannot be read."""
    key = packed_key(recipe, model_sha256, precision)
    for folder in (recipe.tokenizer_file.parent, cache_folder(cache_dir)):
        found = load_packed(folder / f"packed-{key}.json")
        if found is None or found.key != key or found.precision != precision:
            continue
        # The cache also describes graphs that are beside their model.
        if not found.is_used or (folder / graph_name(key)).is_file():
            return found
    return None


def list_packed(cache_dir: Path | None = None) -> list[PackedModel]:
    """List what was packed, or not, in the cache of this machine, by file name."""
    paths = sorted(cache_folder(cache_dir).glob(PACKED_GLOB))
    return [found for path in paths if (found := load_packed(path)) is not None]


def load_packed(path: Path) -> PackedModel | None:
    """Read one file; None if there is none, or if it is damaged or of another release."""
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
    except OSError:
        return None
    try:
        content = json.loads(text) if len(text) <= _FILE_BYTES_MAX else None
        return replace(_read(content), folder=path.parent)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        _log.warning("%s is not used: %s; run `synaptoroute model prepare --again`", path, error)
        return None


def save_packed(packed: PackedModel, graph: bytes | None, folder: Path) -> PackedModel:
    """Write the graph, then the file that names it: a crash leaves a graph without a name."""
    folder.mkdir(parents=True, exist_ok=True)
    if graph is not None:
        _write(folder / graph_name(packed.key), graph)
    content = {"format": _FORMAT, **asdict(replace(packed, folder=None))}
    _write(folder / f"packed-{packed.key}.json", json.dumps(content, sort_keys=True).encode())
    return replace(packed, folder=folder)


def graph_name(key: str) -> str:
    # Not ``.onnx``: a folder with a single graph of that kind is a model without a usual name.
    return f"packed-{key}.graph"


def open_packed(packed: PackedModel, recipe: Recipe, providers: Sequence[str]) -> PackedSession:
    """Open a graph that is used, and compare its vectors with the probe.

    Raises:
        ModelCorrupt: Its file is absent or not the one that was checked.
        EncoderError: It computes other vectors on this machine.
    """
    assert packed.folder is not None, "it was found in a folder"
    path = packed.folder / graph_name(packed.key)
    found = read_digest(path)
    if found != packed.graph_sha256:
        raise ModelCorrupt(
            f"{path.name} is not the graph that was checked; run `synaptoroute model prepare "
            f"{recipe.name} --precision {packed.precision} --again`",
            file=path.name,
        )
    session = PackedSession(path, path.name, providers, packed.heads, packed.output)
    least = min(probe_cosines(session, packed.probe, recipe), default=1.0)
    if not least >= packed.cosine_min:  # also refuses NaN
        raise EncoderError(
            f"the packed graph of {recipe.name} has cosine {least:.6f} to the model's own "
            f"vectors on this machine, at least {packed.cosine_min:.6f} is needed",
            cosine=least,
        )
    return session


def probe_cosines(
    session: PackedSession, probe: Sequence[PackedProbe], recipe: Recipe
) -> list[float]:
    """Cosine of each text of a probe to its vector."""
    cosines: list[float] = []
    for each in probe:
        ids = np.array([each.ids], dtype=np.int64)
        vector = run_alone(session, ids, recipe)
        cosines.append(float(vector @ np.array(each.vector, dtype=np.float64)))
    return cosines


def run_alone(
    session: PackedSession, ids: NDArray[np.int64], recipe: Recipe
) -> NDArray[np.float32]:
    """Encode one text of int64[1, count]."""
    count = ids.shape[1]
    rows = np.zeros((1, session.width_of(count)), dtype=np.int64)
    rows[0, :count] = ids[0]
    vector: NDArray[np.float32] = session.run(rows, np.array([count]), recipe.pooling)[0]
    return vector


def _read(content: Any) -> PackedModel:
    if content["format"] != _FORMAT:
        raise ValueError("it is of another release")
    precision = content["precision"]
    if precision not in ("float32", "int8"):
        raise ValueError("it has no precision")
    check = content["check"]
    return PackedModel(
        str(content["model"]),
        str(content["key"]),
        precision,
        str(content["reason"]),
        str(content["output"]),
        int(content["heads"]),
        str(content["graph_sha256"]),
        None if check is None else PackedCheck(**check),
        float(content["cosine_min"]),
        tuple(
            PackedProbe([int(one) for one in each["ids"]], [float(one) for one in each["vector"]])
            for each in content["probe"]
        ),
    )


def _write(path: Path, content: bytes) -> None:
    """Write under a temporary name first: a crash leaves the old file or none."""
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Other users read it beside the model, which a private temporary file would forbid.
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
