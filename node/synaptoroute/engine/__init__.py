"""Owner of the state: applies entries, runs batches, on threads of its own."""

from synaptoroute.engine.applier import Heard, Received
from synaptoroute.engine.counters import EngineCounters
from synaptoroute.engine.engine import Engine
from synaptoroute.engine.lanes import Observer
from synaptoroute.engine.query import Query

__all__ = ["Engine", "EngineCounters", "Heard", "Observer", "Query", "Received"]
