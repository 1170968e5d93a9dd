"""Owner of the state: applies entries, runs batches, on threads of its own."""

from synaptoroute.engine.applier import Heard, Received
from synaptoroute.engine.cascade import STATES as CASCADE_STATES
from synaptoroute.engine.cascade import Cascade, CascadeStatus
from synaptoroute.engine.counters import EngineCounters
from synaptoroute.engine.engine import Engine
from synaptoroute.engine.lanes import Observer
from synaptoroute.engine.query import Query

__all__ = [
    "CASCADE_STATES",
    "Cascade",
    "CascadeStatus",
    "Engine",
    "EngineCounters",
    "Heard",
    "Observer",
    "Query",
    "Received",
]
