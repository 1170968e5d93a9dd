"""Builds first stages again where they serve, and drops what they said of queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder import TextEncoder
from synaptoroute.serving.preparation import TextPreparation
from synaptoroute.serving.query import FirstStage, Query
from synaptoroute.serving.served_sets import ServedSets
from synaptoroute.tensor import Tensor


def renew_first_stages(
    sets: ServedSets,
    call: Callable[[Callable[[Tensor], Any], int], Future[Any]],
    encoder: TextEncoder,
) -> None:
    """Build them from the present routes and exchange them between two batches.

    Runs on the applier's thread: it alone changes sets and routes, so they stay meanwhile.

    Args:
        sets: The sets that are served.
        call: Runs a function on the tensor of a set, by its number, on the scorer's thread.
        encoder: The one that serves.
    """
    for number, served in sorted(sets.by_number.items()):
        stage = served.first_stage
        if stage is None:
            continue
        records, settings, at = call(_contents, number).result()
        built = stage.rebuild(encoder, settings, records, at)
        call(partial(_install, stage, built, encoder, served.preparation), number).result()


def _contents(tensor: Tensor) -> tuple[tuple[RouteRecord, ...], Settings, Revision]:
    return tuple(tensor.routes.values()), tensor.settings, tensor.revision


def _install(
    stage: FirstStage,
    built: Any,
    encoder: TextEncoder,
    preparation: TextPreparation,
    tensor: Tensor,
) -> None:
    stage.install(built, encoder, tensor, preparation)


def forget_first_stage(callers: Sequence[Sequence[object]]) -> None:
    for group in callers:
        for query in group:
            if isinstance(query, Query):
                query.first_stage, query.first_stage_at = None, None
