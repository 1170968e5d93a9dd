"""A generator that is not ours makes clients from the OpenAPI documents without a warning."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from environments import run_program
from http_node import http_node, on_socket
from repository import ROOT
from synaptoroute_coordinator.app.app import create_app, make_runtime
from synaptoroute_coordinator.config import CoordinatorConfig

CONFIG = ROOT / "clients" / "openapi-python-client.yaml"


async def test_generated_client_routes_a_text(tmp_path: Path) -> None:
    """The generated client writes a route, queries it and reads a problem document."""
    coordinator = tmp_path / "coordinator.json"
    coordinator.write_text(json.dumps(create_app(make_runtime(CoordinatorConfig())).openapi()))
    folder = tmp_path / "generated"
    folder.mkdir()
    async with http_node(tmp_path / "node") as node, on_socket(node) as client:
        document = tmp_path / "node.json"
        document.write_text((await client.get("/v1/openapi.json")).text)
        arguments = [str(client.base_url), document, coordinator, CONFIG, folder]
        found = await asyncio.to_thread(
            run_program, "generator", "generated_client.py", [str(each) for each in arguments]
        )

    for name, said in found["said"].items():
        assert (0, False) == (said["code"], "WARNING" in said["output"].upper()), (name, said)
    assert (201, "generated") == (found["written"], found["route"])
    assert "route_not_found" == found["missing"]
