"""Numbers of the confidence for a route set that has no fit yet.

They belong to an encoder: a table by aggregation, number of routes and utterances a route.
Tables of the presets ship with the package.  ``model prepare`` makes one for another encoder
from that of the bundled one (``scaled_tables``): between unrelated texts and equal texts the
scores of two encoders are alike up to their scale.  Labelled utterances correct it
(``corrected_tables``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from synaptoroute.core.mutation import AGGREGATIONS, Aggregation
from synaptoroute.decision.calibration import DecisionCalibration, Kind

COUNTS: Final = (1, 2, 3, 5, 10, 20)
"""Utterances a route that a table has cells for."""
SIZES: Final = (2, 8, 32, 128)
"""Numbers of routes that a table has cells for."""
KINDS: Final[tuple[Aggregation, ...]] = tuple(kind for kind in AGGREGATIONS if kind != "adaptive")
_DEVIATION_MIN: Final = 1e-3
_TEMPERATURE_RANGE: Final = (0.1, 1e4)
_MEAN_MAX: Final = 10.0


class Cell(NamedTuple):
    """Numbers of one aggregation, number of routes and count of utterances.

    Attributes:
        temperature: Log odds of two routes per unit of score between them.
        inside_mean: Level of queries that belong to a route; see ``probability``.
        outside_mean: Level of queries that belong to none.
    """

    temperature: float
    inside_mean: float
    inside_deviation: float
    outside_mean: float
    outside_deviation: float


Tables: TypeAlias = Mapping[str, Mapping[str, Cell]]
"""By aggregation, then by ``routes/utterances``."""

_prepared: Final[dict[str, Tables]] = {}


def shipped_calibration(
    fingerprint: str, aggregation: Kind, utterances_per_route: float, routes: int = 32
) -> DecisionCalibration | None:
    """Find the numbers of an encoder for sets without a fit; None for an encoder unknown here.

    Args:
        fingerprint: Of the encoder.
        aggregation: ``adaptive`` has those of ``blend``: without a fit it scores like it.
        utterances_per_route: Mean over the routes.
        routes: How many routes the set has.
    """
    tables = tables_of(fingerprint)
    if tables is None:
        return None
    rows = tables.get("blend" if aggregation == "adaptive" else aggregation)
    if rows is None:
        return None
    return DecisionCalibration(
        "", fingerprint, aggregation, 0, 0, *rows[_cell_name(routes, utterances_per_route)]
    )


def tables_of(fingerprint: str) -> Tables | None:
    """Find the tables of an encoder: those that were prepared, else those that ship."""
    return _prepared.get(fingerprint) or shipped_tables_of(fingerprint)


def shipped_tables_of(fingerprint: str) -> Tables | None:
    """Find the tables of an encoder that ship with the package."""
    return _shipped_tables().get(fingerprint)


def digest_of_tables(fingerprint: str) -> str | None:
    """First digits of a digest of an encoder's tables; equal digests give equal confidences."""
    tables = tables_of(fingerprint)
    if tables is None:
        return None
    content = json.dumps({kind: dict(rows) for kind, rows in tables.items()}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def use_tables(fingerprint: str, tables: Tables) -> None:
    """Use tables for an encoder from now on, in this process.

    Called when an encoder is opened, before a route set is served with it.
    """
    # By fingerprint and not by a parameter: a tensor, a preview and a comparison of encoders
    # know an encoder by its fingerprint alone, and equal fingerprints have equal numbers.
    _prepared[fingerprint] = tables


def scaled_tables(reference: Tables, scale: float) -> Tables:
    """Move tables to an encoder whose unrelated texts are ``scale`` times as far from equal ones.

    A score ``s`` of the reference is ``1 - scale * (1 - s)``; equal texts score 1 in both.
    """

    def moved(cell: Cell) -> Cell:
        return Cell(
            cell.temperature / scale,
            1.0 - scale * (1.0 - cell.inside_mean),
            max(scale * cell.inside_deviation, _DEVIATION_MIN),
            1.0 - scale * (1.0 - cell.outside_mean),
            max(scale * cell.outside_deviation, _DEVIATION_MIN),
        )

    return _mapped(
        {kind: {n: moved(c) for n, c in rows.items()} for kind, rows in reference.items()}
    )


def corrected_tables(tables: Tables, fits: Mapping[Aggregation, DecisionCalibration]) -> Tables:
    """Shift tables so that the cell of a fitted route set has the numbers of its fit.

    Args:
        fits: By aggregation, of one labelled route set with the encoder of the tables.
    """
    corrected: dict[str, dict[str, Cell]] = {}
    for kind, fit in fits.items():
        rows = tables[kind]
        was = rows[_cell_name(fit.routes, fit.utterances / fit.routes)]
        corrected[kind] = {}
        for name, cell in rows.items():
            inside = cell.inside_mean + fit.inside_mean - was.inside_mean
            outside = cell.outside_mean + fit.outside_mean - was.outside_mean
            corrected[kind][name] = Cell(
                cell.temperature * fit.temperature / was.temperature,
                inside,
                cell.inside_deviation * fit.inside_deviation / was.inside_deviation,
                min(outside, inside - _DEVIATION_MIN),
                cell.outside_deviation * fit.outside_deviation / was.outside_deviation,
            )
    return _mapped({**tables, **corrected})


def read_tables(content: object) -> Tables | None:
    """Check tables that come from a file; None if they are not sound."""
    if not isinstance(content, dict) or set(content) != set(KINDS):
        return None
    names = {f"{size}/{count}" for size in SIZES for count in COUNTS}
    tables: dict[str, dict[str, Cell]] = {}
    for kind, rows in content.items():
        if not isinstance(rows, dict) or set(rows) != names:
            return None
        tables[kind] = {}
        for name, numbers in rows.items():
            if not isinstance(numbers, list) or len(numbers) != len(Cell._fields):
                return None
            if not all(type(number) in (int, float) for number in numbers):
                return None
            cell = Cell(*map(float, numbers))
            if not _is_sound(cell):
                return None
            tables[kind][name] = cell
    return _mapped(tables)


def _is_sound(cell: Cell) -> bool:
    least, most = _TEMPERATURE_RANGE
    deviations = (cell.inside_deviation, cell.outside_deviation)
    means = (cell.inside_mean, cell.outside_mean)
    return (
        least <= cell.temperature <= most
        and all(0.0 < deviation <= _MEAN_MAX for deviation in deviations)
        and all(abs(mean) <= _MEAN_MAX for mean in means)
    )


def _cell_name(routes: int, utterances_per_route: float) -> str:
    return f"{_nearest(SIZES, float(routes))}/{_nearest(COUNTS, utterances_per_route)}"


def _nearest(steps: tuple[int, ...], wanted: float) -> int:
    """Choose the step whose ratio to ``wanted`` is nearest to one; the lower of equals."""
    wanted = max(wanted, 1.0)
    nearest = steps[0]
    for step in steps:  # without a function for ``min``: each write asks for the numbers
        if abs(math.log(step / wanted)) < abs(math.log(nearest / wanted)):
            nearest = step
    return nearest


@cache
def _shipped_tables() -> dict[str, Tables]:
    text = files("synaptoroute.decision").joinpath("shipped.json").read_text(encoding="utf-8")
    shipped: dict[str, dict[str, dict[str, list[float]]]] = json.loads(text)
    return {
        fingerprint: _mapped(
            {kind: {n: Cell(*row) for n, row in rows.items()} for kind, rows in tables.items()}
        )
        for fingerprint, tables in shipped.items()
    }


def _mapped(tables: Mapping[str, Mapping[str, Cell]]) -> Tables:
    return MappingProxyType({kind: MappingProxyType(dict(rows)) for kind, rows in tables.items()})
