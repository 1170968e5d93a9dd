"""The goals, and the comparison of a run's figures with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contenders import OURS, SEMANTIC_ROUTER
from kinds import WITH_VNNI

Results = dict[str, dict[str, Any]]
Wanted = float | tuple[float, float]
"""A goal, or the goals without and with instructions for products of bytes."""

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
    "cold boot": "a third of the time reads and checks the checkpoint, the rest makes Python "
    "objects: routes, the index of texts, and the words of encoder and utterances for word repair.",
    "scoring 50,000 utterances": "a query reads the bytes of every row once, so it is as fast as "
    "memory is.",
    "defaults, 150 routes": "the static stage answers what it separates from texts of no route, "
    "half to three fifths of them; the others cost what the encoder costs (ADR 0077, 0079).",
    "encoder alone, queries a second": "integer products take three fifths of a text in a batch "
    "and run near the speed of the core; what is beside them would need operators that ONNX "
    "Runtime does not have (ADR 0079).",
    "fast, import": "at the limit: runs of one day gave 0.46 to 0.55 s on one machine.",
    "fast, p50 of a call": "a call ranks all utterances exactly and gives a confidence; a quarter "
    "of its time is the product with all rows, in float32 (ADR 0073).",
    "float32 of another": "products take nine tenths of the time and run at the speed of the "
    "core; padding is what a packed graph saves (ADR 0075).",
    "accuracy gained with defaults": "the guard is chosen on the route set alone, by leaving one "
    "utterance out; these are other texts.",
    "query p50 under 100 mutations": "encoder, applier and scorer share two cores.",
    "goodput at 4x": "thousands of refusals a second and the client take their share of two cores.",
    "goodput over HTTP": "each refusal is a request that is read, parsed and answered, on the same "
    "two cores, and so is the client's part of it (ADR 0083).",
    "defaults, HTTP p50": "at ten utterances a route the static stage answers half of the texts: "
    "the median falls now on its answers, now on the encoder's, which take several times as long.",
    "encoder alone, HTTP p50": "the node's own p50 is stable; that of the peer varies.",
    "accuracy with defaults": "the bound holds with 95 % for texts that are drawn again, so a "
    "small test split alone widens it.",
    "resident memory": "a third of it is vectors and their bytes, a fifth mapped files, the rest "
    "the encoder's session, the interpreter and its objects (ADR 0082).",
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
    def mark(self) -> str:
        """The verdict; empty without a figure."""
        return "" if self.is_met is None else self.verdict

    @property
    def shown(self) -> str:
        """The figure with its unit."""
        return "not measured" if self.value is None else f"{self.value:.4g}{self.unit}"

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
    """Compares figures with their goals.

    Attributes:
        found: Figures by benchmark.
    """

    def __init__(
        self, found: dict[str, Any], kind: str = "avx2", earlier: Mapping[str, float] | None = None
    ) -> None:
        self.found = found
        self._has_vnni = kind in WITH_VNNI
        self._earlier = earlier or {}

    def most(self, name: str, wanted: Wanted, unit: str, *path: str, earlier: str = "") -> Goal:
        """A figure that must not be greater."""
        value, limit = self._value(name, path, earlier), self._limit(wanted)
        return Goal(name, f"<= {limit:g}{unit}", value, _met(value, limit, -1), unit)

    def least(self, name: str, wanted: Wanted, unit: str, *path: str, earlier: str = "") -> Goal:
        """A figure that must not be less."""
        value, limit = self._value(name, path, earlier), self._limit(wanted)
        return Goal(name, f">= {limit:g}{unit}", value, _met(value, limit, 1), unit)

    def own(self, name: str, wanted: float, unit: str, value: float | None) -> Goal:
        """A figure that was computed of others and must not be less."""
        value = self._earlier.get(name) if value is None else value
        return Goal(name, f">= {wanted:g}{unit}", value, _met(value, wanted, 1), unit)

    def _value(self, name: str, path: tuple[str, ...], earlier: str) -> float | None:
        value = _look(self.found, path)
        return self._earlier.get(earlier or name) if value is None else value

    def _limit(self, wanted: Wanted) -> float:
        """The goal of the kind: the first of a pair without instructions for bytes."""
        return wanted[self._has_vnni] if isinstance(wanted, tuple) else wanted


def _met(value: float | None, limit: float, sign: int) -> bool | None:
    return None if value is None else sign * value >= sign * limit


def judge(
    results: Results, kind: str = "avx2", earlier: Mapping[str, float] | None = None
) -> list[Goal]:
    """Compare the figures of one kind of processor with its goals.

    Args:
        results: Results by benchmark.
        kind: Kind of the processor, which some goals hang on.
        earlier: Figures of an earlier run by the name of the goal, used where results have none.
    """
    # A tiny run of the boot of 50,000 vectors has a hundred of them.
    found = {
        name: result["figures"] for name, result in results.items() if result["size"] != "tiny"
    }
    judges = _Judge(found, kind, earlier)
    return [*_speed(judges), *_fast(judges), *_node(judges), *_cluster(judges)]


def judge_apart(results: Results) -> list[Goal]:
    """Compare the figures of containers with their goals, which hang on no kind of processor."""
    return _deploy(_Judge({name: result["figures"] for name, result in results.items()}))


def _speed(judges: _Judge) -> list[Goal]:
    """The goals that hang on the kind, and those of what the default settings do."""
    most, least = judges.most, judges.least
    defaults = ("defaults", "sets")
    times = (SEMANTIC_ROUTER, "defaults_times_faster", "median")
    share = (SEMANTIC_ROUTER, "defaults_p50_share", "median")
    peer = ("throughput", "many_clients", SEMANTIC_ROUTER, "ours_times_faster", "median")
    single = ("throughput", "one_client", SEMANTIC_ROUTER, "ours_p50_share", "median")
    http = ("http", "one_client", SEMANTIC_ROUTER)
    return [
        least("defaults, 150 routes of 50, queries a second at 64 clients, of semantic-router",
              (18, 28), "x", *defaults, "150x50", "many_clients", *times),
        least("defaults, 150 routes of 10, queries a second at 64 clients, of semantic-router",
              (6, 12), "x", *defaults, "150x10", "many_clients", *times),
        most("defaults, 150 routes of 10, p50 at 1 client, of semantic-router", (0.15, 0.12), "x",
             *defaults, "150x10", "one_client", *share),
        least("encoder alone, queries a second at 64 clients, of semantic-router", (4.5, 8.5), "x",
              *peer, earlier="queries a second at 64 clients, of semantic-router"),
        most("encoder alone, p50 at 1 client, of semantic-router", 0.45, "x", *single,
             earlier="p50 at 1 client, of semantic-router"),
        most("defaults, HTTP p50 at 1 client, of semantic-router in process", 0.2, "x", *http,
             "http_share_of_p50", "median"),
        most("encoder alone, HTTP p50 at 1 client, of semantic-router in process", 0.35, "x",
             *http, "http_alone_share_of_p50", "median",
             earlier="HTTP p50 at 1 client, of semantic-router in process"),
        least("accuracy with defaults, of the encoder alone, lower bound of the worst cell", -0.3,
              " points", "cascade", "worst", "lower_bound_points"),
        *(
            least(f"accuracy gained with defaults, {title}, 50 utterances", 0, " points",
                  "cascade", "sets", name, "by_score", "adaptive", "50", "gained_points",
                  "median")
            for title, name in (("CLINC150", "clinc150"), ("Banking77", "banking77"))
        ),
        most("out-of-scope texts that get a route, defaults over the encoder alone, worst count",
             0.5, " points", "cascade", "worst", "out_of_scope_points"),
        most("calibration error, defaults over the encoder alone, worst cell", 0.1, " points",
             "cascade", "worst", "ece_points"),
        least("float32 of another BERT model, packed, of padded, batches of 64", 1.3, "x",
              "packed", "float32_times_faster"),
    ]  # fmt: skip


def _fast(judges: _Judge) -> list[Goal]:
    """The preset without a transformer, beside libraries that have none either."""
    most, least = judges.most, judges.least
    peers, sets = ("microresolve", "wordllama"), (("CLINC150", "clinc150"),
                                                  ("Banking77", "banking77"))  # fmt: skip
    return [
        most("fast, import and opening", 0.5, " s", "fast", "clinc150", "ours", "start", "seconds"),
        most("fast, resident memory", 120, " MiB", "fast", "clinc150", "ours", "mib"),
        *(
            least(f"fast, accuracy over {peer}, {title}", 0, " points", "fast", name,
                  f"points_over_{peer}")
            for peer in peers for title, name in sets
        ),
        *(
            most(f"fast, p50 of a call, of {peer}, {title}", 1, "x", "fast", name, f"p50_of_{peer}",
                 "median")
            for peer in peers for title, name in sets
        ),
    ]  # fmt: skip


def _node(judges: _Judge) -> list[Goal]:
    found, most, least = judges.found, judges.most, judges.least
    memory, normal = f"{OURS}, memory", f"{OURS}, normal"
    return [
        most("batch invariance, max difference", 1e-5, "", "invariance", "invariance",
             "max_difference"),
        most("padding tokens, equal lengths", 0, "", "invariance", "padding",
             "equal_length_padding_tokens"),
        most("padding share, mixed batches of 64", 0.1, "", "invariance", "padding",
             "mixed_padding_share_worst_batch"),
        *_accuracy(judges),
        *(
            least(f"accuracy with typos, of that of clean texts, {title}", 0.95, "", "inputs", name,
                  "typos", "typos_of_clean")
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
        most("resident memory at 50,000 utterances, the cascade on", 260, " MiB", "boot",
             "resident_mib_cascade"),
        most("query p50 under 100 mutations/s, of quiet", 1.15, "x", "mutations",
             "busy_p50_share", "median"),
        most("scoring 50,000 utterances, alone", 4, " ms", "scoring", "milliseconds_a_query", "1",
             "p50"),
        most("scoring 50,000 utterances, batches of 16", 0.6, " ms", "scoring",
             "milliseconds_a_query", "16", "p50"),
        least("goodput at 4x load, of capacity", 0.9, "x", "overload", "loads", "4.0",
              "goodput_of_capacity"),
        least("goodput over HTTP at 4x load, of capacity, the client's cost subtracted", 0.9, "x",
              "overload", "over_http", "4.0", "goodput_without_client"),
        least("HTTP throughput at 64 clients, of in process", 0.85, "x", "http", "many_clients",
              "in_process", "http_alone_share_of_throughput", "median"),
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


def _accuracy(judges: _Judge) -> list[Goal]:
    """``blend`` against ``max`` at ten utterances a route, in points."""

    def points(name: str) -> float | None:
        blend, largest = (
            _look(judges.found, ("accuracy", name, "accuracy", each, "10", "mean"))
            for each in ("blend", "max")
        )
        return None if blend is None or largest is None else round((blend - largest) * 100, 2)

    return [
        judges.own(f"blend over max, {title}, 10 utterances", wanted, " points", points(name))
        for title, name, wanted in (("CLINC150", "clinc150", 4), ("Banking77", "banking77", 0))
    ]


def _look(found: dict[str, Any], path: tuple[str, ...]) -> float | None:
    """Follow a path into the figures; return None if it does not exist."""
    value: Any = found
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value  # type: ignore[no-any-return]
