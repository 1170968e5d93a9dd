"""Measures an encoder: the numbers of its confidence, its languages and scripts, its cost.

The texts are ``data/probe_texts.json``: small routes of neutral English texts, texts that belong to
none of them, and for each language two phrasings of eight requests that share few words.  A user's
own routes are measured beside them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.mutation import Aggregation
from synaptoroute.decision import DecisionCalibration, fit_decision
from synaptoroute.decision.starting_numbers import (
    KINDS,
    corrected_tables,
    scaled_tables,
    shipped_tables_of,
)
from synaptoroute.encoder.contract import TextEncoder
from synaptoroute.encoder.prepared import Measured, Prepared, is_enough
from synaptoroute.encoder.processor import cpu_name
from synaptoroute.encoder.understanding import known_scripts, script_of
from synaptoroute.errors import EncoderError, RouteError
from synaptoroute.threads import single_blas_thread

PROBE_FILE: Final = Path(__file__).parent / "data" / "probe_texts.json"
PROBE_NAME: Final = "probe"
OWN_ROUTES_MIN: Final = 8
OWN_UTTERANCES_MIN: Final = 40
"""Utterances of routes that have several; of fewer the numbers would be those of chance."""
OWN_UTTERANCES_MAX: Final = 4_096
SPREAD_MIN: Final = 0.02
"""Least distance of unrelated texts; below it a model tells nothing apart."""
_PREFIX_GAIN_MIN: Final = 0.02
_BATCH_TEXTS: Final = 64
_LONE_TEXTS: Final = 48

Float32s = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OwnRoutes:
    """A user's own labelled texts.

    Attributes:
        name: Of their source.
        utterances: By route.
    """

    name: str
    utterances: Mapping[str, Sequence[str]]


@cache
def probe_texts() -> dict[str, Any]:
    """Read the bundled texts: ``routes``, ``outside`` and ``languages``."""
    texts: dict[str, Any] = json.loads(PROBE_FILE.read_text(encoding="utf-8"))
    return texts


def measure(
    encoder: TextEncoder, reference: TextEncoder, folder: str = "", own: OwnRoutes | None = None
) -> Prepared:
    """Measure an encoder; takes about 700 short texts.

    Args:
        reference: The bundled encoder, whose numbers are known.
        folder: Where the model is; empty for one that is known by name.
        own: Labelled texts that correct the numbers.

    Raises:
        EncoderError: The encoder does not tell unrelated texts apart.
        RouteError: The labelled texts are too few.
    """
    tables = shipped_tables_of(encoder.fingerprint)
    if tables is None:
        known = shipped_tables_of(reference.fingerprint)
        assert known is not None, "the bundled encoder has no numbers: this is a bug"
        tables = scaled_tables(known, _spread(encoder) / _spread(reference))
    asked = {PROBE_NAME: probe_texts()["routes"]}
    if own is not None:
        tables = corrected_tables(tables, fits_of(encoder, own.utterances))
        asked[own.name] = own.utterances
    accuracy, usual = (
        {name: round(_accuracy(each, routes), 3) for name, routes in asked.items()}
        for each in (encoder, reference)
    )
    languages = {tag: told_apart(encoder, *pair) for tag, pair in _languages().items()}
    return Prepared(
        encoder.name,
        encoder.fingerprint,
        folder,
        scripts_of(languages),
        languages,
        Measured(accuracy, *_speeds(encoder), cpu_name()),
        usual,
        tables,
    )


def fits_of(
    encoder: TextEncoder, utterances: Mapping[str, Sequence[str]]
) -> dict[Aggregation, DecisionCalibration]:
    """Fit labelled texts for each aggregation.

    Raises:
        RouteError: They are too few.
    """
    several = [texts for texts in utterances.values() if len(texts) > 1]
    if len(several) < OWN_ROUTES_MIN or sum(map(len, several)) < OWN_UTTERANCES_MIN:
        raise RouteError(
            f"the routes are too few to measure a model: {OWN_ROUTES_MIN} routes of several "
            f"utterances, {OWN_UTTERANCES_MIN} utterances together, are needed"
        )
    step = -(-sum(map(len, several)) // OWN_UTTERANCES_MAX)  # of a large file, every n-th route
    vectors, owners = _encoded(encoder, several[::step])
    fits: dict[Aggregation, DecisionCalibration] = {}
    for kind in KINDS:
        found = fit_decision(vectors, owners, kind, fingerprint=encoder.fingerprint)
        if found is None:
            raise RouteError("the routes are too few to measure a model")
        fits[kind] = found
    return fits


def told_apart(encoder: TextEncoder, first: Sequence[str], second: Sequence[str]) -> float:
    """Share of the texts of two lists that are nearest to the text of the same place."""
    near = encoder.encode(first) @ encoder.encode(second).T
    places = np.arange(len(first))
    hits = (near.argmax(axis=1) == places).mean() + (near.argmax(axis=0) == places).mean()
    return round(float(hits) / 2.0, 3)


def scripts_of(languages: Mapping[str, float]) -> frozenset[str] | None:
    """Choose the scripts that a model reads; None for all, also where no language is understood.

    Scripts that no measured language is written in are read by a model that reads half of the
    measured ones beside Latin.
    """
    read, foreign = measured_scripts(languages)
    if not read or not foreign:
        return None
    others, unread = read - {"LATIN"}, foreign - {"LATIN"}
    return known_scripts() - foreign if len(others) >= len(unread) else read


def measured_scripts(languages: Mapping[str, float]) -> tuple[frozenset[str], frozenset[str]]:
    """Scripts of the languages that are understood, and of the others alone."""
    written = {tag: _scripts_in(pair) for tag, pair in _languages().items()}
    understood = (written[tag] for tag, share in languages.items() if is_enough(share))
    read = frozenset[str]().union(*understood)
    return read, frozenset[str]().union(*written.values()) - read


def best_prefix(encoders: Mapping[str, TextEncoder]) -> str:
    """Choose among encoders of one model by their prefix: the one that misses fewest texts.

    None is best unless another one is clearly better.
    """
    routes = probe_texts()["routes"]
    shares = {prefix: _accuracy(each, routes) for prefix, each in encoders.items()}
    best = max(shares, key=lambda prefix: shares[prefix])
    return best if shares[best] > shares.get("", 0.0) + _PREFIX_GAIN_MIN else ""


def _languages() -> dict[str, tuple[list[str], list[str]]]:
    return {tag: (first, second) for tag, (first, second) in probe_texts()["languages"].items()}


def _scripts_in(pair: tuple[list[str], list[str]]) -> frozenset[str]:
    letters = "".join(text for texts in pair for text in texts)
    return frozenset(script for letter in letters if (script := script_of(letter)))


def _spread(encoder: TextEncoder) -> float:
    """Mean distance of unrelated texts to the nearest text of the probe's routes."""
    probe = probe_texts()
    rows = encoder.encode_utterances([text for texts in probe["routes"].values() for text in texts])
    nearest = (encoder.encode(probe["outside"]) @ rows.T).max(axis=1)
    spread = 1.0 - float(nearest.mean())
    if not spread >= SPREAD_MIN:
        raise EncoderError(
            f"{encoder.name} does not tell unrelated texts apart: their similarity is "
            f"{1.0 - spread:.3f}; check its pooling, output and prefix"
        )
    return spread


def _accuracy(encoder: TextEncoder, utterances: Mapping[str, Sequence[str]]) -> float:
    """Share of the utterances that get their route by ``blend``, each judged without itself."""
    found = fit_decision(*_encoded(encoder, list(utterances.values())), "blend")
    assert found is not None, "the probe is too small: this is a bug"
    return found.accuracy


def _encoded(
    encoder: TextEncoder, routes: Sequence[Sequence[str]]
) -> tuple[Float32s, NDArray[np.int64]]:
    texts = [text for utterances in routes for text in utterances]
    parts = [
        encoder.encode_utterances(texts[start : start + _BATCH_TEXTS])
        for start in range(0, len(texts), _BATCH_TEXTS)
    ]
    owners = np.repeat(np.arange(len(routes)), [len(utterances) for utterances in routes])
    return np.concatenate(parts), owners


def _speeds(encoder: TextEncoder) -> tuple[int, int]:
    """Texts a second on one thread, alone and in batches."""
    texts = [text for utterances in probe_texts()["routes"].values() for text in utterances]
    return _speed(encoder, texts[:_LONE_TEXTS], 1), _speed(encoder, texts, _BATCH_TEXTS)


def _speed(encoder: TextEncoder, texts: Sequence[str], size: int) -> int:
    encoder.encode(texts[:size])
    with single_blas_thread():
        # Of this thread, so that other work of the machine does not count.
        started = time.thread_time()
        for start in range(0, len(texts), size):
            encoder.encode(texts[start : start + size])
        return round(len(texts) / max(time.thread_time() - started, 1e-9))
