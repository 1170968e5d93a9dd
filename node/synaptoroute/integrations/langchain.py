"""A LangChain runnable that routes texts and messages, and chooses branches and tools.

router = RunnableSemanticRouter(Client("http://node:8080"))
chain = router.branch({"billing": billing_chain}, default=general_chain)
"""

# LangChain is an extra, which the environment of the type checkers does not have.
# pyright: reportMissingImports=false, reportInvalidTypeForm=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from synaptoroute.errors import InvalidQuery, RouteError
from synaptoroute.integrations.asking import Asker, is_of_the_text
from synaptoroute.integrations.extras import MissingExtra
from synaptoroute.models import CONTEXT_TURNS_MAX, Match

try:
    from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
    from langchain_core.prompt_values import PromptValue
    from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
    from langchain_core.runnables.base import RunnableLike, coerce_to_runnable
    from langchain_core.tools import BaseTool
except ImportError as error:
    raise MissingExtra("langchain", error.name) from error

if TYPE_CHECKING:
    from synaptoroute.integrations.asking import Router

RouterInput: TypeAlias = str | BaseMessage | PromptValue | Sequence[Any] | Mapping[str, Any]
"""A text, a message, a prompt, messages, or a state with ``messages`` or ``input``."""
TOOLS_MAX: Final = 3


class RunnableSemanticRouter(Runnable[RouterInput, Match]):
    """Routes the last human message of its input; the output is a ``Match``.

    Args:
        router: An ``AdaptiveRouter``, a ``Client`` or an ``AsyncClient``; the last one answers
            ``ainvoke`` and ``abatch`` only.
        routes: Choose among these routes only.
        explain: Whether the matches list candidates.
        context_turns_max: How many earlier human messages count as context, 0 to 8.
    """

    def __init__(
        self,
        router: Router,
        *,
        routes: Sequence[str] | None = None,
        explain: bool = False,
        context_turns_max: int = 0,
    ) -> None:
        if not 0 <= context_turns_max <= CONTEXT_TURNS_MAX:
            raise InvalidQuery(f"context_turns_max is 0 to {CONTEXT_TURNS_MAX}")
        self._asker = Asker(router)
        self._options = {"routes": routes, "explain": explain}
        self._context_turns_max = context_turns_max

    # --- Runnable ------------------------------------------------------------------------

    def invoke(self, input: RouterInput, config: RunnableConfig | None = None, **_: Any) -> Match:
        """Route one input."""
        found: Match = self._call_with_config(self._route, input, config)
        return found

    async def ainvoke(
        self, input: RouterInput, config: RunnableConfig | None = None, **_: Any
    ) -> Match:
        """Route one input."""
        found: Match = await self._acall_with_config(self._aroute, input, config)
        return found

    def batch(
        self,
        inputs: list[RouterInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **_: Any,
    ) -> list[Match]:
        """Route many inputs, in one call of the router if they have no context."""
        found: list[Match] = self._batch_with_config(
            self._route_all, inputs, config, return_exceptions=return_exceptions
        )
        return found

    async def abatch(
        self,
        inputs: list[RouterInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **_: Any,
    ) -> list[Match]:
        """Route many inputs, in one call of the router if they have no context."""
        found: list[Match] = await self._abatch_with_config(
            self._aroute_all, inputs, config, return_exceptions=return_exceptions
        )
        return found

    # --- what is made of it --------------------------------------------------------------

    def branch(
        self, branches: Mapping[str, RunnableLike], default: RunnableLike
    ) -> Runnable[RouterInput, Any]:
        """Make a runnable that passes its input on to the branch of its route.

        Args:
            branches: What follows, by the name of a route.
            default: What follows if no route matches, or one without a branch.
        """
        chosen = {name: coerce_to_runnable(each) for name, each in branches.items()}
        otherwise = coerce_to_runnable(default)

        def follow(input: RouterInput, config: RunnableConfig) -> Any:
            return chosen.get(self.invoke(input, config).route or "", otherwise)

        async def afollow(input: RouterInput, config: RunnableConfig) -> Any:
            match = await self.ainvoke(input, config)
            return chosen.get(match.route or "", otherwise)

        return RunnableLambda(follow, afollow, name="SemanticRouterBranch")

    def select_tools(
        self, tools: Sequence[BaseTool], *, tools_max: int = TOOLS_MAX
    ) -> Runnable[RouterInput, list[BaseTool]]:
        """Make a runnable that chooses the tools for an input, to be bound to a model.

        A tool belongs to the route of its name.  If one of the routes matches, the output is the
        tools of the best routes, best first; if none does, it is empty.

        Args:
            tools: All tools.
            tools_max: Most tools of an output.
        """
        by_route = {tool.name: tool for tool in tools}
        # One candidate is not listed.
        options = {"routes": list(by_route), "limit": max(2, tools_max)}

        def chosen(match: Match) -> list[BaseTool]:
            if match.route is None:
                return []
            return [by_route[each.route] for each in match.candidates or []][:tools_max]

        def select(input: RouterInput) -> list[BaseTool]:
            text, context = self._read(input)
            return chosen(self._asker.query(text, context=context, **options))

        async def aselect(input: RouterInput) -> list[BaseTool]:
            text, context = self._read(input)
            return chosen(await self._asker.aquery(text, context=context, **options))

        return RunnableLambda(select, aselect, name="SemanticRouterTools")

    # --- queries -------------------------------------------------------------------------

    def _route(self, input: RouterInput) -> Match:
        text, context = self._read(input)
        return self._asker.query(text, context=context, **self._options)

    async def _aroute(self, input: RouterInput) -> Match:
        text, context = self._read(input)
        return await self._asker.aquery(text, context=context, **self._options)

    def _route_all(self, inputs: list[RouterInput]) -> list[Match | Exception]:
        texts = self._texts_of(inputs)
        if texts is not None:
            try:
                return list(self._asker.query_batch(texts, **self._options))
            except Exception as error:
                if not is_of_the_text(error):
                    return [error] * len(inputs)
        # One refused text fails a whole batch: ask for each, so that the others get a match.
        found: list[Match | Exception] = []
        for each in inputs:
            try:
                found.append(self._route(each))
            except Exception as error:
                found.append(error)
        return found

    async def _aroute_all(self, inputs: list[RouterInput]) -> list[Match | Exception]:
        texts = self._texts_of(inputs)
        if texts is not None:
            try:
                return list(await self._asker.aquery_batch(texts, **self._options))
            except Exception as error:
                if not is_of_the_text(error):
                    return [error] * len(inputs)
        found: list[Match | Exception] = []
        for each in inputs:
            try:
                found.append(await self._aroute(each))
            except Exception as error:
                found.append(error)
        return found

    def _texts_of(self, inputs: Sequence[RouterInput]) -> list[str] | None:
        """The texts, if all can be read and none has a context."""
        try:
            read = [self._read(each) for each in inputs]
        except RouteError:
            return None
        return None if any(context for _, context in read) else [text for text, _ in read]

    def _read(self, input: RouterInput) -> tuple[str, list[str]]:
        """The text to route, and the turns before it."""
        if isinstance(input, str):
            return input, []
        turns = [message.text for message in _messages_of(input) if _is_human(message)]
        if not turns:
            raise InvalidQuery("the input has no human message")
        *earlier, text = map(str, turns)
        earlier = [turn for turn in earlier if turn.strip()]
        return text, earlier[-self._context_turns_max :] if self._context_turns_max else []


def _messages_of(input: Any) -> list[BaseMessage]:
    if isinstance(input, BaseMessage):
        return [input]
    if isinstance(input, PromptValue):
        return list(input.to_messages())
    if isinstance(input, Mapping):
        found = input.get("messages", input.get("input"))
        if found is None:
            raise InvalidQuery("a mapping needs the key 'messages' or 'input'")
        return [HumanMessage(found)] if isinstance(found, str) else _messages_of(found)
    return list(convert_to_messages(input))


def _is_human(message: BaseMessage) -> bool:
    return bool(message.type == "human")
