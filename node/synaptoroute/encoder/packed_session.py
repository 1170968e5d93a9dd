"""The packed int8 graph: one session that all lanes share.

The graph is written in memory from the model's verified file whenever it is
opened: that takes a moment, needs no package, no cache and no network, and
leaves nothing on disk that could go stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder import packing
from synaptoroute.encoder.bundled import MODEL_OUTPUT, MODEL_SHA256
from synaptoroute.encoder.bundled_weights import HEADS
from synaptoroute.encoder.int8_graph import OUTPUT, int8_graph
from synaptoroute.encoder.recipe import Pooling, Recipe
from synaptoroute.encoder.session import normalise, open_session, run_session
from synaptoroute.errors import ConfigError

_CPU = "CPUExecutionProvider"


def offers_int8(recipe: Recipe, model_sha256: str, providers: Sequence[str]) -> bool:
    """Whether the graph of this model can be written anew, for this use of it."""
    is_model = model_sha256 == MODEL_SHA256 and recipe.output in (None, MODEL_OUTPUT)
    return is_model and recipe.pooling == "mean" and list(providers) == [_CPU]


class PackedSession:
    """Runs packed micro-batches; ``run`` may be called from any thread."""

    output = OUTPUT
    is_packed = True

    def __init__(self, recipe: Recipe, providers: Sequence[str]) -> None:
        """Rewrite the bundled model and open it.

        Raises:
            ConfigError: Another model or use of it, or a provider other than the CPU's.
        """
        content = self.read_model(recipe, providers)
        self._session = open_session(
            int8_graph(content), f"{recipe.model_file.name} as int8", providers, is_final=True
        )

    @staticmethod
    def read_model(recipe: Recipe, providers: Sequence[str]) -> bytes:
        """Read the bundled model; refuse any other, as ``__init__`` says."""
        if list(providers) != [_CPU]:
            raise ConfigError(f"precision int8 runs on {_CPU} alone, got {', '.join(providers)}")
        content = recipe.model_file.read_bytes()
        if not offers_int8(recipe, hashlib.sha256(content).hexdigest(), providers):
            raise ConfigError(
                "precision int8 is made for the bundled model, pooled by the mean; "
                "use float32 for any other",
                file=recipe.model_file.name,
            )
        return content

    def width_of(self, tokens_count: int) -> int:
        """Give the width of ``ids`` for a text of so many tokens."""
        return packing.width_of(tokens_count)

    def plan(
        self, counts: Sequence[int], tokens_max: int, texts_max: int | None = None
    ) -> list[list[int]]:
        """Cut a batch into runs; ``texts_max`` is of no use to an invariant graph."""
        return packing.plan(counts, tokens_max)

    def run(
        self, ids: NDArray[np.int64], counts: NDArray[np.int64], pooling: Pooling
    ) -> NDArray[np.float32]:
        """Encode one micro-batch; see ``GraphSession.run``.  Pools by the mean."""
        packed = packing.pack(counts, ids.shape[1], HEADS)
        hidden = self.hidden(ids.reshape(-1)[packed.places], packed)
        return normalise(np.add.reduceat(hidden, packed.starts, axis=0) / counts[:, None])

    def hidden(self, ids: NDArray[np.int64], packed: packing.Packing) -> NDArray[np.float64]:
        """Run the graph: int64[t] to float64[t, dim], a row for each token."""
        return run_session(self._session, OUTPUT, feeds(ids, packed)).astype(np.float64)


def feeds(ids: NDArray[np.int64], packed: packing.Packing) -> dict[str, NDArray[Any]]:
    """Give the graph's inputs by name, in the order in which the graph declares them."""
    return {
        "ids": ids,
        "positions": packed.positions,
        "queries": packed.queries,
        "keys": packed.keys,
        "values": packed.values,
        "mask": packed.mask,
        "heads": packed.heads,
    }
