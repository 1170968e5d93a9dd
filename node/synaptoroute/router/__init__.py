"""The library's face; see ``AdaptiveRouter``."""

from synaptoroute.router.guard import Ack, Guard
from synaptoroute.router.questions import answered
from synaptoroute.router.results import RoutePage
from synaptoroute.router.router import AdaptiveRouter
from synaptoroute.router.status import NodeStatus

__all__ = ["Ack", "AdaptiveRouter", "Guard", "NodeStatus", "RoutePage", "answered"]
