"""The cascade: a static first stage that answers sure queries without the encoder."""

from __future__ import annotations

from synaptoroute.cascade.calibration import (
    Calibration,
    calibrate,
    is_offered,
    is_superseded,
    read_calibration,
    scored_by,
)
from synaptoroute.cascade.lda_projection import LdaProjection, read_projection
from synaptoroute.cascade.leave_one_out import ConfidenceRule, Utterances
from synaptoroute.cascade.route_counts import UTTERANCES_MAX, RouteCounts
from synaptoroute.cascade.static_confidence import StaticLevels
from synaptoroute.cascade.static_routes import StaticRoutes
from synaptoroute.encoder.static_table import StaticTable, distil
from synaptoroute.encoder.table_files import (
    find_table,
    load_table,
    save_table,
    shipped_table,
    table_file,
    tables_of,
)

__all__ = [
    "UTTERANCES_MAX",
    "Calibration",
    "ConfidenceRule",
    "LdaProjection",
    "RouteCounts",
    "StaticLevels",
    "StaticRoutes",
    "StaticTable",
    "Utterances",
    "calibrate",
    "distil",
    "find_table",
    "is_offered",
    "is_superseded",
    "load_table",
    "read_calibration",
    "read_projection",
    "save_table",
    "scored_by",
    "shipped_table",
    "table_file",
    "tables_of",
]
