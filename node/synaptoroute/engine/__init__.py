"""Composes the serving and the replication plane of one node."""

from synaptoroute.engine.engine import Engine

__all__ = ["Engine"]
