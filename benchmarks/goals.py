"""The goals, and the comparison of a run's figures with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contenders import OURS, SEMANTIC_ROUTER

Results = dict[str, dict[str, Any]]

REASONS = {
    "query p99 during the import": "three nodes, the writer and the server apply the import on the "
    "same two cores that answer the queries, and a thread that is woken waits for the others' "
    "turn, one tick of the kernel's clock, at each of a query's three handovers.",
    "import of 50,000": "three nodes, the writer and the server share the cores of one machine: "
    "every entry is decoded, staged and committed three times on them.",
    "single-route writes sustained": "three nodes and the server share the cores of one machine.",
    "published to visible": "three nodes and the server share the cores of one machine.",
    "hot add, apply to visible": "most of it is one SQLite transaction, and many small steps "
    "on caches that went cold since the last write.",
    "cold boot": "the checkpoint's bytes are read and checked, three fifths of the time, and then "
    "copied into the tensor; phases_of_boot.py has the parts.",
    "scoring 50,000 utterances": "a query reads every row once, so it is as fast as memory is; "
    "the rounds of one run differ by half and more with the machine's phase.",
    "defaults, 150 routes": "queries that the static stage leaves cost as ever.",
    "accuracy gained by the cascade": "the guard is chosen on the route set alone, by leaving one "
    "utterance out; these are other texts.",
    "query p50 under 100 mutations": "encoder, applier and scorer share two cores.",
    "goodput at 4x": "thousands of refusals a second and the client take their share of two cores.",
    "goodput over HTTP": "each refusal is a request that is read, parsed and answered, on the same "
    "two cores, and so is the client's part of it.",
    "HTTP p50": "the node's own p50 is stable; that of the peer varies from run to run.",
    "HTTP throughput": "client, server and encoder share the machine's cores.",
}
"""Reasons for missed goals, by the beginning of the goal's name."""


@dataclass(frozen=True)
class Goal:
    """One goal and its result.

    Attributes:
        name: What is measured.
        wanted: The goal in words.
        value: The figure; None where this run has none.
        is_met: Whether the figure meets the goal; None without a figure.
        unit: Unit of the figure.
    """

    name: str
    wanted: str
    value: float | None
    is_met: bool | None
    unit: str = ""

    @property
    def verdict(self) -> str:
        """One word."""
        return "no data" if self.is_met is None else "met" if self.is_met else "MISSED"

    @property
    def shown(self) -> str:
        """The figure with its unit."""
        return "-" if self.value is None else f"{self.value:.4g}{self.unit}"

    def as_json(self) -> dict[str, Any]:
        """For the summary."""
        return {
            "name": self.name,
            "goal": self.wanted,
            "value": self.value,
            "unit": self.unit.strip(),
            "met": self.is_met,
        }


class _Judge:
    """Compares figures with their goals."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def most(self, name: str, wanted: float, unit: str, *path: str) -> Goal:
        """A figure that must not be greater."""
        value = _look(self.found, path)
        met = None if value is None else value <= wanted
        return Goal(name, f"<= {wanted:g}{unit}", value, met, unit)

    def least(self, name: str, wanted: float, unit: str, *path: str) -> Goal:
        """A figure that must not be less."""
        value = _look(self.found, path)
        met = None if value is None else value >= wanted
        return Goal(name, f">= {wanted:g}{unit}", value, met, unit)


def judge(results: Results) -> list[Goal]:
    """Compare a run's figures with the goals."""
    judges = _Judge({name: result["figures"] for name, result in results.items()})
    return [*_node(judges), *_cluster(judges), *_deploy(judges)]


def _node(judges: _Judge) -> list[Goal]:
    found, most, least = judges.found, judges.most, judges.least
    memory, normal = f"{OURS}, memory", f"{OURS}, normal"
    peer = ("throughput", "many_clients", SEMANTIC_ROUTER, "ours_times_faster", "median")
    single = ("throughput", "one_client", SEMANTIC_ROUTER, "ours_p50_share", "median")
    defaults = ("cascade", "throughput")
    times = (SEMANTIC_ROUTER, "defaults_times_faster", "median")
    return [
        most("batch invariance, max difference", 1e-5, "", "invariance", "invariance",
             "max_difference"),
        most("padding tokens, equal lengths", 0, "", "invariance", "padding",
             "equal_length_padding_tokens"),
        most("padding share, mixed batches of 64", 0.1, "", "invariance", "padding",
             "mixed_padding_share_worst_batch"),
        least("queries a second at 64 clients, of semantic-router", 6, "x", *peer),
        most("p50 at 1 client, of semantic-router", 0.45, "x", *single),
        *_accuracy(found),
        *(
            least(f"accuracy with typos, of that of clean texts, {title}", 0.95, "", "inputs", name,
                  "typos", "typos_of_clean")
            for title, name in (("CLINC150", "clinc150"), ("Banking77", "banking77"))
        ),
        least("defaults, 150 routes of 50, queries a second at 64 clients, of semantic-router", 18,
              "x", *defaults, "many", "many_clients", *times),
        least("defaults, 150 routes of 10, queries a second at 64 clients, of semantic-router", 6,
              "x", *defaults, "few", "many_clients", *times),
        most("defaults, 150 routes of 10, p50 at 1 client, of semantic-router", 0.15, "x",
             *defaults, "few", "one_client", SEMANTIC_ROUTER, "defaults_p50_share", "median"),
        *(
            least(f"accuracy gained by the cascade, {title}, 50 utterances", 0, " points",
                  "cascade", "sets", name, "by_score", "adaptive", "50", "gained_points",
                  "median")
            for title, name in (("CLINC150", "clinc150"), ("Banking77", "banking77"))
        ),
        *(
            most(f"hot add, apply to visible p50, largest route set, {kind}", 1, " ms", "hot_add",
                 "apply_to_visible_ms", str(_look(found, ("hot_add", "largest"))), name, "p50")
            for kind, name in (("memory", memory), ("synchronous=normal", normal))
        ),
        most("hot add, growth from smallest to largest route set", 1.5, "x", "hot_add",
             "apply_growth", memory),
        most("cold boot of 50,000 vectors", 0.15, " s", "boot", "boot_seconds", "median"),
        most("resident memory at 50,000 utterances", 400, " MiB", "boot", "resident_mib",
             "median"),
        most("query p50 under 100 mutations/s, of quiet", 1.15, "x", "mutations",
             "busy_p50_share", "median"),
        most("scoring 50,000 utterances, alone", 4, " ms", "scoring", "milliseconds_a_query", "1",
             "p50"),
        most("scoring 50,000 utterances, batches of 16", 0.6, " ms", "scoring",
             "milliseconds_a_query", "16", "p50"),
        least("goodput at 4x load, of capacity", 0.9, "x", "overload", "loads", "4.0",
              "goodput_of_capacity"),
        least("goodput over HTTP at 4x load, of capacity", 0.9, "x", "overload", "over_http", "4.0",
              "goodput_of_capacity"),
        least("HTTP throughput at 64 clients, of in process", 0.85, "x", "http", "many_clients",
              "in_process", "http_share_of_throughput", "median"),
        most("HTTP p50 at 1 client, of semantic-router in process", 0.35, "x", "http",
             "one_client", SEMANTIC_ROUTER, "http_share_of_p50", "median"),
        least("cached queries a second over HTTP", 5_000, "", "http", "cached",
              "queries_per_second", "median"),
    ]  # fmt: skip


def _cluster(judges: _Judge) -> list[Goal]:
    most, least = judges.most, judges.least
    return [
        most("published to visible on all of 3 nodes, p50", 5, " ms", "cluster", "propagation",
             "visible_on_all_ms", "p50"),
        most("published to visible on all of 3 nodes, p99", 25, " ms", "cluster", "propagation",
             "visible_on_all_ms", "p99"),
        least("single-route writes sustained, of 500 a second", 0.99, "x", "cluster", "sustained",
              "taken_share"),
        most("import of 50,000 utterances, visible on all of 3 nodes", 10, " s", "cluster",
             "import", "seconds_until_visible_on_all"),
        most("query p99 during the import, of quiet", 2, "x", "cluster", "import", "p99_ratio"),
        most("a fresh node joins 50,000 utterances", 3, " s", "cluster", "joining",
             "fresh_seconds"),
        most("the same node restarted", 1, " s", "cluster", "joining", "restarted_seconds"),
    ]  # fmt: skip


def _deploy(judges: _Judge) -> list[Goal]:
    found, most = judges.found, judges.most
    return [
        most("size of the node's image", 330, " MB", "deploy", "image_mb", "node"),
        most("size of the coordinator's image", 350, " MB", "deploy", "image_mb", "coordinator"),
        most("compose up to a routed query", 60, " s", "deploy", "compose",
             "up_to_routed_query_seconds"),
        *(
            most(f"compose, {name}, to a write", 20, " s", "deploy", "compose", "back_seconds",
                 name)
            for name in found.get("deploy", {}).get("compose", {}).get("back_seconds", {})
        ),
        most("acknowledged writes lost by compose down, up and kills", 0, "", "deploy", "compose",
             "lost_writes"),
        most("container start to ready, empty database", 5, " s", "deploy", "start_seconds",
             "alone", "median"),
        *(
            most(f"failures through HAProxy, {name}", 0, "", "deploy", "disturbances", name,
                 "failures")
            for name in found.get("deploy", {}).get("disturbances", {})
        ),
    ]  # fmt: skip


def _accuracy(found: dict[str, Any]) -> list[Goal]:
    """``blend`` against ``max`` at ten utterances a route, in points."""

    def points(name: str) -> float | None:
        cells = [
            _look(found, ("accuracy", name, "accuracy", each, "10", "mean"))
            for each in ("blend", "max")
        ]
        if cells[0] is None or cells[1] is None:
            return None
        return round((cells[0] - cells[1]) * 100, 2)

    def over(title: str, name: str, wanted: float) -> Goal:
        value = points(name)
        return Goal(
            title,
            f">= {wanted:g} points",
            value,
            None if value is None else value >= wanted,
            " points",
        )

    return [
        over("blend over max, CLINC150, 10 utterances", "clinc150", 4),
        over("blend over max, Banking77, 10 utterances", "banking77", 0),
    ]


def _look(found: dict[str, Any], path: tuple[str, ...]) -> float | None:
    """Follow a path into the figures; return None if it does not exist."""
    value: Any = found
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value  # type: ignore[no-any-return]
