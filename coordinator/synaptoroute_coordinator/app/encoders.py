"""Changing the encoder of the whole cluster, step by step, by an operator's order.

generate  one node makes the vectors of every utterance and logs them
trial     labelled texts are sent through both encoders; nothing changes
switch    every node changes at one place of the log; the former vectors are kept
drop      what is kept is forgotten: there is no quick way back any more

The way back is a switch to the former encoder.  No step stops a query or a write.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute_coordinator.app.gateway import ask_node, choose_node
from synaptoroute_coordinator.app.middleware import actor_of
from synaptoroute_coordinator.app.responses import (
    RESPONSES,
    ActionFailed,
    json_response,
    result_response,
)
from synaptoroute_coordinator.app.runtime import Runtime, runtime_of
from synaptoroute_coordinator.fleet import FleetView, NodeView
from synaptoroute_coordinator.plan import choose_backup_source
from synaptoroute_coordinator.reconciler import new_order

TRIAL_TEXTS_MAX: Final = 2_000
Fingerprint = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", description="Fingerprint of the encoder.")
]

endpoints = APIRouter()


class EncoderAction(BaseModel):
    """One step of a change of the encoder."""

    model_config = ConfigDict(extra="forbid")

    step: Literal["generate", "switch", "drop"]
    encoder: Fingerprint


class LabelledText(BaseModel):
    """A text and the route that it belongs to; null for none."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=32_768)
    route: str | None = Field(default=None, max_length=128)


class EncoderTrial(BaseModel):
    """Labelled texts for an encoder."""

    model_config = ConfigDict(extra="forbid")

    encoder: Fingerprint
    texts: list[LabelledText] = Field(min_length=1, max_length=TRIAL_TEXTS_MAX)


@endpoints.get("/v1/encoders", tags=["encoders"], summary="Show the encoders", responses=RESPONSES)
async def show_encoders(request: Request) -> Response:
    """Which encoder serves, which others every node has loaded, and what is staged of them."""
    return json_response(await encoders_document(runtime_of(request)))


async def encoders_document(runtime: Runtime) -> dict[str, Any]:
    """Ask every live node and put their answers together."""
    reconciler = runtime.reconciler
    view = reconciler.view
    live = [node for node in view.live if node.url]
    said = await reconciler.client.documents(
        [(node.node, node.url) for node in live], "/-/generations"
    )
    names: dict[str, str] = {}
    staged: dict[str, dict[str, Any]] = {}
    for found in said.values():
        names |= found.get("encoders", {})
        # What is staged is one state on all nodes; a node that is behind knows less of it.
        for each in found.get("staged", []):
            known = staged.get(each["encoder"])
            if known is None or each["vectors"] > known["vectors"]:
                staged[each["encoder"]] = each
    shown = {*names, *staged, *([view.log.encoder] if view.log.encoder else [])}
    return {
        "serving": view.log.encoder,
        "encoders": [
            {
                "encoder": encoder,
                "name": names.get(encoder, ""),
                "is_serving": encoder == view.log.encoder,
                "serving_nodes": [n.name for n in live if n.encoder == encoder],
                "missing_nodes": [n.name for n in _needed(view) if encoder not in n.encoders],
                "vectors": staged.get(encoder, {}).get("vectors", 0),
                "missing_texts": staged.get(encoder, {}).get("missing_texts"),
            }
            for encoder in sorted(shown, key=lambda each: (each != view.log.encoder, each))
        ],
        "work": [
            {"node": node.name, **said[node.node]["progress"]}
            for node in live
            if said.get(node.node, {}).get("progress", {}).get("step", "idle") != "idle"
        ],
    }


def _needed(view: FleetView) -> tuple[NodeView, ...]:
    """Nodes that must have an encoder before the cluster changes to it: live ones, and voters."""
    return tuple(node for node in view.nodes if node.is_live or node.node in view.log.voters)


@endpoints.post(
    "/v1/actions/encoder", tags=["actions"], summary="Change the encoder", responses=RESPONSES
)
async def change_encoder(request: Request, asked: EncoderAction) -> Response:
    """One step at a time; the outcome is shown by `/v1/encoders`."""
    runtime = runtime_of(request)
    reconciler = runtime.reconciler
    view = reconciler.view
    if asked.step != "drop":
        lacking = [node.name for node in _needed(view) if asked.encoder not in node.encoders]
        if lacking:
            raise ActionFailed(
                f"these nodes do not have the encoder: {', '.join(lacking[:8])}; "
                "start them with next_model set to it"
            )
    if asked.step == "switch":
        await _check_whole(runtime, asked.encoder)
    node = choose_backup_source(view)
    if node is None:
        raise ActionFailed("no sound node could do it now")
    reason = f"an operator asked to {asked.step} an encoder"
    order = new_order(asked.step, reason, reconciler.now_ms(), encoder=asked.encoder)
    return result_response(await reconciler.command_node(order, node.node, actor_of(request.scope)))


async def _check_whole(runtime: Runtime, encoder: str) -> None:
    """Refuse to switch to what was never generated; the last few texts are made up for.

    Raises:
        ActionFailed: Nothing is staged of it.
    """
    found = await encoders_document(runtime)
    for each in found["encoders"]:
        if each["encoder"] == encoder and (each["is_serving"] or each["vectors"]):
            return
    raise ActionFailed("nothing is staged of this encoder: generate its vectors first")


@endpoints.post(
    "/v1/encoders/trial",
    tags=["encoders"],
    summary="Try an encoder on labelled texts",
    responses=RESPONSES,
)
async def try_encoder(
    request: Request,
    asked: EncoderTrial,
    node: Annotated[str, Query(description="Identity or name of the node to ask.")] = "",
) -> Response:
    """How often either encoder is right; nothing is changed."""
    runtime = runtime_of(request)
    chosen = choose_node(runtime, node)
    body = asked.model_dump_json().encode()
    return await ask_node(runtime, chosen, "POST", "/-/generations/trial", body=body)
