"""Which encoder serves now, and which ones stand by.

A node serves with one encoder and may hold a second one, so that the cluster can change
from one to the other at one place of the log.  An *encoding* is an encoder with its
cache; lanes and scorer exchange theirs as a whole, so that a text is never scored
against vectors of another encoder than its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import EncoderMismatch
from synaptoroute.serving.embedding_cache import EmbeddingCache
from synaptoroute.serving.in_flight import Job
from synaptoroute.serving.queue import Batcher

UTTERANCES_PER_JOB_MAX = 16


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """An encoder and the embeddings that are kept of it."""

    encoder: TextEncoder
    cache: EmbeddingCache


class Encodings:
    """The encoders of one node; made once, read from any thread."""

    def __init__(self, encoders: Sequence[TextEncoder], cache_rows: int) -> None:
        self._encodings = {
            each.fingerprint: Encoding(each, EmbeddingCache(cache_rows, each.dim))
            for each in encoders
        }

    @property
    def known(self) -> dict[str, int]:
        """Dimension by fingerprint."""
        return {name: each.encoder.dim for name, each in self._encodings.items()}

    @property
    def names(self) -> dict[str, str]:
        """Name by fingerprint, for people."""
        return {name: each.encoder.name for name, each in self._encodings.items()}

    def find(self, fingerprint: str) -> TextEncoder:
        """Find an encoder; see ``of``."""
        return self.of(fingerprint).encoder

    def of(self, fingerprint: str) -> Encoding:
        """Find an encoding.

        Raises:
            EncoderMismatch: This node does not have that encoder.
        """
        found = self._encodings.get(fingerprint)
        if found is None:
            raise EncoderMismatch(
                f"this node does not have the encoder {fingerprint[:12]}: "
                "set next_model to it and restart the node",
                expected=fingerprint,
            )
        return found

    @property
    def counts(self) -> tuple[int, int]:
        """Hits and misses of the caches."""
        caches = [each.cache for each in self._encodings.values()]
        return sum(each.hits for each in caches), sum(each.misses for each in caches)


def submit_utterances(
    batcher: Batcher,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    texts: Sequence[str],
) -> list[Future[NDArray[np.float32]]]:
    """Queue utterances for the lanes; one future a job."""
    futures: list[Future[NDArray[np.float32]]] = []
    jobs = []
    for start in range(0, len(texts), UTTERANCES_PER_JOB_MAX):
        future: Future[NDArray[np.float32]] = Future()
        part = texts[start : start + UTTERANCES_PER_JOB_MAX]
        begin = future.set_running_or_notify_cancel
        jobs.append(Job(part, encode, begin, _resolver(future)))
        futures.append(future)
    batcher.submit_jobs(jobs)
    return futures


def _resolver(future: Future[NDArray[np.float32]]) -> Callable[[Any], None]:
    """Make the function by which a lane ends a job of utterances."""

    def done(result: Any) -> None:
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    return done
