"""Write the result of ``tools/list`` of a server made with MCP's own SDK; print its tools.

write_mcp_tools.py FOLDER
"""

import asyncio
import json
import sys
from pathlib import Path

import mcp.types as types

try:
    from mcp.server import MCPServer
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer

server = MCPServer("weather")


@server.tool(title="Weather of a city")
def get_weather(city: str, days: int = 1) -> str:
    """Get the weather forecast. Up to ten days."""
    return city


@server.tool(name="reiseplan/erstellen")
def plan(start: str) -> list[str]:
    """Plan a journey by train."""
    return [start]


async def main(folder: Path) -> None:
    listed = await server.list_tools()
    tools = getattr(listed, "tools", listed)
    result = types.ListToolsResult(tools=tools).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    (folder / "tools.json").write_text(json.dumps(result))
    message = {"jsonrpc": "2.0", "id": 1, "result": result}
    (folder / "message.json").write_text(json.dumps(message))
    print(json.dumps([each.name for each in tools]))


asyncio.run(main(Path(sys.argv[1])))
