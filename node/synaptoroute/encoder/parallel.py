"""Encodes one large batch on several threads, for commands that wait for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.contract import Tokens, Vocabulary
from synaptoroute.encoder.static_table import Distillable


class ParallelEncoder:
    """An encoder whose batches are split among threads; the vectors are the same bits.

    Attributes:
        fingerprint: That of the encoder.
    """

    def __init__(self, encoder: Distillable, threads: int) -> None:
        self.fingerprint = encoder.fingerprint
        self._encoder = encoder
        self._threads = threads

    def vocabulary(self) -> Vocabulary:
        return self._encoder.vocabulary()

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """Encode tokenized texts: float32[n, dim], in their order."""
        size = max(1, -(-len(tokens) // self._threads))
        parts = [tokens[start : start + size] for start in range(0, len(tokens), size)]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="encode") as threads:
            return np.concatenate(list(threads.map(self._encoder.encode_tokens, parts)))
