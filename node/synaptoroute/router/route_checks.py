"""Checks of what a caller of the library or the HTTP API wants to write, and its mutation."""

from __future__ import annotations

from collections.abc import Sequence

from synaptoroute.core.mutation import Keep, PutRoute
from synaptoroute.core.validation import NEGATIVES_MAX
from synaptoroute.errors import InvalidRoute
from synaptoroute.models import (
    UTTERANCE_BYTES_MAX,
    UTTERANCES_PER_ROUTE_CALL_MAX,
    Route,
    canonical_json,
    check_name,
    check_text,
)


def texts_of(route: Route) -> list[str]:
    """All texts of a route that are encoded: utterances, description, negatives."""
    described = [] if route.description is None else [route.description]
    return [*route.utterances, *described, *route.negatives]


def count_to_encode(route: Route) -> int:
    """Number of ``texts_of`` whose vectors are not given."""
    return len(texts_of(route)) - len(route.vectors or ())


def put_mutation(route: Route, vectors: tuple[bytes, ...]) -> PutRoute:
    """Make the mutation of a route and the vectors of its ``texts_of``."""
    count = len(route.utterances)
    described = route.description is not None
    return PutRoute(
        name=route.name,
        utterances=tuple(route.utterances),
        vectors=vectors[:count],
        threshold=route.threshold,
        metadata=canonical_json(route.metadata) if route.metadata else "{}",
        payload="null" if route.payload is None else canonical_json(route.payload),
        confidence_min=route.confidence_min,
        description=route.description,
        description_vector=vectors[count] if described else b"",
        negatives=tuple(route.negatives),
        negative_vectors=vectors[count + described :],
    )


def checked_route(route: Route) -> Route:
    """Validate a route again and copy it."""
    # A Route is mutable: a caller of the library may have changed it since it was made.
    fields = route.model_dump(exclude={"vectors"}, warnings=False)
    try:
        again = Route.model_validate(fields)
    except ValueError as error:
        raise InvalidRoute(str(error)) from error
    if route.vectors is not None and len(route.vectors) != len(again.utterances):
        raise InvalidRoute(
            f"{len(route.vectors)} vectors for {len(again.utterances)} distinct utterances"
        )
    return again.model_copy(update={"vectors": route.vectors})


def checked_name(name: str) -> str:
    try:
        return check_name(name)
    except (TypeError, ValueError) as error:
        raise InvalidRoute(f"the route's name {error}") from error


def is_threshold(value: object) -> bool:
    """Whether a patch may carry this threshold."""
    if value is None or isinstance(value, Keep):
        return True
    return isinstance(value, int | float) and -1.0 <= value <= 1.0


def is_confidence(value: object) -> bool:
    """Whether a patch may carry this ``confidence_min``."""
    if value is None or isinstance(value, Keep):
        return True
    return isinstance(value, int | float) and 0.0 <= value <= 1.0


def checked_description(value: object) -> str | Keep | None:
    """Check and trim the description of a patch."""
    if value is None or isinstance(value, Keep):
        return value
    if not isinstance(value, str):
        raise InvalidRoute("description must be a text, or null")
    try:
        return check_text(value, UTTERANCE_BYTES_MAX)
    except ValueError as error:
        raise InvalidRoute(f"description {error}") from error


def checked_negatives(value: Sequence[str] | Keep) -> tuple[str, ...] | Keep:
    """Check and trim the negatives of a patch, and drop repeats."""
    if isinstance(value, Keep):
        return value
    if len(value) > NEGATIVES_MAX:
        raise InvalidRoute(f"a route has at most {NEGATIVES_MAX} negatives")
    return tuple(distinct_utterances(value, None)[0]) if value else ()


def distinct_utterances(
    utterances: Sequence[str], vectors: Sequence[Sequence[float]] | None
) -> tuple[list[str], list[Sequence[float]] | None]:
    """Check and trim utterances, and drop repeats with their vectors."""
    if isinstance(utterances, str) or not all(isinstance(text, str) for text in utterances):
        raise InvalidRoute("utterances must be a list of strings")
    if not 1 <= len(utterances) <= UTTERANCES_PER_ROUTE_CALL_MAX:
        raise InvalidRoute(
            f"1 to {UTTERANCES_PER_ROUTE_CALL_MAX} utterances are expected, got {len(utterances)}"
        )
    if vectors is not None and len(vectors) != len(utterances):
        raise InvalidRoute(f"{len(vectors)} vectors for {len(utterances)} utterances")
    kept: dict[str, int] = {}
    for index, text in enumerate(utterances):
        try:
            kept.setdefault(check_text(text, UTTERANCE_BYTES_MAX), index)
        except ValueError as error:
            raise InvalidRoute(f"utterance {index} {error}", index=index) from error
    chosen = None if vectors is None else [vectors[index] for index in kept.values()]
    return list(kept), chosen
