"""A LlamaIndex selector: a ``RouterQueryEngine`` chooses its tool by routes, without a model.

engine = RouterQueryEngine(
    selector=SemanticSelector(Client("http://node:8080"), default="general"),
    query_engine_tools=tools,
)
"""

# LlamaIndex is an extra, which the environment of the type checkers does not have.
# pyright: reportMissingImports=false, reportInvalidTypeForm=false
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from synaptoroute.errors import InvalidQuery, RouteError
from synaptoroute.integrations.asking import Asker
from synaptoroute.integrations.extras import MissingExtra
from synaptoroute.models import Match

try:
    from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
    from llama_index.core.schema import QueryBundle
    from llama_index.core.tools import ToolMetadata
except ImportError as error:
    raise MissingExtra("llamaindex", error.name) from error

if TYPE_CHECKING:
    from synaptoroute.integrations.asking import Router


class NoChoice(RouteError):
    """No route matched, and the selector has no default."""

    code = "no_choice"


class SemanticSelector(BaseSelector):
    """Selects the choice whose name is the route of the query.

    Args:
        router: An ``AdaptiveRouter``, a ``Client`` or an ``AsyncClient``; the last one answers
            ``aselect`` only.
        default: Name of the choice for a query without a route; None raises ``NoChoice``.
        selections_max: Most choices of one query.  More than one are those of the best routes;
            a ``RouterQueryEngine`` then needs a summarizer.
    """

    def __init__(
        self, router: Router, *, default: str | None = None, selections_max: int = 1
    ) -> None:
        if selections_max < 1:
            raise InvalidQuery("selections_max is at least 1")
        self._asker = Asker(router)
        self._default = default
        self._selections_max = selections_max

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        names = _names_of(choices)
        return self._result(names, self._asker.query(query.query_str, **self._options(names)))

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        names = _names_of(choices)
        match = await self._asker.aquery(query.query_str, **self._options(names))
        return self._result(names, match)

    def _options(self, names: Sequence[str]) -> dict[str, Any]:
        # One candidate is not listed.
        return {"routes": list(dict.fromkeys(names)), "limit": max(2, self._selections_max)}

    def _result(self, names: Sequence[str], match: Match) -> SelectorResult:
        if match.route is None:
            if self._default not in names:
                raise NoChoice(f"no route for the query ({match.reason}), and no default choice")
            reason = f"no route: {match.reason}"
            return _selected([(names.index(self._default), reason)])
        best = (match.candidates or [])[: self._selections_max]
        return _selected(
            [
                (
                    names.index(each.route),
                    f"route {each.route}, confidence {each.confidence or 0:.2f}, "
                    f"nearest example: {each.utterance}",
                )
                for each in best
            ]
        )

    def _get_prompts(self) -> dict[str, Any]:
        return {}  # It asks no model.

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        """Ignore prompts."""


def _names_of(choices: Sequence[ToolMetadata]) -> list[str]:
    names = [choice.name for choice in choices]
    if None in names:
        raise InvalidQuery("every choice needs a name, which is that of its route")
    return [str(name) for name in names]


def _selected(found: Sequence[tuple[int, str]]) -> SelectorResult:
    selections = [SingleSelection(index=index, reason=reason) for index, reason in found]
    return SelectorResult(selections=selections)
