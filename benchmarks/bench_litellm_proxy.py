"""Measures what routing by a node adds to a chat request through LiteLLM's proxy.

    python benchmarks/bench_litellm_proxy.py [--quick]

Real: LiteLLM's proxy as it is installed, one node with two routes, two stub models that answer at
once.  Requests go one after another; each of the contenders in turn sends one request a round, with
a text that was not sent before.  ``direct`` names the model itself, ``heuristic`` is LiteLLM's
router with its own keyword rules, ``synaptoroute`` is the same router that asks the node.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

from harness import ROOT, Bench, quantiles, read_options, rounded

sys.path.insert(0, str(ROOT / "tests" / "support"))

from litellm_proxy import LiteLlmProxy, config_with, litellm_proxy

MODELS = {"direct": "small", "heuristic": "heuristic", "synaptoroute": "auto"}
WARM_UP_ROUNDS = 20


def milliseconds(proxy: LiteLlmProxy, http: httpx.Client, text: str, model: str) -> float:
    started = time.perf_counter()
    proxy.ask(http, text, model)
    return (time.perf_counter() - started) * 1_000


def decision_milliseconds(proxy: LiteLlmProxy, http: httpx.Client, text: str) -> float:
    """The node alone, asked as LiteLLM asks it."""
    question = {"type": "choice", "criteria": {"small-model": "small", "large-model": "large"}}
    document = {
        "model": "default",
        "state": f"\nClassify this message:\n{text}",
        "questions": {"tier": {**question, "instructions": "Pick the cheapest tier."}},
    }
    started = time.perf_counter()
    answer = http.post(f"{proxy.node.url}/v1/systemone", json=document)
    took_ms = (time.perf_counter() - started) * 1_000
    assert answer.is_success, answer.text
    return took_ms


def main() -> None:
    options = read_options(__doc__)
    bench = Bench("litellm_proxy", options)
    rounds = options.pick(500, 100, 3)
    took: dict[str, list[float]] = {name: [] for name in (*MODELS, "node_alone")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiers = dict.fromkeys(("SIMPLE", "MEDIUM", "COMPLEX", "REASONING"), "small")
        config = config_with(folder, "heuristic", {"tiers": tiers})
        with (
            litellm_proxy(folder, config) as proxy,
            httpx.Client(timeout=60) as http,
        ):
            for number in range(-WARM_UP_ROUNDS, rounds):
                for contender, model in MODELS.items():
                    text = f"Is {number} plus {len(contender)} a prime number in this case?"
                    found = milliseconds(proxy, http, text, model)
                    if number >= 0:
                        took[contender].append(found)
                alone = decision_milliseconds(proxy, http, f"Is {number} times two even?")
                if number >= 0:
                    took["node_alone"].append(alone)
    bench.finish(
        {
            "rounds": rounds,
            "milliseconds": {name: quantiles(values) for name, values in took.items()},
            "added_ms_median": {
                "to_direct": added(took["synaptoroute"], took["direct"]),
                "to_heuristic": added(took["synaptoroute"], took["heuristic"]),
            },
        }
    )


def added(ours: list[float], theirs: list[float]) -> float:
    """Median of the differences within a round."""
    return rounded(median(a - b for a, b in zip(ours, theirs, strict=True)))


if __name__ == "__main__":
    main()
