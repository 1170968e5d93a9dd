"""Routes by the LangChain runnable: sync, async, batches, messages, branches and tools.

Usage: langchain_routes.py URL, or the path of a route file for a router in this process.
"""

import asyncio
import json
import sys

import yaml
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from synaptoroute.integrations.langchain import RunnableSemanticRouter

TEXTS = ["I'd like to send my headphones back", "where is my order", "write a poem about the sea"]


@tool("returns")
def send_back(order: str) -> str:
    """Send an order back."""
    return order


@tool("order-status")
def order_status(order: str) -> str:
    """Say where an order is."""
    return order


@tool("sign-in")
def sign_in(user: str) -> str:
    """Help a user to sign in."""
    return user


TOOLS = [sign_in, order_status, send_back]


def name_of(match):
    return match if isinstance(match, str) else match.route


def failure_of(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return getattr(error, "code", type(error).__name__)
    return None


def inputs():
    prompt = ChatPromptTemplate.from_messages([("system", "x"), ("human", "{question}")])
    return [
        TEXTS[0],
        HumanMessage(TEXTS[0]),
        HumanMessage([{"type": "text", "text": TEXTS[0]}]),
        [SystemMessage("x"), HumanMessage("hello"), AIMessage("hi"), HumanMessage(TEXTS[0])],
        [("human", TEXTS[0]), ("ai", "where is my order")],
        {"messages": [{"role": "user", "content": TEXTS[0]}]},
        {"input": TEXTS[0]},
        prompt.invoke({"question": TEXTS[0]}),
    ]


def branches(router):
    return router.branch(
        {
            "returns": lambda text: f"returns: {text}",
            "order-status": RunnableLambda(lambda _: "tracking") | StrOutputParser(),
        },
        default=lambda _: "general",
    )


def sync(target):
    router = RunnableSemanticRouter(target)
    calls = []
    mixed = router.batch([TEXTS[0], " ", TEXTS[1]], return_exceptions=True)
    router.invoke(TEXTS[0], {"callbacks": [Recorder(calls)]})
    talk = [HumanMessage(TEXTS[0]), HumanMessage("and the other one")]
    with_context = RunnableSemanticRouter(target, context_turns_max=2, explain=True)
    return {
        "inputs": [router.invoke(each).route for each in inputs()],
        "batch": [match.route for match in router.batch(TEXTS)],
        "mixed": [getattr(each, "route", getattr(each, "code", "?")) for each in mixed],
        "branches": [branches(router).invoke(text) for text in TEXTS],
        "tools": [[t.name for t in router.select_tools(TOOLS).invoke(text)] for text in TEXTS],
        "one_tool": [t.name for t in router.select_tools(TOOLS, tools_max=1).invoke(TEXTS[0])],
        "piped": (router | name_of).invoke(TEXTS[1]),
        "refused": [failure_of(router.invoke, each) for each in ("", [AIMessage("x")], {"a": 1})],
        "batch_fails": failure_of(router.batch, [TEXTS[0], " "]),
        "context": with_context.invoke(talk).context_weight,
        "callbacks": calls,
        "schema": router.get_output_jsonschema()["title"],
    }


async def asynchronous(router):
    mixed = await router.abatch([TEXTS[0], " ", TEXTS[1]], return_exceptions=True)
    chosen = [await router.select_tools(TOOLS).ainvoke(text) for text in TEXTS]
    streamed = [match.route async for match in router.astream(TEXTS[0])]
    return {
        "inputs": [(await router.ainvoke(each)).route for each in inputs()],
        "batch": [match.route for match in await router.abatch(TEXTS)],
        "mixed": [getattr(each, "route", getattr(each, "code", "?")) for each in mixed],
        "branches": [await branches(router).ainvoke(text) for text in TEXTS],
        "tools": [[t.name for t in tools] for tools in chosen],
        "streamed": streamed,
    }


class Recorder(BaseCallbackHandler):
    def __init__(self, calls):
        self.calls = calls

    def on_chain_start(self, *_, **__):
        self.calls.append("start")

    def on_chain_end(self, outputs, **_):
        self.calls.append(outputs.route)


async def embedded(path):
    from synaptoroute import AdaptiveRouter, Encoder, Route

    with open(path) as file:
        routes = [Route.model_validate(each) for each in yaml.safe_load(file)["routes"]]
    encoder = Encoder(providers=["CPUExecutionProvider"])
    router = AdaptiveRouter(encoder)
    for route in routes:
        router.add_route(route)
    await router.start()
    found = {
        "sync": await asyncio.to_thread(sync, router),
        "async": await asynchronous(RunnableSemanticRouter(router)),
    }
    await router.stop()
    encoder.close()
    return found


async def of_cluster(url):
    from synaptoroute.client import AsyncClient, Client

    with Client(url) as client:
        found = {"sync": await asyncio.to_thread(sync, client)}
        found["async"] = await asynchronous(RunnableSemanticRouter(client))
    async with AsyncClient(url) as client:
        runnable = RunnableSemanticRouter(client)
        found["async_client"] = await asynchronous(runnable)
        found["sync_of_async_client"] = failure_of(runnable.invoke, TEXTS[0])
    return found


place = sys.argv[1]
result = of_cluster(place) if place.startswith("http") else embedded(place)
print(json.dumps(asyncio.run(result)))
