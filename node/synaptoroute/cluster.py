"""The public name of the cluster log: ``from synaptoroute.cluster import RedisLog``."""

from synaptoroute.sequencer import RedisLog

__all__ = ["RedisLog"]
