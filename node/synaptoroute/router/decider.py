"""Answers to typed questions about a text: one pass through the query path for all of them.

Options that are routes need nothing but the query.  The texts of other options are encoded
first, behind the queries, and their vectors are kept; which options are routes is decided at
the position at which the text is scored, never before.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.config import EngineConfig
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import DeadlineExceeded, InvalidQuery, NotReady
from synaptoroute.questions import Answer, OptionScores, Question, answer
from synaptoroute.serving.query import OptionSet, Query, QueryEngine
from synaptoroute.serving.query_trace import record_steps
from synaptoroute.tracing import SPAN

VECTORS_KEPT: Final = 8_192
"""Vectors of option texts; 12.6 MB of 384 dimensions."""
TEXTS_PER_REQUEST_MAX: Final = 2_048
"""Distinct texts of options of one request that have to be encoded."""
_ATTEMPTS: Final = 4
"""Passes: routes may be deleted, or the encoder changed, between two of them."""
_TOKENIZED_HERE_MAX: Final = 64
"""Texts that are tokenized on the event loop."""
_OPTIONS_AT_ONCE: Final = 1_024
"""Options that are answered before others get the event loop."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answers to all questions of a request.

    Attributes:
        answers: One a question, in order.
        version: The position that all of them are of, ``epoch.seq``.
        input_tokens: Tokens of the text, and of the texts of options that are no routes.
        cached_tokens: Those of them whose embeddings were known.
    """

    answers: tuple[Answer, ...]
    version: str
    input_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class _KnownText:
    vector: NDArray[np.float32]
    tokens: int


class OptionVectors:
    """Vectors of option texts of one encoder, the least recently used are dropped.

    Those of different scopes are kept apart.  Used on the event loop only.
    """

    def __init__(self, kept: int = VECTORS_KEPT) -> None:
        self._kept = kept
        self._fingerprint = ""
        self._known: OrderedDict[tuple[str, str], _KnownText] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def use(self, fingerprint: str) -> None:
        """Forget the vectors of another encoder."""
        if fingerprint != self._fingerprint:
            self._fingerprint = fingerprint
            self._known.clear()

    def get(self, text: str, scope: str = "") -> _KnownText | None:
        found = self._known.get((scope, text))
        if found is not None:
            self._known.move_to_end((scope, text))
        return found

    def put(self, fingerprint: str, text: str, known: _KnownText, scope: str = "") -> None:
        if fingerprint != self._fingerprint:
            return
        self._known[scope, text] = known
        if len(self._known) > self._kept:
            self._known.popitem(last=False)


class Decider:
    """Answers questions about texts; runs on the event loop of a started router."""

    def __init__(
        self,
        engine: Callable[[], QueryEngine],
        config: EngineConfig,
        vectors: OptionVectors | None = None,
    ) -> None:
        """Prepare.

        Args:
            engine: Returns the engine.
            config: Its configuration.
            vectors: Those that another one keeps as well; None for its own.
        """
        self._engine = engine
        self._config = config
        self.vectors = vectors or OptionVectors()

    async def decide(
        self,
        text: str,
        questions: Sequence[Question],
        *,
        deadline_ms: int | None = None,
        flow: str = "",
        use_cache: bool = True,
        session: str | None = None,
        cache_scope: str = "",
    ) -> Decision:
        """Answer all questions about a text at one position.

        Args:
            text: 1 to 32,768 bytes of UTF-8, trimmed.
            questions: At least one.
            deadline_ms: Give up after that many milliseconds, encoding of options included.
            flow: Name of the client, see ``begin_query``.
            use_cache: False encodes the text again, to measure.
            session: See ``QueryArguments``.
            cache_scope: See ``QueryArguments``.

        Raises:
            UnsupportedQuestion: A question has two sides, and the encoder has no numbers.
            InvalidQuery: Too many options would have to be encoded.
            Overloaded: The queue is full, or the answer would come too late.
            DeadlineExceeded: There is no answer in time.
            NotReady: The router is stopping.
        """
        seconds = (deadline_ms or self._config.query_deadline_ms) / 1_000
        # The deadline counts for all passes together.
        ends_at = time.monotonic() + seconds
        fresh: dict[str, _KnownText] = {}
        was_cached: bool | None = None
        for _ in range(_ATTEMPTS):
            engine = self._engine()
            encoder = engine.encoder
            self.vectors.use(encoder.fingerprint)
            options = self._options(questions, encoder, fresh, cache_scope)
            left = max(ends_at - time.monotonic(), 0.001)
            query = _query(text, questions, options, use_cache=use_cache)
            query.session, query.cache_scope, query.flow = session, cache_scope, flow
            scores = await _score(engine, query, left)
            if was_cached is None:
                was_cached = scores.was_cached  # a later pass finds what this one encoded
            missing = _missing(questions, scores)
            if not missing:
                return await self._answer(questions, scores, fresh, was_cached, cache_scope)
            if len(missing) > TEXTS_PER_REQUEST_MAX:
                raise InvalidQuery(
                    f"{len(missing)} distinct options are no routes and would have to be "
                    f"encoded; a request has at most {TEXTS_PER_REQUEST_MAX}",
                    limit=TEXTS_PER_REQUEST_MAX,
                )
            left = ends_at - time.monotonic()
            try:
                async with asyncio.timeout(left):
                    found = await _encode(engine, encoder, missing)
            except TimeoutError:
                raise DeadlineExceeded(f"no answer within {seconds:g} s") from None
            fresh |= found
            for each, known in found.items():
                self.vectors.put(encoder.fingerprint, each, known, cache_scope)
        raise NotReady(
            "the routes changed too often while the options were encoded", retry_after_seconds=1.0
        )

    def _options(
        self,
        questions: Sequence[Question],
        encoder: TextEncoder,
        fresh: dict[str, _KnownText],
        scope: str,
    ) -> OptionSet:
        """Collect the options whose vectors are known."""
        found: dict[tuple[str | None, str], NDArray[np.float32]] = {}
        for question in questions:
            for option in question.options:
                key = option.route, option.text
                if option.is_none or key in found:
                    continue
                known = fresh.get(option.text) or self.vectors.get(option.text, scope)
                if known is not None and len(known.vector) == encoder.dim:
                    found[key] = known.vector
        names = [name for name, _ in found]
        vectors = np.empty((len(found), encoder.dim), np.float32)
        for row, vector in enumerate(found.values()):
            vectors[row] = vector
        return OptionSet(encoder.fingerprint, names, [text for _, text in found], vectors)

    async def _answer(
        self,
        questions: Sequence[Question],
        scores: OptionScores,
        fresh: dict[str, _KnownText],
        was_cached: bool,
        scope: str,
    ) -> Decision:
        answers, since = [], 0
        for question in questions:
            answers.append(answer(question, scores))
            since += len(question.options)
            if since >= _OPTIONS_AT_ONCE:
                since = 0
                await asyncio.sleep(0)
        tokens = scores.tokens
        cached = scores.tokens if was_cached else 0
        for text in scores.texts:
            known = fresh.get(text)
            if known is None and (known := self.vectors.get(text, scope)) is not None:
                cached += known.tokens
            tokens += known.tokens if known is not None else 0
        return Decision(tuple(answers), scores.version, tokens, cached)


def _missing(questions: Sequence[Question], scores: OptionScores) -> list[str]:
    """Texts of options that have no figures, each once."""
    return list(
        dict.fromkeys(
            option.text
            for question in questions
            for option in question.options
            if scores.lacks(option)
        )
    )


def _query(
    text: str, questions: Sequence[Question], options: OptionSet, *, use_cache: bool
) -> Query:
    """Make the query that scores a text against all options."""
    names = frozenset(
        option.route
        for question in questions
        for option in question.options
        if option.route is not None
    )
    return Query(text, 1, names, False, use_cache, options=options)


async def _score(engine: QueryEngine, query: Query, seconds: float) -> OptionScores:
    """Have a text scored against all options, in the queue of queries."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[OptionScores] = loop.create_future()
    query.future, query.loop, query.deadline_seconds = future, loop, seconds
    if (span := SPAN.get()) is not None:
        span.mark("parse")
    engine.submit(query)
    try:
        async with asyncio.timeout(seconds):
            return await future
    except TimeoutError:
        raise DeadlineExceeded(f"no answer within {seconds:g} s") from None
    finally:
        if span is not None:
            record_steps(span, [query])


async def _encode(
    engine: QueryEngine, encoder: TextEncoder, texts: Sequence[str]
) -> dict[str, _KnownText]:
    """Encode texts of options, behind the queries."""
    futures = [asyncio.wrap_future(each) for each in engine.encode_utterances(texts, encoder)]
    try:
        parts = await asyncio.gather(*futures)
    finally:
        for future in futures:
            future.cancel()
    if len(texts) <= _TOKENIZED_HERE_MAX:
        tokens = encoder.tokenize_utterances(texts)
    else:
        tokens = await asyncio.to_thread(encoder.tokenize_utterances, texts)
    vectors = np.concatenate(parts)
    # Copies: a row that is kept must not keep the rows of a whole job.
    return {
        text: _KnownText(vector.copy(), own.count)
        for text, vector, own in zip(texts, vectors, tokens, strict=True)
    }
