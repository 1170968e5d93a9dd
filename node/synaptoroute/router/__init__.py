"""The public class of the library; see ``AdaptiveRouter``."""

from synaptoroute.router.queries import answered
from synaptoroute.router.reads import NodeStatus, RoutePage
from synaptoroute.router.router import AdaptiveRouter
from synaptoroute.router.writes import Ack, WriteOptions

__all__ = ["Ack", "AdaptiveRouter", "NodeStatus", "RoutePage", "WriteOptions", "answered"]
