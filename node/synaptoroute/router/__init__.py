"""The public class of the library; see ``AdaptiveRouter``."""

import synaptoroute.installation  # noqa: F401  raises where another project's files are mixed in
from synaptoroute.router.queries import answered
from synaptoroute.router.reads import NodeStatus, RoutePage
from synaptoroute.router.router import AdaptiveRouter
from synaptoroute.router.writes import Ack, WriteOptions

__all__ = ["Ack", "AdaptiveRouter", "NodeStatus", "RoutePage", "WriteOptions", "answered"]
