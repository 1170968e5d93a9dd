"""Change of the encoder of the whole cluster, step by step, by an operator.

generate  one node encodes every utterance with the new encoder and logs the vectors
trial     labelled texts are routed with both encoders; nothing changes
switch    every node switches at one position of the log; the former vectors are kept
drop      the vectors that are not in use are deleted, so there is no quick way back

To go back, switch to the former encoder.  No step interrupts queries or writes.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute_coordinator.app.gateway import ask_node, choose_node
from synaptoroute_coordinator.app.responses import (
    RESPONSES,
    ActionFailed,
    RequestModel,
    json_response,
    result_response,
)
from synaptoroute_coordinator.app.runtime import Runtime, actor_of, runtime_of
from synaptoroute_coordinator.fleet import FleetView, NodeView
from synaptoroute_coordinator.plan import choose_backup_source

TRIAL_TEXTS_MAX: Final = 2_000
Fingerprint = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", description="Fingerprint of the encoder.")
]

_NO_DETAILS: Final = {"dim": None, "max_tokens": None, "precision": ""}
"""Of an encoder that only nodes of an earlier release have."""

endpoints = APIRouter()


class EncoderAction(RequestModel):
    """One step of a change of the encoder."""

    step: Literal["generate", "switch", "drop"]
    encoder: Fingerprint


class LabelledText(RequestModel):
    """A text and the route it belongs to; null for none."""

    text: str = Field(min_length=1, max_length=32_768)
    route: str | None = Field(default=None, max_length=128)


class EncoderTrial(RequestModel):
    """Labelled texts for an encoder."""

    encoder: Fingerprint
    texts: list[LabelledText] = Field(min_length=1, max_length=TRIAL_TEXTS_MAX)


@endpoints.get("/v1/encoders", tags=["encoders"], summary="Show the encoders", responses=RESPONSES)
async def show_encoders(request: Request) -> Response:
    """Show the encoder that serves, the others that are loaded, and the staged vectors."""
    return json_response(await encoders_document(runtime_of(request)))


async def encoders_document(runtime: Runtime) -> dict[str, Any]:
    """Ask every live node and combine the answers."""
    view = runtime.reconciler.view
    documents = await runtime.ask_live("/-/generations")
    names: dict[str, str] = {}
    details: dict[str, dict[str, Any]] = {}
    staged: dict[str, dict[str, Any]] = {}
    for _, found in documents:
        names |= found.get("encoders", {})
        details |= found.get("details", {})
        # The staged vectors are the same on all nodes, but a node that is behind has fewer
        # of them: the largest number is the newest.
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
                **_NO_DETAILS,
                **details.get(encoder, {}),
                "is_serving": encoder == view.log.encoder,
                "serving_nodes": [n.name for n, _ in documents if n.encoder == encoder],
                "missing_nodes": [n.name for n in _needed(view) if encoder not in n.encoders],
                "vectors": staged.get(encoder, {}).get("vectors", 0),
                "missing_texts": staged.get(encoder, {}).get("missing_texts"),
            }
            for encoder in sorted(shown, key=lambda each: (each != view.log.encoder, each))
        ],
        "work": [
            {"node": node.name, **found["progress"]}
            for node, found in documents
            if found.get("progress", {}).get("step", "idle") != "idle"
        ],
        "cascades": [
            {"node": node.name, **found["cascade"]}
            for node, found in documents
            if "cascade" in found
        ],
        # The same on all nodes of a release; one of an earlier release tells none.
        "presets": max((found.get("presets", []) for _, found in documents), key=len, default=[]),
    }


def _needed(view: FleetView) -> tuple[NodeView, ...]:
    """Nodes that need an encoder before the cluster switches to it: live nodes and voters."""
    return tuple(node for node in view.nodes if node.is_live or node.node in view.log.voters)


@endpoints.post(
    "/v1/actions/encoder", tags=["actions"], summary="Change the encoder", responses=RESPONSES
)
async def change_encoder(request: Request, asked: EncoderAction) -> Response:
    """One step at a time; `/v1/encoders` shows the result."""
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
        await _check_staged(runtime, asked.encoder)
    node = choose_backup_source(view)
    if node is None:
        raise ActionFailed("no sound node is available now")
    reason = f"an operator asked to {asked.step} an encoder"
    result = await reconciler.command_node(
        asked.step, node.node, actor_of(request.scope), reason, encoder=asked.encoder
    )
    return result_response(result)


async def _check_staged(runtime: Runtime, encoder: str) -> None:
    found = await encoders_document(runtime)
    for each in found["encoders"]:
        if each["encoder"] == encoder and (each["is_serving"] or each["vectors"]):
            return
    raise ActionFailed("no vectors of this encoder are staged: generate them first")


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
    """Compare how often each encoder is right; nothing changes."""
    runtime = runtime_of(request)
    chosen = choose_node(runtime, node)
    body = asked.model_dump_json().encode()
    return await ask_node(runtime, chosen, "POST", "/-/generations/trial", body=body)
