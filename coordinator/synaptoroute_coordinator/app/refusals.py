"""Why an action was refused; each has its status at the door."""

from __future__ import annotations

from synaptoroute.errors import RouteError


class ActionFailed(RouteError):
    """The action could not be done as things stand."""

    code = "action_failed"


class NodeNotFound(RouteError):
    """No node has this identity or name."""

    code = "node_not_found"
