"""An agent that asks SynaptoRoute's MCP server what a message is about, and acts on the answer.

The loop is scripted: where a language model would choose the tool, this program always calls
`route` first.  The calls, the protocol and the server are real.

    pip install 'synaptoroute-cluster[mcp]'
    python examples/mcp_agent/agent.py "where is my order" "write a poem about the sea"
"""

import asyncio
import os
import sys
from pathlib import Path

from mcp import Client, StdioServerParameters

ROUTES = Path(__file__).parents[1] / "routes.yaml"
ROUTER = StdioServerParameters(
    command=sys.executable,
    args=["-c", "from synaptoroute.cli import main; main()", "mcp", "--routes", str(ROUTES)],
    env=dict(os.environ),
)


def act(message: str, found: dict) -> str:
    """Answer of the agent: the tool that the route's payload names, or a question back."""
    if found["route"] is None:
        return "hand over to a person"
    if found["confidence"] < 0.6:
        return f"ask: is this about {found['route']}?"
    return f"call {found['payload']['tool']}"


async def main(messages: list[str]) -> None:
    async with Client(ROUTER) as client:
        tools = (await client.list_tools()).tools
        print("tools:", ", ".join(tool.name for tool in tools))
        for message in messages:
            answer = await client.call_tool("route", {"text": message})
            if answer.is_error:
                print(f"{message} -> {answer.content[0].text}")
                continue
            print(f"{message} -> {act(message, answer.structured_content)}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["where is my order", "write a poem about the sea"]))
