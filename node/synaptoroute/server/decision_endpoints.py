"""``POST /v1/decisions`` and ``POST /v1/systemone`` as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.server.decision_handler import OPENAI_PATH, SYSTEM_ONE_PATH, DecisionHandler
from synaptoroute.server.decision_schemas import DecisionResponse, SystemOneResponse
from synaptoroute.server.parameters import ReadingRoute
from synaptoroute.server.query_endpoints import Deadline
from synaptoroute.server.responses import QUERY_PROBLEMS, json_body, problems, success
from synaptoroute.web.problems import status_phrase

endpoints = APIRouter(route_class=ReadingRoute, tags=["decisions"])

_OPENAI_REQUEST = {
    "model": "default",
    "input": "I was charged twice",
    "questions": [
        {
            "type": "choice",
            "name": "intent",
            "instructions": "Which route?",
            "choices": [{"value": "billing"}, {"value": "sign-in"}, {"value": "none"}],
        }
    ],
}
_OPENAI_RESPONSE = {
    "object": "decision",
    "model": "default",
    "answers": [
        {
            "type": "choice",
            "name": "intent",
            "choice": "billing",
            "confidence": 0.93,
            "probabilities": [
                {"value": "billing", "probability": 0.93},
                {"value": "sign-in", "probability": 0.02},
                {"value": "none", "probability": 0.05},
            ],
        }
    ],
    "usage": {
        "input_tokens": 6,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 6,
    },
}
_SYSTEM_ONE_REQUEST = {
    "model": "default",
    "state": "I was charged twice",
    "questions": {
        "intent": {
            "type": "choice",
            "instructions": "Which route?",
            "criteria": {
                "billing": "refunds and charges",
                "sign-in": "access to an account",
                "none": "anything else",
            },
        }
    },
}
_SYSTEM_ONE_RESPONSE = {
    "model": "default",
    "answers": {
        "intent": {
            "type": "choice",
            "choice": "billing",
            "confidence": 0.93,
            "probabilities": {"billing": 0.93, "sign-in": 0.02, "none": 0.05},
        }
    },
    "usage": {"input_tokens": 6, "output_tokens": 0},
}


def _openai_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": "#/components/schemas/OpenAIError"}
    return {
        status: {
            "description": status_phrase(status),
            "content": {"application/json": {"schema": schema}},
        }
        for status in sorted(set(statuses))
    }


@endpoints.post(
    OPENAI_PATH,
    summary="Answer questions about an input (OpenAI's Decisions API)",
    responses={
        200: success(
            "One answer a question, in order",
            _OPENAI_RESPONSE,
            DecisionResponse,
            headers="SR-Version",
        ),
        **_openai_problems(404, *QUERY_PROBLEMS),
    },
    openapi_extra=json_body("DecisionRequest", _OPENAI_REQUEST),
)
async def decisions(request: Request, deadline: Deadline = None) -> Response:
    """Choose an option for each question. An option that has the name of a route is judged by
    that route's utterances; other options by their name and description.
    """
    del deadline  # declared for the document; the handler reads all headers itself
    handler: DecisionHandler = request.app.state.decision_handler
    return await handler.serve(request, OPENAI_PATH)


@endpoints.post(
    SYSTEM_ONE_PATH,
    summary="Answer questions about a state (System One)",
    responses={
        200: success(
            "One answer a question, by its name",
            _SYSTEM_ONE_RESPONSE,
            SystemOneResponse,
            headers="SR-Version",
        ),
        **problems(404, *QUERY_PROBLEMS),
    },
    openapi_extra=json_body("SystemOneRequest", _SYSTEM_ONE_REQUEST),
)
async def systemone(request: Request, deadline: Deadline = None) -> Response:
    """The same questions as `/v1/decisions` takes, in the other dialect."""
    del deadline
    handler: DecisionHandler = request.app.state.decision_handler
    return await handler.serve(request, SYSTEM_ONE_PATH)
