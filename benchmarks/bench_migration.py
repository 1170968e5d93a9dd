"""Moves a semantic-router 1.1.1 program as ``docs/migrate/semantic-router.md`` says; both answer.

The program's router holds ``k`` utterances of each of CLINC150's intents and saves itself with its
own ``to_yaml``.  That file is imported here, and both answer the whole test split and the
out-of-scope texts.  Both run the same model, all-MiniLM-L6-v2.

* ``accuracy``: share of test texts whose best route is the right one.
* ``answered``: share of test texts that are answered right, with the least confidence of .5 that is
  the default here; semantic-router refuses nothing by default.
* ``refused``: share of out-of-scope texts that get no route.

    python benchmarks/peers/install.py semantic-router
    python benchmarks/bench_migration.py --data FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from contenders import SEMANTIC_ROUTER
from harness import Bench, Options, read_options, rounded
from peers.install import environment, install
from route_texts import Corpus, read_corpus, read_out_of_scope
from synaptoroute.cli.query_backend import open_file_backend
from synaptoroute.encoder.recipe import bundled_recipe

COUNTS = (10, 20)
SEED = 0
_PEER = Path(__file__).parent / "peers" / "migration_peer.py"


def measure(options: Options) -> dict[str, Any]:
    """Measure both programs for each number of utterances."""
    corpus = read_corpus(options.data)
    stray = read_out_of_scope(options.data)
    step = options.pick(1, 20, 20)
    test, stray = corpus.test[::step], stray[::step]
    install(SEMANTIC_ROUTER)
    figures: dict[str, Any] = {"test_texts": len(test), "out_of_scope_texts": len(stray)}
    for count in options.pick(COUNTS, COUNTS[:1], COUNTS[:1]):
        with tempfile.TemporaryDirectory() as folder:
            figures[str(count)] = _measure(Path(folder), corpus, count, test, stray)
    return {corpus.name: figures}


def _measure(
    folder: Path, corpus: Corpus, count: int, test: list[tuple[str, str]], stray: list[str]
) -> dict[str, Any]:
    texts = [text for text, _ in test] + stray
    (folder / "routes.json").write_text(json.dumps(corpus.draw(count, SEED)))
    (folder / "texts.json").write_text(json.dumps(texts))
    recipe = bundled_recipe()
    python = environment(SEMANTIC_ROUTER) / "bin" / "python"
    subprocess.run(
        [str(python), str(_PEER), str(recipe.model_file), str(recipe.tokenizer_file), str(folder)],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        stdin=subprocess.DEVNULL,
        check=True,
    )
    theirs = json.loads((folder / "answers.json").read_text())
    with open_file_backend(folder / "router.yaml", None) as backend:
        matches = [backend.query(text, 2) for text in texts]
    ours = [match["route"] for match in matches]
    best = [match["route"] or _first(match) for match in matches]
    wanted: list[str | None] = [intent for _, intent in test]
    return {
        SEMANTIC_ROUTER: _shares(theirs, theirs, wanted),
        "synaptoroute-cluster": _shares(best, ours, wanted),
    }


def _first(match: dict[str, Any]) -> str | None:
    candidates = match.get("candidates") or ()
    return candidates[0]["route"] if candidates else None


def _shares(
    best: list[str | None], given: list[str | None], wanted: list[str | None]
) -> dict[str, float]:
    inside = len(wanted)
    pairs = zip(best[:inside], given[:inside], wanted, strict=True)
    found = [(one == intent, answer == intent) for one, answer, intent in pairs]
    outside = given[inside:]
    return {
        "accuracy": rounded(sum(right for right, _ in found) / inside),
        "answered": rounded(sum(right for _, right in found) / inside),
        "refused": rounded(sum(answer is None for answer in outside) / len(outside)),
    }


if __name__ == "__main__":
    given_options = read_options(__doc__)
    made = Bench("migration", given_options)
    made.finish(measure(given_options))
