"""The parts of the report, by weight, and the minutes that each takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Part:
    """One benchmark of the report.

    Attributes:
        name: Its file is ``bench_NAME.py``.
        minutes: Minutes of the size ``standard`` on two quiet cores.
        peers: Peers that it needs, besides those of the environment.
        is_on_request: Runs only where it is named: it needs a container engine, or hours.
    """

    name: str
    minutes: float
    peers: tuple[str, ...] = ()
    is_on_request: bool = False


_ROUTERS = ("semantic-router", "synaptoroute")
PARTS: Final = (
    Part("defaults", 5.5, _ROUTERS),
    Part("throughput", 1.5, _ROUTERS),
    Part("http", 1.5, ("semantic-router",)),
    Part("cascade", 2.0),
    Part("fast", 1.5, ("microresolve", "wordllama")),
    Part("packed", 1.0),
    Part("overload", 1.5),
    Part("hot_add", 1.0, _ROUTERS),
    Part("boot", 2.0),
    Part("scoring", 1.0, _ROUTERS),
    Part("cluster", 1.5),
    Part("peers", 4.0, (*_ROUTERS, "stratarouter", "microresolve", "wordllama")),
    Part("mutations", 0.5),
    Part("invariance", 0.2),
    Part("accuracy", 1.5, _ROUTERS),
    Part("embedding", 0.5),
    Part("lanes", 0.5),
    Part("inputs", 0.5),
    Part("decision", 1.5),
    Part("small_sets", 2.0),
    Part("million", 2.0),
    Part("deploy", 15.0, is_on_request=True),
    Part("slow_clients", 30.0, is_on_request=True),
)
BY_NAME: Final = {part.name: part for part in PARTS}
BENCHES: Final = tuple(part.name for part in PARTS if not part.is_on_request)
ON_REQUEST: Final = tuple(part.name for part in PARTS if part.is_on_request)
