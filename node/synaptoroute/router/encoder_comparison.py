"""Another encoder on labelled texts, before the cluster changes to it.

The generation's vectors become a tensor of their own, beside the one that serves; the
texts are encoded by the encoder that stands by.  Nothing is written and no query waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from synaptoroute.core.change import RouteRecord
from synaptoroute.core.imports import generation_id, missing_texts, vectors_in
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import NotReady
from synaptoroute.models import Match
from synaptoroute.ports import AppliedState, EnginePort
from synaptoroute.router.preview import Standing
from synaptoroute.router.queries import question
from synaptoroute.scoring import Scratch, rank
from synaptoroute.tensor import Tensor

TRIAL_TEXTS_MAX: Final = 2_000
TEXTS_AT_ONCE: Final = 32
CHANGED_SHOWN_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and the route that it belongs to; None for none."""

    text: str
    route: str | None


@dataclass(frozen=True, slots=True)
class Tried:
    """One text with either encoder.

    Attributes:
        text: The text.
        expected: The route that it belongs to.
        before: With the encoder that serves.
        after: With the other one.
    """

    text: str
    expected: str | None
    before: Standing
    after: Standing


@dataclass(frozen=True, slots=True)
class Trial:
    """What a change of the encoder would do to labelled texts.

    Attributes:
        encoder: Fingerprint of the other encoder.
        texts: How many were tried.
        correct_before: How many the encoder that serves sends where they belong.
        correct_after: The same of the other one, at the thresholds in force.
        threshold_best: Default threshold with which the other one is right most often,
            where no route has a threshold of its own.
        correct_best: How often that is.
        changed: Texts that would go elsewhere, the first ones.
    """

    encoder: str
    texts: int
    correct_before: int
    correct_after: int
    threshold_best: float
    correct_best: int
    changed: list[Tried]


@dataclass(frozen=True, slots=True)
class _Whole:
    """A generation with the routes that it is of."""

    routes: tuple[RouteRecord, ...]
    settings: Settings
    vectors: dict[str, bytes]


async def try_encoder(
    engine: EnginePort, fingerprint: str, cases: Sequence[Labelled], now: Sequence[Match]
) -> Trial:
    """Compare the encoder that stands by with the one that serves.

    Args:
        engine: Of this node.
        fingerprint: Of the encoder to try; its generation must be whole.
        cases: Labelled texts.
        now: The node's answers to them.

    Raises:
        EncoderMismatch: This node does not have it.
        NotReady: Its generation is not whole.
    """
    encoder = engine.encoders.find(fingerprint)
    name = generation_id(fingerprint, encoder.dim)

    def look(state: AppliedState) -> _Whole:
        table = state.replica.table
        vectors = vectors_in(table.imports.get(name))
        routes = tuple(table.routes.values())
        if missing_texts(routes, vectors):
            raise NotReady("not every utterance has its vector of this encoder yet")
        return _Whole(routes, table.settings, vectors)

    whole = await asyncio.wrap_future(engine.run_on_applier(look))
    texts = [case.text for case in cases]
    best = await asyncio.to_thread(_score, encoder, whole, texts)
    return _judge(fingerprint, cases, now, best)


def _score(encoder: TextEncoder, whole: _Whole, texts: Sequence[str]) -> list[Standing]:
    """Find the best route of each text, whether it passes or not."""
    tensor = Tensor(encoder.dim, whole.settings)
    rows = sorted(
        (slot, text)
        for route in whole.routes
        for slot, text in zip(route.slots, route.utterances, strict=True)
    )
    slots = np.array([slot for slot, _ in rows], np.int64)
    joined = b"".join(whole.vectors[text] for _, text in rows)
    vectors = np.frombuffer(joined, "<f4").reshape(len(rows), encoder.dim)
    tensor.load(slots, vectors, whole.routes, whole.settings, Revision(1, 0))
    found: list[Standing] = []
    scratch = Scratch()
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[start : start + TEXTS_AT_ONCE]
        specs = [question(text, 1, None, False, True).spec(tensor.routes) for text in some]
        for ranking in rank(tensor, encoder.encode(some), specs, scratch):
            if not ranking.top:
                found.append(Standing(None, None, None, None))
                continue
            top = ranking.best or ranking.top[0]
            name = tensor.record_of(top.route_id).name
            found.append(Standing(name, top.score, top.threshold, None))
    return found


def _judge(
    fingerprint: str,
    cases: Sequence[Labelled],
    now: Sequence[Match],
    best: Sequence[Standing],
) -> Trial:
    before = [Standing(m.route, m.score, m.threshold, m.utterance) for m in now]
    after = [_passed(each) for each in best]
    tried = [
        Tried(case.text, case.route, *pair)
        for case, *pair in zip(cases, before, after, strict=True)
    ]
    threshold, correct_best = _best_threshold(cases, best)
    return Trial(
        encoder=fingerprint,
        texts=len(cases),
        correct_before=sum(each.before.route == each.expected for each in tried),
        correct_after=sum(each.after.route == each.expected for each in tried),
        threshold_best=threshold,
        correct_best=correct_best,
        changed=[each for each in tried if each.before.route != each.after.route][
            :CHANGED_SHOWN_MAX
        ],
    )


def _passed(best: Standing) -> Standing:
    """The best route where it passes, else none."""
    is_match = (best.score or -2.0) >= (best.threshold or -1.0)
    return best if is_match else Standing(None, best.score, best.threshold, None)


def _best_threshold(cases: Sequence[Labelled], best: Sequence[Standing]) -> tuple[float, int]:
    """Find the default threshold that is right most often; the lowest of equal ones."""
    pairs = zip(cases, best, strict=True)
    scored = [(each.score or 0.0, case.route, each.route) for case, each in pairs]
    scored.sort(key=lambda row: row[0])
    # From below: with every threshold passed, one text more has no route.
    correct = sum(expected == found for _, expected, found in scored)
    top, threshold = correct, 0.0
    for index, (score, expected, found) in enumerate(scored):
        correct += (expected is None) - (expected == found)
        following = scored[index + 1][0] if index + 1 < len(scored) else score
        if correct > top and following > score:
            top, threshold = correct, (score + following) / 2
    return round(threshold, 3), top
