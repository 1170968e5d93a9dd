"""The library's face; see ``AdaptiveRouter``."""

from synaptoroute.router.queries import answered
from synaptoroute.router.results import RoutePage
from synaptoroute.router.router import AdaptiveRouter
from synaptoroute.router.status import NodeStatus
from synaptoroute.router.write_options import Ack, Guard

__all__ = ["Ack", "AdaptiveRouter", "Guard", "NodeStatus", "RoutePage", "answered"]
