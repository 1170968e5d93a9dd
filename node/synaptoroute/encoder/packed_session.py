"""Packed graphs: laid out and run; that of the bundled model is assembled here too.

The package ``encoder_graph`` authors the graphs.  That of the bundled model ships as package
data without the large tensors, which are copied from the verified model file when the graph
is opened.  Those of other models are files; see ``packed_model``.

A graph multiplies the tokens of all texts of a run end to end, so texts of any length
share a product without padding.  Only attention lays them out by text.  Its width for a
text is the text's own length rounded up to ``WIDTH_STEP``, never that of another text: the
shape of a text's arithmetic, and so its bits, do not depend on the batch.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.recipe import (
    BUNDLED_DIM,
    DATA,
    MODEL_OUTPUT,
    MODEL_SHA256,
    Pooling,
    Recipe,
    bundled_recipe,
)
from synaptoroute.encoder.session import normalise, open_session, run_session
from synaptoroute.errors import ConfigError, ModelCorrupt

GRAPH_VERSION: Final = 2
"""Part of the fingerprint: raise it when the bundled model's graph gives other numbers."""
GRAPH_PARTS: Final = "int8_graph.json"
GRAPH_INLINE: Final = "int8_graph.bin"
OUTPUT: Final = "hidden"
WORDS: Final = "words"
"""Tensor of the bundled model's graph that is read from the file of the model."""
ENDS: Final = "ends"
"""Input of a graph that returns one row a text: the rows that are pooled, int64[n]."""
HEADS: Final = 12

STEPS: Final = 127
"""Activations are rounded to integers from 0 to this."""
MIDDLE: Final = 64
"""Zero on a grid that is symmetric about zero."""
WIDTH_STEP: Final = 16
CACHED_WIDTH_MAX: Final = 64
_CPU: Final = "CPUExecutionProvider"


def offers_int8(recipe: Recipe, model_sha256: str, providers: Sequence[str]) -> bool:
    """Whether there is an int8 graph for this model and this use of it."""
    is_model = model_sha256 == MODEL_SHA256 and recipe.output in (None, MODEL_OUTPUT)
    return is_model and recipe.pooling == "mean" and list(providers) == [_CPU]


def width_of(count: int) -> int:
    """Width of attention for a text of ``count`` tokens."""
    return -(-count // WIDTH_STEP) * WIDTH_STEP


class PackedSession:
    """Runs packed micro-batches; ``run`` may be called from any thread."""

    is_packed = True
    width_of = staticmethod(width_of)

    def __init__(
        self,
        graph: bytes | Path,
        name: str,
        providers: Sequence[str],
        heads: int = HEADS,
        output: str = OUTPUT,
        shared: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Open a graph, or the file of one.

        Args:
            heads: Heads of its attention.
            output: Name of the output in the fingerprint: the one that the graph stands for.
            shared: See ``open_session``.
        """
        self.output = output
        self._heads = heads
        content = str(graph) if isinstance(graph, Path) else graph
        # Fusions would change the rounding of activations, and with it the vectors.
        self._session = open_session(content, name, providers, is_final=True, shared=shared)
        # Graphs of earlier releases return every row.
        self._returns_ends = ENDS in {each.name for each in self._session.get_inputs()}

    @classmethod
    def of_bundled(cls, recipe: Recipe, providers: Sequence[str]) -> PackedSession:
        """Open the int8 graph of the bundled model."""
        model = _read_model(recipe, providers)
        graph, shared = assemble_graph(model, DATA), {}
        if isinstance(model, mmap.mmap):
            shared[WORDS] = words_of(model, DATA)
            # The checksum has read every page.  From now on only words that are asked take memory.
            model.madvise(mmap.MADV_DONTNEED)
        return cls(graph, f"{recipe.model_file.name} as int8", providers, shared=shared)

    @staticmethod
    def plan(
        counts: Sequence[int], tokens_max: int, texts_max: int | None = None
    ) -> list[list[int]]:
        """Split a batch into runs: texts of one width, at most ``tokens_max`` tokens.

        An invariant graph needs no ``texts_max``.

        Returns:
            Indexes into ``counts``, each exactly once; a longer text runs alone.
        """
        widths = [width_of(count) for count in counts]
        runs: list[list[int]] = []
        size = 0
        for index in sorted(range(len(counts)), key=widths.__getitem__):
            count = counts[index]
            # One width a run: a text must not be laid out wider for a longer neighbour.
            if runs and size + count <= tokens_max and widths[runs[-1][-1]] == widths[index]:
                runs[-1].append(index)
                size += count
            else:
                runs.append([index])
                size = count
        return runs

    def run(
        self, ids: NDArray[np.int64], counts: NDArray[np.int64], pooling: Pooling
    ) -> NDArray[np.float32]:
        """Encode one micro-batch; see ``GraphSession.run``."""
        packed = pack(counts, ids.shape[1], self._heads)
        rows = ids.reshape(-1)[packed.places]
        given = feeds(rows, packed)
        if pooling != "mean":
            ends = packed.starts + (counts - 1 if pooling == "last" else 0)
            if self._returns_ends:
                found = run_session(self._session, OUTPUT, {**given, ENDS: ends})
            else:
                found = run_session(self._session, OUTPUT, given)[ends]
            return normalise(found.astype(np.float64))
        hidden = run_session(self._session, OUTPUT, given)
        sums = np.empty((len(counts), hidden.shape[1]))
        ends = (packed.starts + counts).tolist()
        # Text by text: rows are added in order, and no copy of all rows in float64 is made, whose
        # memory the allocator would fetch from the kernel and give back for each run.
        for total, start, end in zip(sums, packed.starts.tolist(), ends, strict=True):
            np.add.reduce(hidden[start:end], axis=0, dtype=np.float64, out=total)
        sums /= counts[:, None]
        return normalise(sums)


# --- assembling the graph ---


def _read_model(recipe: Recipe, providers: Sequence[str]) -> bytes | mmap.mmap:
    """Map the model of the package; a copy elsewhere, which somebody may cut short, is read."""
    if list(providers) != [_CPU]:
        raise ConfigError(f"precision int8 runs on {_CPU} alone, got {', '.join(providers)}")
    content: bytes | mmap.mmap
    if recipe.model_file == bundled_recipe().model_file:
        with recipe.model_file.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    else:
        content = recipe.model_file.read_bytes()
    # The parts are cut by offset: only the exact file has the right bytes there.
    if not offers_int8(recipe, hashlib.sha256(content).hexdigest(), providers):
        raise ConfigError(
            "precision int8 is made for the bundled model, pooled by the mean; "
            "use float32 for any other",
            file=recipe.model_file.name,
        )
    return content


def words_of(model: bytes | mmap.mmap, folder: Path) -> NDArray[np.int8]:
    """View the words of the model file, int8[tokens, dim]: the largest tensor that is copied."""
    copied = [part[1:] for part in _read_parts(folder)[0] if part[0] == "copy"]
    start, size = max(copied, key=itemgetter(1))
    return np.frombuffer(model, np.int8, size, start).reshape(-1, BUNDLED_DIM)


def _read_parts(folder: Path) -> tuple[list[list[Any]], memoryview]:
    try:
        parts = json.loads((folder / GRAPH_PARTS).read_bytes())
        return parts, memoryview((folder / GRAPH_INLINE).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelCorrupt(f"{GRAPH_PARTS} cannot be read: {error}", file=GRAPH_PARTS) from error


def assemble_graph(model: bytes | mmap.mmap, folder: Path) -> bytes:
    """Join the shipped parts of the int8 graph with tensors of the model file."""
    parts, inline = _read_parts(folder)
    joined: list[Any] = []  # buffers: views and arrays
    used = 0
    for kind, *numbers in parts:
        if kind == "inline":
            (size,) = numbers
            joined.append(inline[used : used + size])
            used += size
        elif kind == "copy":
            start, size = numbers
            joined.append(memoryview(model)[start : start + size])
        elif kind == "columns":
            rows, width, *starts = numbers
            blocks = [_tensor(model, np.int8, start, rows, width) for start in starts]
            joined.append(np.concatenate(blocks, axis=1))
        else:
            rows, width, steps_at, scales_at, added_at = numbers
            steps = _tensor(model, np.int8, steps_at, rows, width).astype(np.float32)
            scales = _tensor(model, np.float32, scales_at, rows, 1)
            joined.append(steps * scales + _tensor(model, np.float32, added_at, 1, width))
    return b"".join(joined)


def _tensor(
    model: bytes | mmap.mmap, dtype: type, start: int, rows: int, width: int
) -> NDArray[Any]:
    flat = np.frombuffer(model, np.dtype(dtype).newbyteorder("<"), rows * width, start)
    return flat.reshape(rows, width)


# --- packing ---


@dataclass(frozen=True, slots=True)
class Packing:
    """The map of t rows to the n * width places of attention, and of its heads to those rows.

    A product gives each row the queries of all heads, then the keys, then the values:
    seen as rows of one head, it is row ``(row * 3 + part) * heads + head``.

    Attributes:
        positions: int64[t], place of each row in its own text.
        places: int64[t], place of each row in n * width.
        starts: int64[n], first row of each text.
        queries: int32[n, heads, width], row of one head at each place; a place beyond
            the text's end repeats the text's own first row, and is masked.
        keys: int32[n, heads, width], the same of the keys.
        values: int32[n, heads, width], the same of the values.
        heads: int32[t, heads], place of each head of a row in n * heads * width.
        mask: float32[n, 1, 1, width], 1 at a token, 0 beyond the text's end.
    """

    positions: NDArray[np.int64]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    queries: NDArray[np.int32]
    keys: NDArray[np.int32]
    values: NDArray[np.int32]
    heads: NDArray[np.int32]
    mask: NDArray[np.float32]


def feeds(ids: NDArray[np.int64], packed: Packing) -> dict[str, NDArray[Any]]:
    """Inputs of the graph by name, in the order in which it declares them."""
    return {
        "ids": ids,
        "positions": packed.positions,
        "queries": packed.queries,
        "keys": packed.keys,
        "values": packed.values,
        "mask": packed.mask,
        "heads": packed.heads,
    }


def pack(counts: NDArray[np.int64], width: int, heads_count: int) -> Packing:
    """Lay out texts of ``counts`` tokens, none of which is longer than ``width``."""
    if len(counts) == 1 and width <= CACHED_WIDTH_MAX:
        return _pack_one(int(counts[0]), width, heads_count)
    return _pack(counts, width, heads_count)


@lru_cache(CACHED_WIDTH_MAX)
def _pack_one(count: int, width: int, heads_count: int) -> Packing:
    """Cached layout of one short text: computing it is a thirtieth of such a run."""
    packed = _pack(np.array([count]), width, heads_count)
    for field in fields(packed):
        getattr(packed, field.name).flags.writeable = False
    return packed


def _pack(counts: NDArray[np.int64], width: int, heads_count: int) -> Packing:
    places = np.arange(width)
    is_real = places < counts[:, None]
    starts = np.cumsum(counts) - counts
    rows = starts[:, None] + np.where(is_real, places, 0)
    heads = np.arange(heads_count)
    queries = (rows[:, None] * (3 * heads_count) + heads[:, None]).astype(np.int32)
    flat = np.flatnonzero(is_real)
    texts, positions = np.divmod(flat, width)
    firsts = texts * (heads_count * width) + positions
    return Packing(
        positions=positions,
        places=flat,
        starts=starts,
        queries=queries,
        keys=queries + np.int32(heads_count),
        values=queries + np.int32(2 * heads_count),
        heads=(firsts[:, None] + heads * width).astype(np.int32),
        mask=is_real[:, None, None].astype(np.float32),
    )
