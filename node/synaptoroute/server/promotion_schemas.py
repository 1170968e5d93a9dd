"""Bodies of requests about tests, comparisons and promotions of route sets."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field, field_validator

from synaptoroute.core.names import is_set_name
from synaptoroute.models import NAME_CHARACTERS_MAX, Name, Utterance, normal_name
from synaptoroute.router.erasure import ERASED_AT_ONCE
from synaptoroute.router.promotion import Gate
from synaptoroute.router.set_diff import DIFF_TEXTS_MAX
from synaptoroute.router.set_tests import RUN_TEXTS_MAX
from synaptoroute.server.parameters import VERSION_PATTERN
from synaptoroute.server.schemas import QueryText, RequestModel

TESTS_MAX: Final = RUN_TEXTS_MAX


def _checked_set_name(name: str) -> str:
    normal = normal_name(name)
    if not is_set_name(normal):
        raise ValueError("is not the name of a route set or an alias")
    return normal


SetName = Annotated[
    str,
    Field(description="Name of a route set.", min_length=1, max_length=NAME_CHARACTERS_MAX),
    AfterValidator(_checked_set_name),
]


class TestBody(RequestModel):
    """A labelled query."""

    __test__ = False

    text: Utterance
    route: Name | None = Field(description="The route that is right; null for no route.")


class TestsBody(RequestModel):
    """The tests of a route set; those that it does not name are removed."""

    __test__ = False

    tests: list[TestBody] = Field(max_length=TESTS_MAX)


class TestsPatch(RequestModel):
    """Tests to add, replace and remove; the others stay."""

    __test__ = False

    tests: list[TestBody] = Field(default_factory=list, max_length=TESTS_MAX)
    removed: list[Utterance] = Field(
        default_factory=list, max_length=TESTS_MAX, description="Texts of tests to remove."
    )


class EvaluationRequest(RequestModel):
    """Labelled queries to ask instead of the tests of the set."""

    texts: list[TestBody] | None = Field(default=None, max_length=RUN_TEXTS_MAX)


class DiffText(RequestModel):
    """A text to ask both sets."""

    text: QueryText
    route: Name | None = Field(
        default=None, description="The route that is right; null for none, absent if unknown."
    )


class DiffRequest(RequestModel):
    """Two route sets, or aliases, to compare."""

    from_set: SetName = Field(alias="from")
    to_set: SetName = Field(alias="to")
    texts: list[DiffText] | None = Field(
        default=None,
        max_length=DIFF_TEXTS_MAX,
        description="Texts to ask both; without them the tests of both sets.",
    )


class AliasBody(RequestModel):
    """What an alias is to name, and what the set must meet before it answers."""

    route_set: SetName = Field(alias="set", description="The set that answers.")
    shadow: SetName | None = Field(
        default=None, description="A set that is asked as well and answers nothing."
    )
    shadow_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of the queries that the shadow is asked."
    )
    canary: SetName | None = Field(
        default=None, description="A set that answers a share of the sessions."
    )
    canary_share: float = Field(default=0.0, ge=0, le=1, description="Share of the sessions.")
    gate: Gate | None = Field(
        default=None, description="409 `gate_failed` with the evidence where it is not met."
    )


class RollbackRequest(RequestModel):
    """Which earlier state of an alias to restore."""

    version: str | None = Field(
        default=None,
        pattern=VERSION_PATTERN,
        description="The change since which the alias named it; without it, the state before "
        "the last change.",
    )


class EraseRequest(RequestModel):
    """Texts to erase from every route set."""

    texts: list[QueryText] = Field(min_length=1, max_length=ERASED_AT_ONCE)

    @field_validator("texts")
    @classmethod
    def _distinct(cls, texts: list[str]) -> list[str]:
        return list(dict.fromkeys(texts))
