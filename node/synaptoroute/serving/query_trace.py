"""The steps of a query as spans below its request; called only where the process is traced."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from synaptoroute.serving.query import Query
from synaptoroute.tracing import Span


def record_steps(span: Span, queries: Sequence[Query]) -> None:
    """Record how the queries of a request were answered.  Runs on the event loop.

    Queries that were encoded in one batch have one span for each step.
    """
    batches = Counter(query.times for query in queries if query.times is not None)
    submitted = span.marked_ns
    for times, texts in batches.items():
        taken, tokenized, encoded = times
        # A query that joined an equal one may have been submitted after any of these.
        steps = {"queue": taken, "tokenize": tokenized, "encode": encoded, "score": time.time_ns()}
        since = submitted
        for name, until in steps.items():
            if until > since:
                span.record(name, since, until, {"synaptoroute.texts": texts})
                since = until
    # The first stage answers without the encoder; a query that failed was in the queue.
    is_static = any(each.first_stage is not None and each.first_stage.is_sure for each in queries)
    if is_static or not batches:
        span.mark("static" if is_static else "queue")
