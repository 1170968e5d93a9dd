"""Texts for the benchmarks: CLINC150 and Banking77 from a folder, or generated ones.

Few-shot protocol: k training texts an intent by ``default_rng(seed)``, in order of intent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SETS = ("clinc150", "banking77")


@dataclass(frozen=True)
class Corpus:
    """Labelled texts.

    Attributes:
        name: Name of the set.
        train: Texts by intent, in order of intent.
        test: Pairs of a text and its intent.
    """

    name: str
    train: dict[str, list[str]]
    test: list[tuple[str, str]]

    def draw(self, count: int, seed: int) -> dict[str, list[str]]:
        """Choose ``count`` training texts an intent, as utterances of routes."""
        random = np.random.default_rng(seed)
        drawn = {}
        for intent, texts in self.train.items():
            own = random.choice(len(texts), min(count, len(texts)), replace=False)
            drawn[intent] = [texts[index] for index in np.sort(own)]
        return drawn

    def queries(self, count: int, seed: int) -> list[str]:
        """Distinct test texts in random order, at most ``count``."""
        texts = sorted({text.strip() for text, _ in self.test})
        order = np.random.default_rng(seed).permutation(len(texts))
        return [texts[index] for index in order[:count]]


def read_corpus(folder: Path | None, name: str = "clinc150") -> Corpus:
    """Read a set, or generate a small one where there is no folder."""
    if folder is None:
        return generated()
    data = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    train: dict[str, list[str]] = {intent: [] for intent in sorted({i for _, i in data["train"]})}
    for text, intent in data["train"]:
        train[intent].append(text.strip())
    return Corpus(name, train, [(text.strip(), intent) for text, intent in data["test"]])


def read_out_of_scope(folder: Path | None, name: str = "clinc150") -> list[str]:
    """Read the out-of-scope test texts of a set, or CLINC150's; made ones without a folder."""
    if folder is None:
        return [f"how many {thing} are there in a {place}" for thing in "abc" for place in "xyz"]
    for file in (folder / f"{name}.json", folder / "clinc150.json"):
        data = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if data.get("oos_test"):
            return [text.strip() for text, _ in data["oos_test"]]
    return []


def names_of_sets(folder: Path | None) -> list[str]:
    """Name the data sets of a folder, the two known ones first; ``generated`` without one."""
    if folder is None:
        return ["generated"]
    found = []
    for file in sorted(folder.glob("*.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("train") and data.get("test"):
            found.append(file.stem)
    return sorted(found, key=lambda name: (SETS.index(name) if name in SETS else len(SETS), name))


def generated(intents: int = 8, texts: int = 30) -> Corpus:
    """Make texts of a few words; enough to see that a benchmark runs."""
    things = ("parcel", "invoice", "password", "flight", "recipe", "battery", "holiday", "salary")
    asks = ("where is", "how do I change", "what about", "please tell me about", "cancel")
    tails = ("now", "for my brother", "before the weekend", "again", "in two days", "at home")
    lines = [(ask, tail) for ask in asks for tail in tails]
    train, test = {}, []
    for number in range(intents):
        thing = things[number % len(things)]
        made = [f"{ask} my {thing} {tail}" for ask, tail in lines[:texts]]
        train[thing] = made[: texts // 2]
        test += [(text, thing) for text in made[texts // 2 :]]
    return Corpus("generated", train, test)


def unit_rows(count: int, dim: int, seed: int) -> np.ndarray:
    """Random float32[count, dim] of unit length."""
    rows = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
