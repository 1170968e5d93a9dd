"""Calls tools of a slow backend at once, without a transport; prints what came back."""

import asyncio
import json
from types import SimpleNamespace

import mcp_types as types

from synaptoroute.integrations.mcp_server import ToolCalls
from synaptoroute.models import Match
from synaptoroute.web.logs import server_log


class SlowBackend:
    def __init__(self):
        self.may_answer = asyncio.Event()

    async def query(self, text, **options):
        await self.may_answer.wait()
        if text == "break":
            raise RuntimeError("a secret of the server")
        return Match(route=None, reason="no_routes", version="1.0")

    async def writer(self):
        raise AssertionError("nobody asks for it")


async def run():
    backend = SlowBackend()
    calls = ToolCalls(backend, server_log(), calls_max=2)
    context = SimpleNamespace(request=None)

    def call(text):
        asked = types.CallToolRequestParams(name="route", arguments={"text": text})
        return asyncio.create_task(calls.call(context, asked))

    running = [call("one"), call("break")]
    await asyncio.sleep(0)
    refused = await call("three")
    backend.may_answer.set()
    answers = [*(await asyncio.gather(*running)), refused, await call("four")]
    return [(each.is_error, each.structured_content) for each in answers]


print(json.dumps(asyncio.run(run())))
