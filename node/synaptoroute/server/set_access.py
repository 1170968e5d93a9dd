"""The route set of a request, and what its key may do in other sets that its body names."""

from __future__ import annotations

from starlette.requests import Request

from synaptoroute.errors import SetNotFound
from synaptoroute.router import AdaptiveRouter
from synaptoroute.server.runtime import runtime_of
from synaptoroute.web.key_grants import Scope
from synaptoroute.web.middleware import context_of
from synaptoroute.web.problems import Forbidden
from synaptoroute.web.set_paths import set_not_found


def router_of_request(request: Request) -> AdaptiveRouter:
    """The router, bound to the set that the path names."""
    return runtime_of(request).router


def check_may(request: Request, scope: Scope, name: str) -> None:
    """Check that the key of a request has a scope in a set, or for an alias.

    Raises:
        SetNotFound: It may not know that the set exists.
        Forbidden: It lacks the scope there.
    """
    key = context_of(request.scope).key
    if key is None or key.may_in(scope, name):
        return
    if not key.sees(name):
        found: SetNotFound = set_not_found(name)
        raise found
    raise Forbidden(f"the API key {key.name!r} lacks the scope {scope!r} in {name!r}")
