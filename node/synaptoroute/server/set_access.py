"""The route set of a request, and what its key may do in other sets that its body names."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request

from synaptoroute.errors import SynaptoRouteError
from synaptoroute.web.key_grants import Scope
from synaptoroute.web.middleware import context_of
from synaptoroute.web.problems import Forbidden
from synaptoroute.web.set_paths import set_not_found


def visible_to(request: Request) -> Callable[[str], bool] | None:
    """Whether the key of a request may know a set or an alias; None for a key that may know all."""
    key = context_of(request.scope).key
    return key.sees if key is not None and key.is_scoped else None


def may(request: Request, scope: Scope, name: str) -> bool:
    """Whether the key of a request has a scope in a set, or for an alias."""
    key = context_of(request.scope).key
    return key is None or key.may_in(scope, name)


def check_may(
    request: Request, scope: Scope, name: str, hidden: SynaptoRouteError | None = None
) -> None:
    """Check that the key of a request has a scope in a set, or for an alias.

    Raises:
        SetNotFound: It may not know that the set exists; ``hidden`` instead, if that is given.
        Forbidden: It lacks the scope there.
    """
    key = context_of(request.scope).key
    if key is None or key.may_in(scope, name):
        return
    if not key.sees(name):
        raise hidden or set_not_found(name)
    raise Forbidden(f"the API key {key.name!r} lacks the scope {scope!r} in {name!r}")
