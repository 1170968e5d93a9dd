"""The numbers of one fit, and their bytes in the log."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

from synaptoroute.core.mutation import Aggregation
from synaptoroute.decision.metric import ScoreWeights, is_finite, read_metric

Kind: TypeAlias = Aggregation | Literal["adaptive"]

CALIBRATION_BYTES_MAX: Final = 131_072
CURVE_POINTS_MAX: Final = 21
FINGERPRINT_DIGITS_MAX: Final = 64

_MAGIC: Final = b"decision1\n"
_NUMBERS: Final = (
    "temperature",
    "inside_mean",
    "inside_deviation",
    "outside_mean",
    "outside_deviation",
    "cohesion_mean",
    "cohesion_slope",
    "accuracy",
    "ece",
)
_POSITIVE: Final = ("temperature", "inside_deviation", "outside_deviation")
_SHARES: Final = ("accuracy", "ece")
_NUMBER_MAX: Final = 1e6
_DEVIATION_MIN: Final = 1e-9


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Effect of a least confidence on the judged utterances.

    Attributes:
        confidence_min: The least confidence, 0 to 1.
        coverage: Share of the utterances that are answered.
        accuracy: Share of the answered ones that are answered right; 1 where none is.
    """

    confidence_min: float
    coverage: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class DecisionCalibration:
    """The numbers of one fit.

    Attributes:
        at: ``epoch.seq`` of the route set that was fitted; empty for numbers that ship.
        fingerprint: Of the encoder.
        aggregation: The score that the numbers belong to.
        routes: Routes of the set.
        utterances: Their rows.
        temperature: Log odds of two routes per unit of score between them.
        inside_mean: Level of queries that belong to a route; see ``probability``.
        outside_mean: Level of queries that belong to none.
        cohesion_mean: Mean similarity of two utterances of one route.
        cohesion_slope: Rise of ``inside_mean`` with the cohesion of the best route.
        accuracy: Share of the judged utterances that were given their route.
        ece: Expected calibration error on them.
        curve: By ascending ``confidence_min``.
        weights: Of the terms of the adaptive score; None for other aggregations, and where
            the set has too few utterances for it.
        metric: As ``Metric.dump`` writes it; empty for the identity.
    """

    at: str
    fingerprint: str
    aggregation: Kind
    routes: int
    utterances: int
    temperature: float
    inside_mean: float
    inside_deviation: float
    outside_mean: float
    outside_deviation: float
    cohesion_mean: float = 0.0
    cohesion_slope: float = 0.0
    accuracy: float = 0.0
    ece: float = 0.0
    curve: tuple[CurvePoint, ...] = ()
    weights: ScoreWeights | None = None
    metric: bytes = b""

    def dump(self) -> bytes:
        """Write it as bytes; equal numbers give equal bytes."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _NUMBERS}
        fields |= {
            "at": self.at,
            "fingerprint": self.fingerprint,
            "aggregation": self.aggregation,
            "routes": self.routes,
            "utterances": self.utterances,
            "curve": [[p.confidence_min, p.coverage, p.accuracy] for p in self.curve],
        }
        if self.weights is not None:
            given = self.weights
            fields["weights"] = [
                given.largest,
                given.centroid,
                given.mean,
                given.metric,
                given.length,
            ]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
        content = _MAGIC + text.encode() + b"\n" + self.metric
        assert len(content) <= CALIBRATION_BYTES_MAX, "too large for an entry: this is a bug"
        return content


def read_decision_calibration(content: bytes) -> DecisionCalibration | None:
    """Read what ``dump`` wrote; None if it is not that, byte for byte."""
    if len(content) > CALIBRATION_BYTES_MAX or not content.startswith(_MAGIC):
        return None
    head, newline, metric = content[len(_MAGIC) :].partition(b"\n")
    if not newline:
        return None
    try:
        fields: dict[str, Any] = json.loads(head)
        weights = fields.pop("weights", None)
        curve = tuple(CurvePoint(*point) for point in fields.pop("curve"))
        found = DecisionCalibration(
            **fields,
            curve=curve,
            weights=None if weights is None else ScoreWeights(*weights),
            metric=metric,
        )
        is_sound = _is_sound(found) and found.dump() == content
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    return found if is_sound else None


def _is_sound(found: DecisionCalibration) -> bool:
    """Whether every field has the right type and range: the log is external input."""
    numbers = [getattr(found, name) for name in _NUMBERS]
    numbers += [part for p in found.curve for part in (p.confidence_min, p.coverage, p.accuracy)]
    if not all(type(number) is float and abs(number) <= _NUMBER_MAX for number in numbers):
        return False
    shares = [getattr(found, name) for name in _SHARES]
    shares += numbers[len(_NUMBERS) :]
    levels = [point.confidence_min for point in found.curve]
    return (
        all(0.0 <= share <= 1.0 for share in shares)
        and all(getattr(found, name) >= _DEVIATION_MIN for name in _POSITIVE)
        and all(low < high for low, high in pairwise(levels))
        and len(found.curve) <= CURVE_POINTS_MAX
        and _are_sound_names(found)
        and type(found.routes) is int
        and type(found.utterances) is int
        and 0 <= found.routes <= found.utterances < 2**31
        and _is_sound_score(found)
    )


def _are_sound_names(found: DecisionCalibration) -> bool:
    return (
        isinstance(found.at, str)
        and isinstance(found.fingerprint, str)
        and isinstance(found.aggregation, str)
        and re.fullmatch(r"([0-9]{1,15}\.[0-9]{1,15})?", found.at) is not None
        and re.fullmatch(r"[0-9a-z_.-]{0,64}", found.fingerprint) is not None
        and re.fullmatch(r"[a-z]{1,16}", found.aggregation) is not None
    )


def _is_sound_score(found: DecisionCalibration) -> bool:
    if found.weights is None:
        return not found.metric
    given = found.weights
    parts = (given.largest, given.centroid, given.mean, given.metric, given.length)
    return (
        all(type(part) is float for part in parts)
        and is_finite(given)
        and (not found.metric or read_metric(found.metric) is not None)
    )
