"""Runs a plan against an MCP server with the SDK's client, and prints what came back.

Usage: mcp_client.py PLAN, a JSON object: `command` and `environment` of a server to start, or its
`url` and `headers`; `mode` of the client; `calls`, each a tool and its arguments; `at_once`.
"""

import asyncio
import json
import sys

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client


def server_of(plan):
    if "url" in plan:
        http = httpx2.AsyncClient(headers=plan.get("headers"), timeout=30, trust_env=False)
        return streamable_http_client(plan["url"], http_client=http)
    command, *arguments = plan["command"]
    return StdioServerParameters(command=command, args=arguments, env=plan["environment"])


async def call(client, asked):
    found = await client.call_tool(asked["tool"], asked["arguments"])
    return {
        "is_error": found.is_error,
        "structured": found.structured_content,
        "text": found.content[0].text,
    }


async def run(plan):
    async with Client(server_of(plan), mode=plan.get("mode", "auto")) as client:
        listed = (await client.list_tools()).tools
        calls = [call(client, asked) for asked in plan.get("calls", ())]
        if plan.get("at_once"):
            answers = await asyncio.gather(*calls)
        else:
            answers = [await each for each in calls]
        return {
            "server": client.server_info.name,
            "protocol": client.protocol_version,
            "instructions": client.instructions,
            "tools": {
                tool.name: {
                    "read_only": tool.annotations.read_only_hint,
                    "destructive": tool.annotations.destructive_hint,
                    "arguments": sorted(tool.input_schema["properties"]),
                    "results": sorted(tool.output_schema["properties"]),
                }
                for tool in listed
            },
            "answers": answers,
        }


print(json.dumps(asyncio.run(run(json.loads(sys.argv[1])))))
