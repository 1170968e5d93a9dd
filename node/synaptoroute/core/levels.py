"""Feature levels: what a log must have reached to hold a mutation.

A release writes nothing of a level that the log has not reached, so that the release before can
follow it until ``cluster finalize``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from synaptoroute.core.imports import staged_kind
from synaptoroute.core.mutation import (
    DEFAULT_UNMATCHED_SHARE,
    KEEP,
    AddUtterances,
    CalibrateDecision,
    CommitPlan,
    DeleteRoute,
    EraseTexts,
    Finalize,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    PatchRoute,
    Proposal,
    PutFeedback,
    PutRoute,
    PutSettings,
    PutTests,
    RemoveUtterances,
    ReviseRoutes,
    SetMutation,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.names import needs_names_level

BASE_LEVEL: Final = 1  # Level of entries without anything newer; every release reads them
AUTHORS_LEVEL: Final = 2  # Level of entries with an author, and of staged writes
VOTES_LEVEL: Final = 3  # Level of entries that carry signed votes
DECISION_LEVEL: Final = 3  # Level of entries with fields of decisions
NAMES_LEVEL: Final = 4  # Level of entries that name a route in letters beyond ASCII
SETS_LEVEL: Final = 5  # Level of entries that name a route set, or carry a note


def level_of(mutation: Mutation) -> int:
    """Feature level that a log needs to hold a mutation.

    An entry has the lowest level that covers all that it says, so entries without new fields
    keep the bytes that they have in earlier releases.
    """
    # A release that does not know the level of the log must stop before the entry that sets it.
    if isinstance(mutation, Finalize):
        return max(mutation.level, AUTHORS_LEVEL)
    if isinstance(mutation, OpenEpoch):
        lowest = VOTES_LEVEL if mutation.votes or mutation.warrant else BASE_LEVEL
        return max(mutation.level, lowest)
    # Releases that know only level 1 would commit it as an import, without its preconditions.
    if isinstance(mutation, ImportCommit) and staged_kind(mutation.import_id) is not None:
        return AUTHORS_LEVEL
    return _content_level(mutation)


def may_hold(level: int, proposal: Proposal) -> bool:
    """Whether a log at a level may hold a proposal; entries that raise the level always."""
    if level < SETS_LEVEL and (proposal.route_set or proposal.note):
        return False
    return is_at_level(proposal.mutation, level)


def is_at_level(mutation: Mutation, level: int) -> bool:
    """Whether a log at a level may hold a mutation; entries that raise the level always."""
    if level >= SETS_LEVEL or isinstance(mutation, Finalize | OpenEpoch):
        return True
    return _content_level(mutation) <= level


def said_at(level: int, mutation: Mutation) -> Mutation:
    """Say it as a log at this level can: below level 5, a cascade is on or not mentioned."""
    if level >= SETS_LEVEL:
        return mutation
    match mutation:
        case PutSettings(settings) if settings.cascade is False:
            return PutSettings(replace(settings, cascade="auto"))
        case ReviseRoutes(settings=settings) if settings is not None and settings.cascade is False:
            return replace(mutation, settings=replace(settings, cascade="auto"))
        case _:
            return mutation


def _content_level(mutation: Mutation) -> int:
    if isinstance(mutation, SetMutation | PutTests | CommitPlan | EraseTexts):
        return SETS_LEVEL
    if isinstance(mutation, PutSettings | ReviseRoutes):
        settings = mutation.settings
        if settings is not None and settings.cascade is False:  # earlier releases do not say it
            return SETS_LEVEL
    if any(map(needs_names_level, _names(mutation))):
        return NAMES_LEVEL
    return DECISION_LEVEL if _is_of_decisions(mutation) else BASE_LEVEL


def _names(mutation: Mutation) -> tuple[str, ...]:
    """The routes that a mutation names."""
    match mutation:
        case PutRoute() | DeleteRoute() | AddUtterances() | RemoveUtterances() | PatchRoute():
            return (mutation.name,)
        case ImportChunk(parts=parts):
            return tuple(part.name for part in parts)
        case ReviseRoutes(routes=routes):
            return tuple(route.name for route in routes)
        case PutFeedback(route=route, was=was):
            return tuple(name for name in (route, was) if name is not None)
        case _:
            return ()


def _is_of_decisions(mutation: Mutation) -> bool:
    """Whether a mutation says something that only level 3 knows."""
    match mutation:
        case PutRoute(confidence_min=None, description=None, negatives=()):
            return False
        case PutRoute():
            return True
        case ImportChunk(parts=parts):
            return any(map(_is_of_decisions, parts))
        case PatchRoute():
            changed = (mutation.confidence_min, mutation.description, mutation.negatives)
            return changed != (KEEP, KEEP, KEEP)
        case PutSettings(settings):
            new = (settings.confidence_min, settings.expected_unmatched_share, settings.ignore)
            return (
                new != (None, DEFAULT_UNMATCHED_SHARE, ())
                or bool(settings.feedback)
                or settings.repair_words
                or settings.threshold is None
                or settings.aggregation == "adaptive"
            )
        case CalibrateDecision() | PutFeedback() | ReviseRoutes():
            return True
        case VoterAdd(name) | VoterRemove(name):
            return mutation not in (VoterAdd(name), VoterRemove(name))
        case _:
            return False
