"""Makes the numbers of confidence that ship for sets without a fit.

For every aggregation, number of routes and number of utterances, route sets are drawn from
the training texts of CLINC150 and Banking77.  Inside are other training texts of their
intents; outside are texts of other intents and CLINC150's out-of-scope validation texts, in
equal parts.  No test text is used.

    python benchmarks/ship_decision.py --data DIRECTORY [--model NAME] [--cache FILE] [--out FILE]

The file keeps the numbers of other encoders that it holds already.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fit_threshold import Split, read_splits
from synaptoroute.config import Precision
from synaptoroute.core.mutation import Aggregation
from synaptoroute.decision.fitting import level_of, softmax, terms_of
from synaptoroute.decision.starting_numbers import COUNTS, SIZES
from synaptoroute.encoder import DEFAULT_MODEL, open_encoder

AGGREGATIONS: Final[tuple[Aggregation, ...]] = ("blend", "max", "mean", "centroid", "topk")
DRAWS: Final = 6
QUERIES_MAX: Final = 400
# Narrow encoders, whose similarities crowd, need the upper half.
TEMPERATURES: Final = np.exp(np.linspace(np.log(5.0), np.log(320.0), 85))
DEFAULT_FILE: Final = (
    Path(__file__).parents[1] / "node" / "synaptoroute" / "decision" / "shipped.json"
)
Floats = NDArray[np.float64]


def draw(
    train: Split, foreign: NDArray[np.float32], size: int, count: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], Floats, NDArray[np.int64], Floats]:
    """Draw a route set, queries that belong to it with their routes, and foreign ones."""
    random = np.random.default_rng(seed)
    intents = int(train.labels.max()) + 1
    chosen = random.permutation(intents)[: min(size, intents)]
    rows, asked = [], []
    for intent in chosen:
        own = random.permutation(np.flatnonzero(train.labels == intent))
        rows.append(own[:count])
        asked.append(own[count : count + max(1, QUERIES_MAX // len(chosen))])
    owners = np.repeat(np.arange(len(chosen)), [len(own) for own in rows])
    labels = np.repeat(np.arange(len(chosen)), [len(own) for own in asked])
    others = random.permutation(np.flatnonzero(~np.isin(train.labels, chosen)))
    outside = [foreign, train.vectors[others[: len(foreign)]]]
    return (
        train.vectors[np.concatenate(rows)],
        owners,
        train.vectors[np.concatenate(asked)].astype(np.float64),
        labels,
        np.concatenate(outside).astype(np.float64),
    )


def measure(sets: dict[str, dict[str, Split]], kind: Aggregation, size: int, count: int) -> Any:
    """Temperature, and mean and deviation of the levels inside and outside."""
    foreign = sets["clinc150"]["oos_val"].vectors
    drawn = []
    losses = np.zeros(len(TEMPERATURES))
    for name in ("clinc150", "banking77"):
        for seed in range(DRAWS):
            rows, owners, asked, labels, outside = draw(
                sets[name]["train"], foreign, size, count, seed
            )
            inside = terms_of(rows, owners, asked, kind, 3)[..., 0]
            drawn.append((inside, terms_of(rows, owners, outside, kind, 3)[..., 0]))
            every = np.arange(len(labels))
            losses += [
                -np.log(softmax(inside * scale)[every, labels] + 1e-12).mean()
                for scale in TEMPERATURES
            ]
    temperature = float(TEMPERATURES[int(losses.argmin())])
    near = np.concatenate([level_of(inside, temperature) for inside, _ in drawn])
    far = np.concatenate([level_of(outside, temperature) for _, outside in drawn])
    numbers = (temperature, near.mean(), near.std(), far.mean(), far.std())
    return [round(float(number), 4) for number in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, default=DEFAULT_FILE)
    given = parser.parse_args()
    precision: Precision = given.precision
    sets = read_splits(given.data, given.cache, precision, given.model)
    tables = {
        kind: {
            f"{size}/{count}": measure(sets, kind, size, count)
            for size in SIZES
            for count in COUNTS
        }
        for kind in AGGREGATIONS
    }
    kept = json.loads(given.out.read_text()) if given.out.exists() else {}
    kept[open_encoder(given.model, precision=precision).fingerprint] = tables
    if given.model == DEFAULT_MODEL and precision == "auto":
        # The same model: its scores in float32 differ by less than these numbers are known.
        kept[open_encoder(precision="float32").fingerprint] = tables
    lines = ",\n".join(
        f'"{name}": {{\n'
        + ",\n".join(f'"{kind}": {json.dumps(rows)}' for kind, rows in table.items())
        + "}"
        for name, table in sorted(kept.items())
    )
    given.out.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
