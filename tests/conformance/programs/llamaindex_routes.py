"""Chooses query engines of LlamaIndex by routes, sync and async, without a model.

Usage: llamaindex_routes.py URL, or the path of a route file for a router in this process.
"""

import asyncio
import json
import sys

import yaml
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import CustomQueryEngine, RouterQueryEngine
from llama_index.core.response_synthesizers import TreeSummarize
from llama_index.core.tools import QueryEngineTool, ToolMetadata

from synaptoroute.integrations.llamaindex import SemanticSelector

QUERIES = [
    "I'd like to send my headphones back",
    "where is my order",
    "write a poem about the sea",
]
NAMES = ["general", "order-status", "returns"]


class NamedEngine(CustomQueryEngine):
    name: str

    def custom_query(self, query_str: str) -> str:
        return f"{self.name}: {query_str}"


def tools():
    return [
        QueryEngineTool.from_defaults(NamedEngine(name=name), name=name, description=name)
        for name in NAMES
    ]


def engine_of(selector):
    return RouterQueryEngine(
        selector=selector,
        query_engine_tools=tools(),
        llm=MockLLM(),
        summarizer=TreeSummarize(llm=MockLLM()),
    )


def failure_of(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return getattr(error, "code", type(error).__name__)
    return None


def sync(router):
    engine = engine_of(SemanticSelector(router, default="general"))
    choices = [ToolMetadata(name=name, description=name) for name in NAMES]
    single = SemanticSelector(router).select(choices, QUERIES[0])
    several = SemanticSelector(router, selections_max=2).select(choices, QUERIES[0])
    nameless = [ToolMetadata(name=None, description="x")]
    return {
        "answers": [str(engine.query(query)) for query in QUERIES],
        "reason": single.reason,
        "several": [NAMES[each.index] for each in several.selections],
        "no_choice": failure_of(SemanticSelector(router).select, choices, QUERIES[2]),
        "nameless": failure_of(SemanticSelector(router).select, nameless, QUERIES[0]),
        "prompts": SemanticSelector(router).get_prompts(),
    }


async def asynchronous(router):
    engine = engine_of(SemanticSelector(router, default="general"))
    return [str(await engine.aquery(query)) for query in QUERIES]


async def embedded(path):
    from synaptoroute import AdaptiveRouter, Encoder, Route

    with open(path) as file:
        routes = [Route.model_validate(each) for each in yaml.safe_load(file)["routes"]]
    encoder = Encoder(providers=["CPUExecutionProvider"])
    router = AdaptiveRouter(encoder)
    for route in routes:
        router.add_route(route)
    await router.start()
    found = {"sync": await asyncio.to_thread(sync, router), "async": await asynchronous(router)}
    await router.stop()
    encoder.close()
    return found


async def of_cluster(url):
    from synaptoroute.client import AsyncClient, Client

    with Client(url) as client:
        found = {"sync": await asyncio.to_thread(sync, client)}
    async with AsyncClient(url) as client:
        found["async"] = await asynchronous(client)
    return found


place = sys.argv[1]
result = of_cluster(place) if place.startswith("http") else embedded(place)
print(json.dumps(asyncio.run(result)))
